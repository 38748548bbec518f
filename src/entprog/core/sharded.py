"""Parameters that FSDP2 (`torch.distributed.fsdp.fully_shard`) shards.

A module of FSDP2 has one of two sets of parameters at a time: the sharded ones (DTensors), which the optimizer steps,
and during its forward and backward the whole ones. Gradient flags pass from the sharded to the whole ones each time
they are gathered, so flags are set on the sharded ones.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["full_tensor", "is_sharded", "placed", "reshard", "room_for", "sharded_modules"]


def is_sharded(parameter: Tensor) -> bool:
    """Whether this is a DTensor: a piece of a tensor that several processes hold."""
    return hasattr(parameter, "full_tensor")


def full_tensor(tensor: Any) -> Tensor:
    """All of a tensor, gathered from the processes where it is sharded; all of them must call this."""
    whole: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return whole


def placed(whole: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process has whole, divided as `like` is; as it is where `like` is not sharded."""
    if not is_sharded(like) or is_sharded(whole):
        return whole
    from torch.distributed.tensor import distribute_tensor

    # No process sends: each takes its own part.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def room_for(shape: tuple[int, ...], dtype: torch.dtype, like: Tensor | None) -> Tensor:
    """An empty tensor to read into: divided as `like` is if it has this shape, else whole and in host memory."""
    if like is None or not is_sharded(like) or tuple(like.shape) != shape:
        return torch.empty(shape, dtype=dtype)
    return torch.empty_like(like, dtype=dtype, requires_grad=False)


def sharded_modules(model: nn.Module) -> tuple[Any, ...]:
    """The modules that `fully_shard` was applied to."""
    return tuple(m for m in model.modules() if hasattr(m, "reshard") and hasattr(m, "unshard"))


def reshard(modules: Iterable[Any]) -> None:
    """Free whole parameters that an earlier forward has left in place, so that `parameters()` are the sharded ones."""
    for module in modules:
        module.reshard()
