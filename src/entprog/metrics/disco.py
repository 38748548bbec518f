"""Errors of pixels as DisCo's evaluation computes them, for rows that stand beside those of papers.

Shape legend: N frames, H W height and width in pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from entprog.metrics._collected import rounded
from entprog.metrics.base import Skipped

__all__ = ["Disco"]

WINDOW = 7
HIGHEST = 100.0
"""dB of equal frames."""
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Disco:
    """SSIM, PSNR and L1 of frames in 8 bits as DisCo's code has them, and PSNR with its early overflow.

    Papers on human video (MagicAnimate, AnimateAnyone, Ent-Prog, ...) took their numbers from that code. Its PSNR was
    first computed on unsigned bytes, where differences and their squares wrap at 256: that is `psnr_overflow`, about
    29 dB for frames that are 17 dB apart, and what most tables print; `psnr_8bit` is the right one, as corrected later.
    """

    pooling: ClassVar[Mapping[str, str]] = {
        "ssim_grey": (
            f"grey frames in 8 bits, uniform {WINDOW}x{WINDOW} window, sample covariance, windows inside the frame, "
            "mean over frames and clips"
        ),
        "psnr_8bit": "dB of each frame in 8 bits (at most 100), mean over frames and clips",
        "psnr_overflow": (
            "as psnr_8bit, but with differences and squares modulo 256 (an error of DisCo's early code that most "
            "published PSNR of about 29 dB and more have; not a measure of quality)"
        ),
        "l1_per_pixel": "mean absolute difference in 0..255, divided by height x width, mean over frames and clips",
    }
    _frames: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def update(self, fake: Tensor, real: Tensor) -> None:
        """Take clips, both [B, F, 3, H, W] in 0..1."""
        if min(fake.shape[-2:]) < WINDOW:
            raise Skipped(f"frames of {fake.shape[-2]}x{fake.shape[-1]} px; its window needs {WINDOW} a side")
        a, b = (rounded(clips.flatten(0, 1)).double().cpu() for clips in (fake, real))
        if not bool((a.isfinite() & b.isfinite()).all()):
            raise Skipped("frames are not finite, and 8 bits cannot hold that")
        l1 = (a - b).abs().mean((1, 2, 3)) / (a.shape[-2] * a.shape[-1])
        self._frames.append(torch.stack([ssim(a, b), psnr(a, b), psnr(a, b, wraps=True), l1], 1))

    def compute(self) -> dict[str, float]:
        """The four values over all frames."""
        means = torch.cat(self._frames).mean(0).tolist()
        return dict(zip(self.pooling, means, strict=True))


def psnr(a: Tensor, b: Tensor, *, wraps: bool = False) -> Tensor:
    """dB [N] of frames [N, 3, H, W] in 0..255; `wraps`: in arithmetic modulo 256."""
    squares = (a - b).square()
    error = (squares % 256 if wraps else squares).mean((1, 2, 3))
    return (10 * (255**2 / error).log10()).clamp_max(HIGHEST)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity [N] of the grey versions of frames [N, 3, H, W] in 0..255, as scikit-image's default."""
    weights = a.new_tensor(GREY).view(3, 1, 1)
    a, b = ((frames * weights).sum(1, keepdim=True).round() for frames in (a, b))
    count = WINDOW**2

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, WINDOW, 1)

    mean_a, mean_b = mean(a), mean(b)
    sample = count / (count - 1)
    var_a, var_b = (sample * (mean(x * x) - m * m) for x, m in ((a, mean_a), (b, mean_b)))
    cov = sample * (mean(a * b) - mean_a * mean_b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean((1, 2, 3))
