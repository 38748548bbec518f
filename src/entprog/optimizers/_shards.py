"""8-bit states of sharded parameters, and of checkpoints of any number of processes.

A process holds some rows of a parameter. Moments are quantised only where the blocks of `SCALED` values end with the
rows of each process: then they are the blocks of the whole parameter, and codes and scales those of one process. States
are sharded as the parameter is: "NAME.codes" in its shape, and "NAME.scale", a value for each of its blocks in their
order. So a checkpoint's codes and scales are right for any number of processes.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from entprog.core.sharded import full_tensor, is_sharded
from entprog.profiling.states import CODED, SCALED

__all__ = ["coded_in_parts", "fitting", "flat", "local", "own_codes", "own_values", "spread"]


def local(tensor: Any) -> Tensor:
    """This process's part of a sharded tensor; any other tensor itself."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return part


def coded_in_parts(p: Tensor) -> bool:
    """Whether moments are quantised: in the parts of all processes, or in none of them."""
    if p.numel() < CODED:
        return False
    count, _ = _parts(p)
    rows, width = -(-p.shape[0] // count), math.prod(p.shape[1:])
    even = width % SCALED == 0 or (p.shape[0] % count == 0 and rows * width % SCALED == 0)
    return rows * width >= CODED and even


def fitting(state: Mapping[str, Tensor], p: Tensor, coded: bool) -> bool:
    """Whether states are divided as a parameter is, and quantised as they are to be."""
    moments = {key: value for key, value in state.items() if key.startswith("exp_avg")}
    if ("exp_avg.codes" in moments) != coded or any(is_sharded(each) != is_sharded(p) for each in moments.values()):
        return False
    return is_sharded(p) or not coded or moments["exp_avg.scale"].ndim == 1


def flat(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This process's part of states, with their memory; scales in one dimension."""
    found = {key: local(value) for key, value in state.items()}
    return {key: value.view(-1) if key.endswith(".scale") else value for key, value in found.items()}


def spread(state: Mapping[str, Tensor], p: Any) -> dict[str, Tensor]:
    """States of this process's part as sharded tensors, which have their memory; as they are if `p` is not sharded."""
    if not is_sharded(p):
        return dict(state)
    from torch.distributed.tensor import DTensor

    width = math.prod(p.shape[1:])
    found = {}
    for key, value in state.items():
        shape = p.shape
        if key.endswith(".scale"):  # divided as the rows are
            each = width // SCALED
            shape = (p.shape[0], each) if width % SCALED == 0 else (p.shape[0] * width // SCALED,)
            value = value.view(len(value) // each, each) if width % SCALED == 0 else value
        if key != "step":
            stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
            value = DTensor.from_local(
                value, p.device_mesh, p.placements, run_check=False, shape=torch.Size(shape), stride=stride
            )
        found[key] = value
    return found


def own_codes(values: Mapping[str, Tensor], name: str, p: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of this process's part of a parameter, and the scale of each."""
    codes, begin = _rows(values[f"{name}.codes"], p)
    scales = full_tensor(values[f"{name}.scale"]).reshape(-1).to(p.device)
    blocks = torch.arange(begin, begin + codes.numel(), device=p.device) // SCALED
    return codes, scales[blocks].view(codes.shape)


def own_values(values: Mapping[str, Tensor], name: str, p: Tensor) -> Tensor:
    """A moment that was saved in full, in this process's part."""
    return _rows(values[name], p)[0]


def _parts(p: Any) -> tuple[int, int]:
    """How many parts a parameter is divided into, and the place of this process's."""
    if not is_sharded(p):
        return 1, 0
    last = p.device_mesh.ndim - 1  # before it there may be copies
    return p.device_mesh.size(last), p.device_mesh.get_local_rank(last)


def _rows(saved: Any, p: Tensor) -> tuple[Tensor, int]:
    """This process's rows of a tensor in the shape of the parameter, and the place of their first value."""
    count, place = _parts(p)
    rows = -(-saved.shape[0] // count)
    begin = min(place * rows, saved.shape[0])
    own = local(saved) if is_sharded(saved) else saved[begin : begin + rows]
    return own.to(p.device), begin * math.prod(saved.shape[1:])
