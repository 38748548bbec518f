"""Peak signal-to-noise ratio of frames."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["PSNR"]


@dataclass(frozen=True)
class PSNR:
    """10 log10(1 / mean squared error) in dB of each frame; higher is better, equal frames count 100 dB."""

    pooling: ClassVar[str] = "dB of each frame (range 1, at most 100), mean over frames and clips"
    _frames: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def update(self, fake: Tensor, real: Tensor) -> None:
        """Take clips, both [B, F, 3, H, W] in 0..1."""
        error = (fake.double() - real.double()).pow(2).flatten(2).mean(2)
        self._frames.append(-10 * error.clamp_min(1e-10).log10().flatten().cpu())

    def compute(self) -> dict[str, float]:
        """{"psnr": ...} over everything taken so far."""
        return {"psnr": torch.cat(self._frames).mean().item()}
