"""Atomic files with the folder's own read permissions; tensors on the host; the cache folder."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["cache_folder", "save_tensors", "save_weights", "to_host", "write_atomically"]


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors with the folder's read permissions; the format's own writer makes files private."""
    save_file(dict(tensors), str(path), None if metadata is None else dict(metadata))
    path.chmod(path.parent.stat().st_mode & 0o666)


def save_weights(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write weights under a temporary name and rename them."""
    partial = path.with_name(path.name + ".partial")
    try:
        save_tensors({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, partial, metadata)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def to_host(state: Tensor) -> Tensor:
    """A copy in host memory, pinned where it goes back to a GPU; what is there already is returned as it is."""
    if state.device.type == "cpu":
        return state
    return torch.empty(state.shape, dtype=state.dtype, pin_memory=True).copy_(state)


def cache_folder() -> Path:
    """The folder for what can be made or fetched again: $ENTPROG_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("ENTPROG_CACHE") or Path(base) / "entprog")
