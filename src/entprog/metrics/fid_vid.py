"""FID-VID: the Frechet distance of windows of frames over a 3D ResNet, as in DisCo's evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from entprog.metrics._collected import Collected, resized, rounded, windows
from entprog.metrics._resnet3d import Depth, ResNet3D, build
from entprog.metrics._weights import Source, Weights, state_dict
from entprog.metrics.base import Skipped
from entprog.profiling.device import pick_device

__all__ = ["FIDVID"]

SOURCES: dict[Depth, Source] = {
    "resnet-50": Source(
        "resnet-50-kinetics.pth",
        ("https://github.com/yjh0410/YOWOF/releases/download/yowof-weight/resnet-50-kinetics.pth",),
    ),
    "resnext-101": Source("resnext-101-kinetics.pth"),
}
"""Trained on Kinetics-400 by the networks' authors, who publish no checksums."""
MEAN = (114.7748, 107.7354, 99.4750)
"""Mean of Kinetics' red, green and blue in 0..255, which the networks were trained without."""
SIDE = 112
BATCH = 4


@dataclass(frozen=True)
class FIDVID:
    """Frechet distance between generated and true windows of frames over a 3D ResNet (FID-VID); 0 is best.

    Papers on human video report by this name the pooled features of the 3D ResNet-50 of DisCo's code ("FVD-3DRN50"
    there); vid2vid, whose name it was first, used a ResNeXt-101. The weights are found at `weights`, in the cache
    folder (`metrics/resnet-50-kinetics.pth`), or fetched there; without them the metric is skipped.

    Attributes:
        weights: file of the network's weights.
        hash: the sha256 that this file must have, or its first digits.
        network: "resnet-50" (DisCo) or "resnext-101".
        frames: of a window; shorter clips are left out and counted. Values for different windows do not compare.
        stride: frames between the beginnings of windows: 1 takes every window, `frames` those that do not overlap.
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    pooling: ClassVar[str] = (
        "squared Frechet distance over pooled features of a 3D ResNet (Kinetics-400), frames rounded to 8 bits, "
        "less Kinetics' mean colour, windows of all clips"
    )
    per_clip: ClassVar[bool] = False
    weights: Path | None = None
    hash: str = ""
    network: Depth = "resnet-50"
    frames: int = 16
    stride: int = 1
    device: str = "auto"
    _seen: Collected = field(default_factory=Collected, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("frames", "stride"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} = {value}: give 1 or more")

    def open(self) -> None:
        """See `NetworkMetric`."""
        _network(self.network, self._weights(), pick_device(self.device))

    def update(self, fake: Tensor, real: Tensor) -> None:
        """Take clips, both [B, F, 3, H, W] in 0..1."""
        weights = self._weights()
        key = ("fid_vid", weights.sha256, self.network, self.frames, self.stride)
        self._seen.add_clips(fake, real, self.frames, lambda clip: self._features(clip, weights), key)

    @torch.inference_mode()
    def _features(self, clip: Tensor, weights: Weights) -> Tensor:
        device = pick_device(self.device)
        network = _network(self.network, weights, device)
        frames = resized(rounded(clip), (SIDE, SIDE), "bicubic") - torch.tensor(MEAN, device=clip.device).view(3, 1, 1)
        parts = windows(frames, self.frames, self.stride).split(BATCH)
        return torch.cat([network(part.contiguous().to(device)).cpu() for part in parts])

    def compute(self) -> dict[str, float]:
        """{"fid_vid": ...} over all windows; NaN where a clip is not finite.

        Raises:
            Skipped: fewer than 2 windows.
        """
        remedy = (
            f"raise evaluate.frames to {self.frames} or more, or evaluate.clips, "
            "or lower evaluate.metric_options.fid_vid.frames"
        )
        return {"fid_vid": self._seen.distance(f"windows of {self.frames} frames", remedy)}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        """See `Details`."""
        own = {
            "window": f"{self.frames} frames, every {self.stride}" if self.stride > 1 else f"{self.frames} frames, all",
            "resize": f"{SIDE}x{SIDE}, bicubic, antialiased",
            "network": f"3D {self.network}, {self._weights().said}",
        }
        return {"fid_vid": own | self._seen.counts("windows")}

    def _weights(self) -> Weights:
        return Weights.find("fid_vid", SOURCES[self.network], self.weights, self.hash)


@lru_cache(maxsize=2)
def _network(kind: Depth, weights: Weights, device: torch.device) -> ResNet3D:
    try:
        return build(kind, state_dict(weights)).to(device)
    except Skipped:
        raise
    except ValueError as error:
        raise Skipped(f"{weights.path}: {error}") from error
