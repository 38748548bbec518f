"""Complete, atomic checkpoints: tensors as safetensors, the rest as JSON, no pickle.

checkpoint-N/
    state.json            everything that is no tensor, with a marker in each tensor's place
    state.safetensors     the tensors, by their path in the state; of a sharded model shard-*.safetensors
    complete              written last of all, before the folder is renamed into place
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from entprog.core.processes import by_first, first
from entprog.core.sharded import is_sharded
from entprog.savings.adapters import plain_parameters
from entprog.train.checkpoint_tensors import flush, read_tensors, write_shards, write_whole

FORMAT = 3
MARK = "__tensor__"


def save_checkpoint(run: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` as run/checkpoint-`step`: to a temporary folder, flushed to disk, then renamed.

    Of several processes the first writes, and of sharded tensors each its own part; all must call this.

    Raises:
        OSError: the disk is full or the folder cannot be written; earlier checkpoints are not changed.
    """
    final, partial = run / f"checkpoint-{step}", run / f".checkpoint-{step}.partial"
    tensors: dict[str, Tensor] = {}
    plain = _split({"format": FORMAT, **state}, "", tensors)
    sharded = any(is_sharded(tensor) for tensor in tensors.values())

    def begin() -> None:
        for left in run.glob(".checkpoint-*.partial"):  # of a run that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        if not sharded:
            write_whole(tensors, partial)

    def end() -> None:
        for file in partial.glob("*.safetensors"):
            flush(file)
        _write(partial / "state.json", json.dumps(plain))
        _write(partial / "complete", f"{step}\n")
        _put_back(run)
        old = run / f".checkpoint-{step}.old"
        if final.exists():
            final.rename(old)
        partial.rename(final)
        flush(run)
        shutil.rmtree(old, ignore_errors=True)

    try:
        by_first(begin)
        if sharded:
            write_shards(tensors, partial)
        by_first(end)
    except (OSError, SafetensorError) as error:
        if first():
            _put_back(run)
            shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"checkpoint-{step} could not be written to {run} ({error}); earlier checkpoints are intact. "
            "Free some space and go on with --resume-from-checkpoint latest"
        ) from error
    return final


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint without its tensors: markers in their places, and "path", the folder.

    Raises:
        ValueError: no checkpoint, or one of another program or version.
    """
    if not (path / "complete").is_file() or not (path / "state.json").is_file():
        raise ValueError(f"resume_from_checkpoint = {str(path)!r}: no complete checkpoint of entprog there")
    try:
        plain = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise ValueError(
            f"resume_from_checkpoint = {str(path)!r}: not in format {FORMAT} of this version; finish the run with the "
            "version that began it, or train again"
        )
    return {**plain, "path": str(path)}


def load_checkpoint(path: Path, model: nn.Module | None = None) -> dict[str, Any]:
    """Read a checkpoint back, as it was given to `save_checkpoint`.

    Args:
        model: where it is sharded, so are the tensors of its parameters; all processes must call this then.

    Raises:
        ValueError: no checkpoint, one of another program or version, or a truncated one.
    """
    plain = read_state(path)
    del plain["path"]
    try:
        tensors = read_tensors(path, {} if model is None else plain_parameters(model))
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(path, error) from error
    if model is not None:
        _check_model(path, tensors, model)
    missing: list[str] = []
    state = _join(plain, tensors, missing)
    if missing:
        raise ValueError(
            f"resume_from_checkpoint = {str(path)!r}: damaged, no tensor {missing[0]!r}; name an earlier checkpoint"
        )
    return state  # type: ignore[no-any-return]


def _check_model(path: Path, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse a checkpoint of another model."""
    saved = {name.removeprefix("/model/"): t for name, t in tensors.items() if name.startswith("/model/")}
    own = plain_parameters(model)
    wrong = [name for name, p in own.items() if name not in saved or saved[name].shape != p.shape]
    if wrong:
        name = wrong[0]
        there = tuple(saved[name].shape) if name in saved else "nothing"
        raise ValueError(
            f"resume_from_checkpoint = {str(path)!r}: of another model: {len(wrong)} of {len(own)} parameters differ, "
            f"such as {name} ({there} there, {tuple(own[name].shape)} here); name a checkpoint of this run"
        )


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"resume_from_checkpoint = {str(path)!r}: truncated or damaged ({error}); name an earlier checkpoint"
    )


def find_checkpoint(run: Path, wanted: str) -> Path:
    """The checkpoint that "latest" or a path names.

    A bare name such as "checkpoint-200" is looked for in the run folder.
    """
    if wanted != "latest":
        for path in (Path(wanted), run / wanted):
            if path.is_dir():
                return path
        raise ValueError(f"resume_from_checkpoint = {wanted!r}: no such folder; give latest or a checkpoint folder")
    _put_back(run)
    found = checkpoints(run)
    if not found:
        raise ValueError(f"resume_from_checkpoint = 'latest': no complete checkpoint in {run}; train without it")
    return found[-1]


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [p for p in run.glob("checkpoint-*") if (p / "complete").is_file() and p.name[11:].isdigit()]
    return sorted(found, key=lambda p: int(p.name[11:]))


def prune(run: Path, limit: int) -> None:
    """Delete the oldest checkpoints beyond `limit` (0: keep all)."""
    if limit:
        for old in checkpoints(run)[:-limit]:
            # First remove the "complete" marker: a kill in between must not leave half a checkpoint that looks whole.
            (old / "complete").unlink()
            shutil.rmtree(old)


def _put_back(run: Path) -> None:
    """Undo a replacement that was stopped between its two renames; finish one that was stopped after them."""
    for old in run.glob(".checkpoint-*.old"):
        final = run / old.name[1:].removesuffix(".old")
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(final)


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {MARK: path}
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            raise TypeError(f"state {path!r}: keys must be strings")
        return {key: _split(item, f"{path}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"state {path!r}: {type(value).__name__} is neither a tensor nor plain")


def _join(value: Any, tensors: dict[str, Tensor], missing: list[str]) -> Any:
    if isinstance(value, dict):
        if MARK in value:
            if value[MARK] not in tensors:
                missing.append(value[MARK])
                return torch.empty(0)
            return tensors[value[MARK]]
        return {key: _join(item, tensors, missing) for key, item in value.items()}
    if isinstance(value, list):
        return [_join(item, tensors, missing) for item in value]
    return value


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
