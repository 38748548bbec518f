"""The tensors of a checkpoint: safetensors, in one file or in one for each process of a sharded model.

Sharded tensors are written and read by torch.distributed.checkpoint, which any number of processes can read, one among
them; its storage is safetensors, too, never a pickle.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from entprog.core.sharded import is_sharded, room_for
from entprog.files import save_tensors
from entprog.savings.adapters import plain_name

__all__ = ["read_tensors", "write_shards", "write_whole"]

WHOLE = "state.safetensors"


def write_whole(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write tensors that this process has whole.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    try:
        save_tensors({name: _own(tensor) for name, tensor in tensors.items()}, folder / WHOLE)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def write_shards(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write the parts that each process has; all of them must call this. Whole tensors are written by one of them.

    Raises:
        OSError: a process could not write.
    """
    try:
        written = {name: tensor if is_sharded(tensor) else _own(tensor) for name, tensor in tensors.items()}
        dcp.save(written, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        rank, (failure, _) = next(iter(error.failures.items()))
        raise OSError(f"rank {rank}: {failure}") from error


def read_tensors(folder: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a checkpoint by their path in the state, on the host or divided as the parameter they belong to.

    Args:
        like: the parameters by name, without adapters. A tensor whose path has a name among its parts is divided as
            that parameter is, if it has the same shape.

    Raises:
        ValueError, OSError, SafetensorError: a file is damaged or missing.
    """
    if (folder / WHOLE).is_file() and not any(is_sharded(parameter) for parameter in like.values()):
        return load_file(str(folder / WHOLE))
    if not any(folder.glob("*.safetensors")):
        raise ValueError("it has no file of tensors")
    reader = HuggingFaceStorageReader(str(folder))
    rooms = {}
    for path, about in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(about, TensorStorageMetadata)
        parts = [plain_name(part) for part in path.split("/")]
        owner = next((like[part] for part in parts if part in like), None)
        rooms[path] = room_for(tuple(about.size), about.properties.dtype, owner)
    try:
        dcp.load(rooms, storage_reader=reader)
    except CheckpointException as error:
        rank, (failure, _) = next(iter(error.failures.items()))
        raise ValueError(f"rank {rank}: {failure}") from error
    return rooms


def _own(tensor: Tensor) -> Tensor:
    """A copy on the host: safetensors refuses views that share a storage."""
    return tensor.cpu().clone().contiguous()


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
