"""Bytes of an optimizer's states: what its first step will make for a parameter, computed before it."""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, optim

from entprog.profiling.ledger import plain

COUNTER = 4
"""Bytes of a step count: one float32 for each parameter."""

CODED, SCALED = 4096, 256
"""8-bit states: parameters of fewer values, or of no multiple of the second (values of one scale), keep full states."""


def moment_size(size: int) -> int:
    """Bytes of a value of a moment: our optimizers step bfloat16 parameters in float32 (optimizers/_stepping.py)."""
    return max(size, 4)


def adamw_states(shape: Sequence[int], size: int, *, counted: bool) -> list[int]:
    """Bytes of fused AdamW's states of a parameter with values of `size` bytes: both moments and the step count.

    `counted`: whether to include the step count, which is on the parameter's device.
    """
    return [prod(shape) * moment_size(size)] * 2 + [COUNTER]


def adamw8bit_states(shape: Sequence[int], size: int, *, counted: bool) -> list[int]:
    """The same for `optimizers/_quantized.py`: codes and scales of both moments; the step count is on the CPU."""
    values = prod(shape)
    moment = [values * moment_size(size)]
    if values >= CODED and values % SCALED == 0:
        moment = [values, values // SCALED * 4]
    return moment * 2 + [COUNTER] * counted


def adafactor_states(shape: Sequence[int], size: int, *, counted: bool) -> list[int]:
    """The same for torch's Adafactor: a row and a column for each matrix; the step count is on the CPU."""
    values, size = prod(shape), moment_size(size)
    moments = [values // shape[-1] * size, values // shape[-2] * size] if len(shape) > 1 else [values * size]
    return moments + [COUNTER] * counted


def expected_state_bytes(optimizer: optim.Optimizer, group: dict[str, Any], parameter: Tensor) -> list[int]:
    """Bytes of each state that the optimizer's first step will make for a parameter of `group`.

    Exact for Adam, AdamW, SGD and Adafactor, and for optimizers with a method `state_bytes(parameter)`; for others
    two copies of the parameter, an upper bound for most.
    """
    optimizer = getattr(optimizer, "inside", optimizer)  # one that steps in the backward pass has one inside
    if hasattr(optimizer, "state_bytes"):
        return list(optimizer.state_bytes(parameter))
    parts = list(plain(parameter))  # what this rank holds
    local = sum(part.numel() * part.element_size() for part in parts)
    on_cpu = parameter.device.type == "cpu"
    if isinstance(optimizer, optim.Adam):  # AdamW is one
        counter = COUNTER if on_cpu or group.get("capturable") or group.get("fused") else 0
        return [local] * (3 if group.get("amsgrad") else 2) + [counter]
    if isinstance(optimizer, optim.SGD):
        return [local] if group.get("momentum") else []
    if isinstance(optimizer, optim.Adafactor):
        return [n for p in parts for n in adafactor_states(tuple(p.shape), p.element_size(), counted=on_cpu)]
    return [local, local]
