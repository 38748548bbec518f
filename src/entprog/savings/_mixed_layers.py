"""Linear layers and convolutions whose weight may be of a lower precision than their input and bias.

Under autocast they are torch's own: a bfloat16 weight is then what autocast would have made of it. Elsewhere the
product runs in float32 with the weight converted for its time; a frozen weight is not kept for the backward but
converted again there.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LOW", "MIXED", "MixedLinear", "is_mixed", "mix"]

LOW = (torch.bfloat16, torch.float16)


class MixedLinear(nn.Linear):
    """A linear layer with a weight of any precision."""

    def forward(self, x: Tensor) -> Tensor:
        """As torch's, in the wider type of `x` and float32 outside of autocast."""
        if _left_to_torch(x, self.weight):
            return super().forward(x)
        x = _widened(x)
        if self.weight.requires_grad:
            return functional.linear(x, self.weight.to(x.dtype), self.bias)
        out: Tensor = _Product.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


class _Mixed:
    """The same for convolutions: named before torch's class."""

    weight: Tensor
    bias: Tensor | None

    def forward(self: Any, x: Tensor) -> Tensor:
        if _left_to_torch(x, self.weight):
            return super().forward(x)  # type: ignore[misc,no-any-return]
        x = _widened(x)
        if self.weight.requires_grad or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return self._conv_forward(x, self.weight.to(x.dtype), self.bias)  # type: ignore[no-any-return]
        settings = (list(self.stride), list(self.padding), list(self.dilation), self.groups)
        out: Tensor = _Convolution.apply(x, self.weight, self.bias, settings)  # type: ignore[no-untyped-call]
        return out


class MixedConv1d(_Mixed, nn.Conv1d):
    """A convolution with a weight of any precision."""


class MixedConv2d(_Mixed, nn.Conv2d):
    """A convolution with a weight of any precision."""


class MixedConv3d(_Mixed, nn.Conv3d):
    """A convolution with a weight of any precision."""


MIXED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: MixedLinear, nn.Conv1d: MixedConv1d, nn.Conv2d: MixedConv2d, nn.Conv3d: MixedConv3d,
}  # fmt: skip
"""Layers whose weights may be held in lower precision -> the class that computes with them."""


def is_mixed(module: nn.Module) -> bool:
    """Whether a layer computes with a weight of any precision."""
    return isinstance(module, tuple(MIXED.values()))


def mix(module: nn.Module) -> bool:
    """Change a layer's class so that it does; a copy of the network does, too. False for any other module."""
    if type(module) in MIXED:
        module.__class__ = MIXED[type(module)]
    return is_mixed(module)


def _left_to_torch(x: Tensor, weight: Tensor) -> bool:
    if torch.is_autocast_enabled(x.device.type):
        return True
    return weight.dtype not in LOW and x.dtype == weight.dtype


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in LOW else x


class _Product(torch.autograd.Function):
    """y = x W^T + b; dL/dx = dL/dy W, with W converted in each direction; W and b get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight  # the parameter itself, which exists anyway
        ctx.bias_trains = bias is not None and bias.requires_grad
        return functional.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        through = gradient @ ctx.weight.to(gradient.dtype) if ctx.needs_input_grad[0] else None
        of_bias = gradient.flatten(0, -2).sum(0) if ctx.bias_trains else None
        return through, None, of_bias


class _Convolution(torch.autograd.Function):
    """A convolution and its gradient for the input, with the weight converted in each direction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple[Any, ...]) -> Tensor:
        stride, padding, dilation, groups = settings
        ctx.weight, ctx.settings, ctx.shape = weight, settings, x.shape
        ctx.bias_trains = bias is not None and bias.requires_grad
        still = [0] * len(stride)
        return torch.convolution(x, weight.to(x.dtype), bias, stride, padding, dilation, False, still, groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        stride, padding, dilation, groups = ctx.settings
        through = None
        if ctx.needs_input_grad[0]:
            like = gradient.new_empty(1).expand(ctx.shape)  # only its shape is read
            weight = ctx.weight.to(gradient.dtype)
            through = torch.ops.aten.convolution_backward(
                gradient, like, weight, None, stride, padding, dilation, False, [0] * len(stride), groups,
                (True, False, False),
            )[0]  # fmt: skip
        of_bias = gradient.transpose(0, 1).flatten(1).sum(1) if ctx.bias_trains else None
        return through, None, of_bias, None
