"""How a pose map enters the transformer."""

import torch.nn.functional as functional
from torch import Tensor, nn


def pose_features(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cut pose maps into the patches under the tokens, without parameters.

    Args:
        maps: [B, F, 3, S, S] in 0..1, drawn at 8 pixels a token (`S = 8 * grid`), else resampled to that.
        grid: rows and columns of tokens.

    Returns:
        [B, F, N, 192].
    """
    samples, frames = maps.shape[:2]
    flat = maps.flatten(0, 1)
    wanted = (grid[0] * 8, grid[1] * 8)
    if flat.shape[-2:] != wanted:
        flat = functional.interpolate(flat, wanted, mode="bilinear", antialias=True)
    patches = functional.pixel_unshuffle(flat, 8)
    return patches.flatten(2).transpose(1, 2).reshape(samples, frames, grid[0] * grid[1], -1)


POSE_WIDTH = 192


class PoseEmbedding(nn.Module):
    """The published one-layer pose adapter: a linear map of each patch, added to the token; zero when new."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(POSE_WIDTH, width)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.proj(features)
