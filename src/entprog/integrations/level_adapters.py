"""Skipping a whole level of a U-Net: its residual branches add nothing, the path that changes the shape stays."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from entprog.core.blocks import Adapter
from entprog.core.swap import swapped_forward

__all__ = ["LEVELS", "Shortcut", "resnet_shortcut"]

Forwards = Mapping[nn.Module, Callable[..., Any]]
"""Module inside a level -> what is called for it."""


@dataclass(frozen=True)
class Shortcut:
    """A residual block without its residual branch: its first argument through the modules of the shortcut, scaled.

    An object that holds the block, so that a deep copy of the model has adapters with its own shortcuts.

    Attributes:
        path: names of the shortcut's modules, in their order; those that the block lacks, or has as None, do nothing.
        divisor: of the sum of branch and shortcut.
    """

    block: nn.Module
    path: tuple[str, ...]
    divisor: float = 1.0

    def __call__(self, arguments: Mapping[str, Any]) -> Tensor:
        return self.forward(next(iter(arguments.values())))

    def forward(self, first: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the forward of the block."""
        for name in self.path:
            if (module := getattr(self.block, name, None)) is not None:
                first = module(first)
        return first / self.divisor


@dataclass(frozen=True)
class Level:
    """A level's own forward, with the residual parts inside it replaced by what they pass on.

    Attributes:
        block: takes its arguments by name; resampling and joined skip connections stay.
        parts: gives what replaces the forwards of the modules inside.
    """

    block: nn.Module
    parts: Callable[[Any], Forwards]

    def __call__(self, arguments: Mapping[str, Any]) -> Any:
        with ExitStack() as stack:
            for module, forward in self.parts(self.block).items():
                stack.enter_context(swapped_forward(module, forward))
            return type(self.block).forward(self.block, **arguments)


def resnet_shortcut(block: Any) -> Shortcut:
    """Of a residual block of diffusers' U-Nets."""
    return Shortcut(block, ("upsample", "downsample", "conv_shortcut"), getattr(block, "output_scale_factor", 1.0))


def _one_dimension(level: Any) -> Forwards:
    return {resnet: Shortcut(resnet, ("residual_conv",)).forward for resnet in level.resnets}


def _kandinsky(level: Any) -> Forwards:
    path = ("shortcut_up_sample", "shortcut_projection", "shortcut_down_sample")
    resnets = [*level.resnets_in, *level.resnets_out]
    return {
        **{resnet: Shortcut(resnet, path).forward for resnet in resnets},
        **{attention: _returned for attention in level.attentions},
    }


def _controlled(level: Any) -> Forwards:
    """Base and control branch of ControlNet-XS; nothing of the control branch is added to the base branch."""
    resnets, attentions = (
        [module for branch in ("", "base_", "ctrl_") for module in getattr(level, branch + kind, ()) if module]
        for kind in ("resnets", "attentions")
    )
    return {
        **{resnet: resnet_shortcut(resnet).forward for resnet in resnets},
        **{attention: _returned_in_tuple for attention in attentions},
        **{convolution: _Nothing(convolution.out_channels) for convolution in level.ctrl_to_base},
    }


def _returned(first: Any, *args: Any, **kwargs: Any) -> Any:
    return first


def _returned_in_tuple(first: Any, *args: Any, **kwargs: Any) -> tuple[Any]:
    return (first,)


@dataclass(frozen=True)
class _Nothing:
    """Zeros in the shape that a 1x1 convolution gives."""

    channels: int

    def __call__(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], self.channels, *x.shape[2:])


def _level(parts: Callable[[Any], Forwards]) -> Callable[[Any], Adapter]:
    return lambda block: Level(block, parts)


LEVELS: Mapping[str, Callable[[Any], Adapter]] = {
    "DownResnetBlock1D": _level(_one_dimension),
    "UpResnetBlock1D": _level(_one_dimension),
    "Kandinsky3DownSampleBlock": _level(_kandinsky),
    "Kandinsky3UpSampleBlock": _level(_kandinsky),
    "ControlNetXSCrossAttnDownBlock2D": _level(_controlled),
    "ControlNetXSCrossAttnUpBlock2D": _level(_controlled),
}
"""Class of a level -> its adapter."""
