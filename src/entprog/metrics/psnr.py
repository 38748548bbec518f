"""Peak signal-to-noise ratio of frames, by torchmetrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

__all__ = ["PSNR"]

HIGHEST = 100.0
"""dB of equal frames, whose ratio is infinite."""


@dataclass(frozen=True)
class PSNR:
    """10 log10(1 / mean squared error) in dB of each frame; higher is better, equal frames count 100 dB."""

    pooling: ClassVar[str] = "dB of each frame (range 1, at most 100), mean over frames and clips"
    _frames: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def update(self, fake: Tensor, real: Tensor) -> None:
        """Take clips, both [B, F, 3, H, W] in 0..1."""
        a, b = fake.flatten(0, 1).double(), real.flatten(0, 1).double()
        found = peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))
        self._frames.append(found.clamp_max(HIGHEST).cpu())

    def compute(self) -> dict[str, float]:
        """{"psnr": ...} over all clips."""
        return {"psnr": torch.cat(self._frames).mean().item()}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        """How many frames are at the bound, where there are any."""
        frames = torch.cat(self._frames)
        equal = int((frames >= HIGHEST).sum())
        return {"psnr": {"at the bound": f"{equal} of {len(frames)} frames count {HIGHEST:g} dB"}} if equal else {}
