"""Features of generated and true clips, collected clip by clip until their distance is asked for.

Shape legend: F frames, N frames or windows, T frames of a window, D features, H W height and width in pixels.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from entprog.metrics._distance import distance
from entprog.metrics.base import Skipped

__all__ = ["Collected", "Filter", "cached", "resized", "rounded", "windows"]

Filter = Literal["bicubic", "bilinear"]
CACHED = 256
"""Sets of features that are kept: the truth is compared with the generated clips and with each baseline."""

_KNOWN: OrderedDict[Hashable, Tensor] = OrderedDict()


class Collected:
    """Features [N, D] of both sides, double precision on the CPU; which clips gave none."""

    def __init__(self) -> None:
        self.fake: list[Tensor] = []
        self.real: list[Tensor] = []
        self.clips = 0
        self.short: list[int] = []
        """Frames of the clips that are shorter than a window."""

    def add(self, fake: Tensor, real: Tensor, features: Callable[[Tensor], Tensor], key: Hashable) -> None:
        """Take one clip, generated and true, each [F, 3, H, W].

        Args:
            features: of a clip, [N, D].
            key: everything but the clip that these rest on.
        """
        self.fake.append(cached(fake, features, key))
        self.real.append(cached(real, features, key))
        self.clips += 1

    def add_clips(
        self, fake: Tensor, real: Tensor, least: int, features: Callable[[Tensor], Tensor], key: Hashable
    ) -> None:
        """Take clips, both [B, F, 3, H, W]; those of fewer than `least` frames are left out. Else as `add`."""
        for one, other in zip(fake, real, strict=True):
            if len(one) < least:
                self.leave_out(len(one))
            else:
                self.add(one, other, features, key)

    def leave_out(self, frames: int) -> None:
        """Count a clip that is too short."""
        self.clips += 1
        self.short.append(frames)

    @property
    def count(self) -> int:
        """Rows of the smaller side."""
        return min(sum(len(rows) for rows in side) for side in (self.fake, self.real))

    def distance(self, unit: str, remedy: str) -> float:
        """The Frechet distance of the two sides; NaN where a feature is not finite.

        Args:
            unit: what a row describes, "frames" or "windows of 16 frames".
            remedy: what to do where there are too few.

        Raises:
            Skipped: fewer than two rows.
        """
        if self.count < 2:
            short = f"; {self._left_out}" if self.short else ""
            raise Skipped(f"{self.count} {unit} in {self.clips} clips{short}; a covariance needs 2 or more: {remedy}")
        return distance(torch.cat(self.fake), torch.cat(self.real))

    @property
    def _left_out(self) -> str:
        return f"{len(self.short)} of {self.clips} clips are too short (the shortest has {min(self.short)} frames)"

    def counts(self, unit: str) -> dict[str, Any]:
        """What the protocol says of the counts."""
        said: dict[str, Any] = {unit: self.count}
        if self.count and self.count <= (dimensions := self.fake[0].shape[1]):
            said["note"] = (
                f"no more {unit} than the {dimensions} features: biased upwards, compare at equal counts only"
            )
        return said | ({"left out": self._left_out} if self.short else {})


def cached(clip: Tensor, features: Callable[[Tensor], Tensor], key: Hashable) -> Tensor:
    """`features(clip)`, kept by the clip's content and by `key`, which says everything else they rest on."""
    content = clip.detach().contiguous().cpu()
    full = key, content.shape, content.dtype, hashlib.sha256(content.numpy().tobytes()).digest()
    if full in _KNOWN:
        _KNOWN.move_to_end(full)
    else:
        _KNOWN[full] = features(clip).double().cpu()
        if len(_KNOWN) > CACHED:
            _KNOWN.popitem(last=False)
    return _KNOWN[full]


def windows(clip: Tensor, frames: int, stride: int) -> Tensor:
    """Every window [N, 3, T, H, W] of a clip [F, 3, H, W] that begins at a multiple of `stride`, a view."""
    return clip.unfold(0, frames, stride).movedim(-1, 2)


def resized(frames: Tensor, sides: tuple[int, int], how: Filter, *, antialias: bool = True) -> Tensor:
    """Frames [N, 3, H, W] at other sides; with antialiasing as Pillow does it, without rounding or clipping."""
    if tuple(frames.shape[-2:]) == sides:
        return frames
    return functional.interpolate(frames, sides, mode=how, align_corners=False, antialias=antialias)


def rounded(frames: Tensor) -> Tensor:
    """Frames in 0..1 as 0..255 in whole steps, as a PNG file stores them; float."""
    return (frames.float().clamp(0, 1) * 255).round()
