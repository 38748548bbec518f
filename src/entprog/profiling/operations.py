"""FLOPs of single operations: matrix products, convolutions and attention; everything else counts as zero."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, mm_flop, sdpa_backward_flop, sdpa_flop

Formula = Callable[..., int]

_aten = torch.ops.aten


def _attention(q: Any, k: Any, v: Any, *rest: Any, out_val: Any = None, **other: Any) -> int:
    return sdpa_flop(q.shape, k.shape, v.shape)


def _attention_backward(grad: Any, q: Any, k: Any, v: Any, *rest: Any, out_val: Any = None, **other: Any) -> int:
    return sdpa_backward_flop(grad.shape, q.shape, k.shape, v.shape)


def _overridden_backward(
    grad: Any, q: Any, k: Any, v: Any, *rest: Any, out_val: Any = None, **other: Any
) -> int:  # pragma: no cover - devices of other makers
    return sdpa_backward_flop(grad.shape, q.shape, k.shape, v.shape)


def _integer_product(a: Any, b: Any, *rest: Any, out_val: Any = None, **other: Any) -> int:
    return mm_flop(a.shape, b.shape)


FORMULAS: dict[Any, Formula] = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten._scaled_dot_product_fused_attention_overrideable: _attention,
    _aten._scaled_dot_product_fused_attention_overrideable_backward: _overridden_backward,
    _aten._int_mm: _integer_product,
}
"""FLOPs by operation: those of torch's own counter, and what it leaves at zero (CPU flash attention, int8 products)."""


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of a step by when they run; a product of [m, k] and [k, n] is 2 m k n.

    `recompute` is what the backward pass computes a second time under gradient checkpointing; `backward` is
    without it.
    """

    forward: int = 0
    backward: int = 0
    recompute: int = 0

    @property
    def total(self) -> int:
        return self.forward + self.backward + self.recompute

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.backward + other.backward, self.recompute + other.recompute)


def operation_flops(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """FLOPs of one call of an operation (an overload packet, or a higher-order operator)."""
    formula = FORMULAS.get(operation)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))
