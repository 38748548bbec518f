"""Structural similarity of frames (Wang, Bovik, Sheikh and Simoncelli, 2004), by torchmetrics."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

__all__ = ["SSIM"]

SIDE = 11
"""Side of the window in pixels."""


@dataclass(frozen=True)
class SSIM:
    """Structural similarity of each frame, -1..1; 1 for equal frames."""

    pooling: ClassVar[str] = (
        "11x11 Gaussian window (sigma 1.5), mirrored edges, RGB channels, mean over frames and clips"
    )
    _frames: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def update(self, fake: Tensor, real: Tensor) -> None:
        """Take clips, both [B, F, 3, H, W] in 0..1, of at least 11 pixels a side."""
        if min(fake.shape[-2:]) < SIDE:
            raise ValueError(f"metric ssim: frames of {tuple(fake.shape[-2:])} px; its window needs {SIDE} a side")
        a, b = (clips.flatten(0, 2).unsqueeze(1).double() for clips in (fake, real))  # channels apart: less time
        found = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
        assert isinstance(found, Tensor)
        self._frames.append(found.reshape(-1, 3).mean(1).cpu())

    def compute(self) -> dict[str, float]:
        """{"ssim": ...} over all clips."""
        return {"ssim": torch.cat(self._frames).mean().item()}
