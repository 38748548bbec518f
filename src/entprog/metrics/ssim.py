"""Structural similarity of frames (Wang, Bovik, Sheikh and Simoncelli, 2004)."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as functional
from torch import Tensor

__all__ = ["SSIM"]

SIDE = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


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
        self._frames.append(similarity(fake.flatten(0, 1), real.flatten(0, 1)).cpu())

    def compute(self) -> dict[str, float]:
        """{"ssim": ...} over everything taken so far."""
        return {"ssim": torch.cat(self._frames).mean().item()}


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM of each pair of images [N, 3, H, W], as [N] in double precision.

    SSIM = (2 ma mb + C1)(2 cov + C2) / ((ma^2 + mb^2 + C1)(va + vb + C2)), C = (K range)^2, with means,
    variances and covariance under the window. The image is mirrored at its edges, as in torchmetrics; the paper
    leaves out the places where the window leaves the image.
    """
    a, b = a.double(), b.double()
    rim = [SIDE // 2] * 4
    a, b = functional.pad(a, rim, mode="reflect"), functional.pad(b, rim, mode="reflect")
    moments = _blur(torch.cat([a, b, a * a, b * b, a * b]))
    mean_a, mean_b, square_a, square_b, product = moments.chunk(5)
    variances = square_a - mean_a**2 + square_b - mean_b**2
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + K1**2) / (mean_a**2 + mean_b**2 + K1**2)
    return (luminance * (2 * covariance + K2**2) / (variances + K2**2)).flatten(1).mean(1)


def _blur(images: Tensor) -> Tensor:
    """Images [N, C, H, W] under the Gaussian window; its rim of 5 pixels is lost."""
    places = torch.arange(SIDE, dtype=images.dtype, device=images.device) - SIDE // 2
    weights = torch.exp(-(places**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    flat = images.flatten(0, 1)[:, None]
    flat = functional.conv2d(functional.conv2d(flat, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return flat.view(*images.shape[:2], *flat.shape[2:])
