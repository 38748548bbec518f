"""A frozen linear layer and its low-rank adapter as one operation: y = x W^T + b + s (x A^T) B^T.

The sum of the two products is made inside the second one, forward and backward, so no tensor of the output's or the
input's size is read and written for a sum or a factor alone, and no Python runs for each product. Equal to the written
out form but for rounding; exactly equal while B is zero, as in a new adapter.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from entprog.savings._mixed_layers import MixedLinear
from entprog.savings.frozen_storage import computed_in, stored

__all__ = ["low_rank_product", "takes"]


def takes(base: nn.Module, x: Tensor) -> bool:
    """Whether `low_rank_product` can compute this layer for this input; if not, write it out.

    A layer that trains, or whose class or product is none of ours, is left to its own forward; so is what torch.compile
    traces, as it fuses by itself.
    """
    if torch.compiler.is_compiling() or type(base) not in (nn.Linear, MixedLinear):
        return False
    if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        return False
    if "forward" in base.__dict__ and stored(base) is None:  # somebody else's
        return False
    return torch.is_autocast_enabled(x.device.type) or x.dtype == torch.float32


def low_rank_product(x: Tensor, base: nn.Linear, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """x [..., in] through a frozen layer and its adapter a [rank, in], b [out, rank]; returns [..., out].

    Computed in autocast's type where it is on, else in float32. Gradients for x, a and b, in their types. The weight
    may be held by a `FrozenStorage`; it is decoded in each direction and not kept for the backward.
    """
    out: Tensor = _Product.apply(x, a, b, base.weight, base, scale)  # type: ignore[no-untyped-call]
    return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, weight: Tensor, base: nn.Linear, scale: float) -> Tensor:
        dtype, held, bias = computed_in(x), stored(base), base.bias
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        decoded = weight if held is None else held.weight(dtype, backward=False)
        out = functional.linear(rows, decoded.to(dtype), bias)
        if held is not None:
            held.used()
        low = rows @ _turned(a.to(dtype))
        torch.addmm(out, low, _turned(b.to(dtype)), alpha=scale, out=out)
        ctx.save_for_backward(rows, low, a, b, *(() if held is not None else (weight,)))
        ctx.held, ctx.scale, ctx.shape, ctx.types = held, scale, x.shape, (x.dtype, a.dtype, b.dtype)
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, a, b, *kept = ctx.saved_tensors
        dtype = rows.dtype
        flat = gradient.reshape(-1, gradient.shape[-1]).to(dtype)
        down = flat @ _turned(b.to(dtype)).t()
        if ctx.scale != 1.0:
            down.mul_(ctx.scale)
        of_x = of_a = of_b = None
        if ctx.needs_input_grad[0]:
            decoded = kept[0] if kept else ctx.held.weight(dtype, backward=True)
            of_x = flat @ decoded.to(dtype)
            if ctx.held is not None:
                ctx.held.used()
            torch.addmm(of_x, down, a.to(dtype), out=of_x)
            of_x = of_x.view(ctx.shape).to(ctx.types[0])
        if ctx.needs_input_grad[1]:
            of_a = (down.t() @ rows).to(ctx.types[1])
        if ctx.needs_input_grad[2]:
            of_b = flat.t() @ low
            of_b = (of_b.mul_(ctx.scale) if ctx.scale != 1.0 else of_b).to(ctx.types[2])
        return of_x, of_a, of_b, None, None, None


def _turned(thin: Tensor) -> Tensor:
    """The transpose of a thin matrix; on a CPU as a copy, with which products take half to a third of the time."""
    return thin.t().contiguous() if thin.device.type == "cpu" else thin.t()
