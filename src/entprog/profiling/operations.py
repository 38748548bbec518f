"""FLOPs of single operations: matrix products, convolutions and attention; everything else counts as zero."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, mm_flop, sdpa_backward_flop, sdpa_flop

Formula = Callable[..., int]

_aten = torch.ops.aten


def _shapes(value: Any) -> Any:
    """Nested values with each tensor's shape in its place."""
    if isinstance(value, Tensor):
        return value.shape
    return [_shapes(each) for each in value] if isinstance(value, tuple | list) else value


def _quick(formula: Formula) -> Formula:
    """One of torch's formulas without its slow tree walk over the arguments."""
    of_shapes: Formula | None = getattr(formula, "__wrapped__", None)
    if of_shapes is None:  # it takes the tensors themselves
        return formula

    def count(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        named = {name: _shapes(value) for name, value in kwargs.items()}
        return int(of_shapes(*map(_shapes, args), out_shape=_shapes(out_val), **named))

    return count


_product, _attention, _attention_backward = _quick(mm_flop), _quick(sdpa_flop), _quick(sdpa_backward_flop)


FORMULAS: dict[Any, Formula] = {
    **{operation: _quick(formula) for operation, formula in flop_registry.items()},
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten._scaled_dot_product_fused_attention_overrideable: _attention,
    _aten._scaled_dot_product_fused_attention_overrideable_backward: _attention_backward,
    _aten._int_mm: _product,
}
"""FLOPs by operation: torch's own formulas, and those it lacks (CPU flash attention, int8 products)."""


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of a step by pass; a product of [m, k] and [k, n] is 2 m k n.

    `recompute` is what the backward pass computes a second time under gradient checkpointing; `backward` excludes it.
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
