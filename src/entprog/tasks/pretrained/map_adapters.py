"""Pose adapters inside a U-Net: zero-initialised 1x1 convolutions of pose features, added to the maps of its blocks.

Shape legend: B samples, T latent frames, g pixel frames of a latent frame, D = 192 g pose features, C channels of a
block, h w height and width of its maps.
"""

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from entprog.tasks.pretrained.adapters import Side

__all__ = ["MapAdapter", "as_features", "map_adapters", "with_map_adapter"]


def as_features(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pose tokens [B, T rows columns, D], as `adapters.pose_tokens` gives them, as maps [B, T, D, rows, columns]."""
    samples, _, depth = tokens.shape
    return tokens.view(samples, -1, *grid, depth).permute(0, 1, 4, 2, 3).contiguous()


class MapAdapter(nn.Module):
    """A zero-initialised 1x1 convolution of the pose features, pooled to the size of a block's maps and added to them.

    Args:
        side: holds the features as `pose`, [B, T, D, rows, columns]; without them the maps pass unchanged.
        depth: D.
        channels: C.
        like: a parameter of the block, on its device.
    """

    def __init__(self, side: Side, depth: int, channels: int, like: Tensor) -> None:
        super().__init__()
        self.side = side
        self.proj = nn.Conv2d(depth, channels, 1, device=like.device)
        for parameter in self.proj.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B T, C, h, w], or those of a multiple of B in one batch (classifier-free guidance)."""
        if self.side.pose is None:
            return maps
        features = self.side.pose.flatten(0, 1).to(self.proj.weight.dtype)
        height, width = maps.shape[-2:]
        if features.shape[-2:] != (height, width):
            features = functional.adaptive_avg_pool2d(features, (height, width))
        added = self.proj(features).to(maps.dtype)
        return maps + added.repeat(len(maps) // len(added), 1, 1, 1)


def map_adapters(depth: int) -> Callable[[Side, nn.Module], nn.Module]:
    """What `PoseAdapters.at_blocks` builds for residual blocks; `depth`: pose features of a latent frame."""

    def build(side: Side, block: nn.Module) -> nn.Module:
        like = next(block.parameters())
        return MapAdapter(side, depth, channels_of(block), like)

    return build


def channels_of(block: Any) -> int:
    """Channels of the maps that come into a residual block."""
    inner = getattr(block, "spatial_res_block", block)
    return int(inner.in_channels)


def with_map_adapter(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a residual block that adds its pose adapter to the maps that come in, its first argument.

    One class for all blocks of a class: discovery and sharding recognise stacks by it.
    """
    return _with_map_adapter(kind)  # type: ignore[arg-type]


@cache
def _with_map_adapter(kind: type[Any]) -> type[nn.Module]:
    first = list(inspect.signature(kind.forward).parameters)[1]

    class Posed(kind):  # type: ignore[misc, valid-type]
        @wraps(kind.forward)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if args:
                return super().forward(self.pose_adapter(args[0]), *args[1:], **kwargs)
            return super().forward(**kwargs | {first: self.pose_adapter(kwargs[first])})

    Posed.__name__ = Posed.__qualname__ = kind.__name__
    return Posed
