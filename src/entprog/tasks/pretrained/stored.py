"""The weights of a network as they lie in a folder of diffusers: read and written tensor by tensor."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from entprog.codecs.loading import weights_hash
from entprog.files import save_tensors, write_atomically

__all__ = ["StoredTensors", "base_hash", "link", "link_others", "weight_files", "write_network"]

WEIGHTS = "diffusion_pytorch_model"
SHARD_BYTES = 10 * 10**9
"""A network above it is written in several files."""

OWN = ("entprog_adapters.safetensors", "delta.safetensors", "ema.safetensors", "export.json")
"""Files that a run or an export adds to the pipeline's; those of a base that is itself one are left out."""


def weight_files(component: Path) -> list[Path]:
    """The files that diffusers reads: those of the index, else the single one, else the only variant.

    Raises:
        ValueError: there are none.
    """
    index, single = component / f"{WEIGHTS}.safetensors.index.json", component / f"{WEIGHTS}.safetensors"
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [component / name for name in sorted(set(names))]
    found = [single] if single.is_file() else sorted(component.glob(f"{WEIGHTS}.*.safetensors"))
    if not found:
        raise ValueError(f"{component}: no {WEIGHTS}.safetensors in it; copy the weights there again")
    return found[:1]


class StoredTensors(Mapping[str, Tensor]):
    """The stored weights of a network by name; each is read when it is asked for, and none is kept."""

    def __init__(self, component: Path) -> None:
        self._opened = [safe_open(str(file), "pt") for file in weight_files(component)]
        self._homes = {name: opened for opened in self._opened for name in opened.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        return self._homes[name].get_tensor(name)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


def base_hash(component: Path) -> str:
    """sha256 of the stored weights of a network: names, dtypes, shapes and bytes.

    Computed once for files of the same size and time of change.
    """
    stats = [(file, file.stat()) for file in weight_files(component)]
    return _hash_of(component, tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats))


@cache
def _hash_of(component: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    return weights_hash(StoredTensors(component))


def write_network(base: Path, folder: Path, changed: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> None:
    """A network as diffusers saves it: tensors of `changed` as given there, all others as in the base, bit for bit.

    At no time are more changed tensors in memory than one file holds. An existing folder is replaced at the end.

    Args:
        base: the component's folder that it was trained from.
        folder: the new component's folder.
    """
    stored = StoredTensors(base)
    names = [*stored, *(name for name in changed if name not in stored)]
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(base / "config.json", partial / "config.json")
    shards, total = _shards(names, stored, changed, shard_bytes)
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        part = "" if len(shards) == 1 else f"-{number:05d}-of-{len(shards):05d}"
        file = f"{WEIGHTS}{part}.safetensors"
        places |= dict.fromkeys(shard, file)
        save_tensors({name: _on_host(name, stored, changed) for name in shard}, partial / file, {"format": "pt"})
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        write_atomically(partial / f"{WEIGHTS}.safetensors.index.json", json.dumps(index, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _shards(
    names: list[str], stored: Mapping[str, Tensor], changed: Mapping[str, Tensor], most: int
) -> tuple[list[list[str]], int]:
    """Names by file, in order, and all bytes."""
    shards: list[list[str]] = [[]]
    total = room = 0
    for name in names:
        tensor = changed[name] if name in changed else stored[name]
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and room + size > most:
            shards.append([])
            room = 0
        shards[-1].append(name)
        room, total = room + size, total + size
    return shards, total


def _on_host(name: str, stored: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> Tensor:
    return changed[name].cpu().contiguous() if name in changed else stored[name]


def link_others(base: Path, folder: Path, component: str, *, copy: bool = False) -> None:
    """Everything of a pipeline's folder but one component: hard links where the file system has them, else copies."""
    for file in sorted(path for path in base.rglob("*") if path.is_file()):
        place = file.relative_to(base)
        if place.parts[0] not in (component, *OWN) and not any(part.startswith(".") for part in place.parts):
            link(file, folder / place, copy=copy)


def link(file: Path, target: Path, *, copy: bool = False) -> None:
    """A hard link to a file, or a copy of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if not copy:
        try:
            os.link(file.resolve(), target)
        except OSError:  # another file system, or one without links
            copy = True
    if copy:
        shutil.copyfile(file, target)
