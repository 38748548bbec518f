"""Frechet video distance (Unterthiner et al., arXiv 1812.01717) over I3D, as StyleGAN-V and DisCo compute it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from entprog.metrics._collected import Collected, resized, rounded, windows
from entprog.metrics._weights import Source, Weights, called, script
from entprog.profiling.device import pick_device

__all__ = ["FVD"]

I3D = Source(
    "i3d_torchscript.pt",
    (
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
        "https://huggingface.co/flateon/FVD-I3D-torchscript/resolve/main/i3d_torchscript.pt",
    ),
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
)
"""I3D trained on Kinetics-400, as StyleGAN-V publishes it for this distance."""
CALL = "network(clips [N, 3, T, H, W] float, rescale=..., resize=..., return_features=True) -> [N, D]"
SIDE = 224
LEAST = 9
"""I3D halves the frames three times and then averages two: fewer do not pass."""
BATCH = 4


@dataclass(frozen=True)
class FVD:
    """Frechet distance between generated and true windows of frames over I3D's features (FVD); 0 is best.

    The network is the TorchScript file that StyleGAN-V publishes, or one that is called alike. It is found at
    `weights`, in the cache folder (`metrics/i3d_torchscript.pt`), or fetched there; without it the metric is skipped.

    Attributes:
        weights: file of the network.
        hash: the sha256 that this file must have, or its first digits.
        frames: of a window; shorter clips are left out and counted. Values for different windows do not compare.
        stride: frames between the beginnings of windows: 1 takes every window, `frames` those that do not overlap.
        resize: to 224x224 by the "network" itself (StyleGAN-V), or before it, "bicubic" as Pillow (DisCo).
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    pooling: ClassVar[str] = (
        "squared Frechet distance over I3D (Kinetics-400, features before the softmax), frames rounded to 8 bits, "
        "windows of all clips"
    )
    per_clip: ClassVar[bool] = False
    weights: Path | None = None
    hash: str = ""
    frames: int = 16
    stride: int = 1
    resize: Literal["network", "bicubic"] = "network"
    device: str = "auto"
    _seen: Collected = field(default_factory=Collected, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.frames < LEAST:
            raise ValueError(f"frames = {self.frames}: I3D needs {LEAST} or more")
        if self.stride < 1:
            raise ValueError(f"stride = {self.stride}: give 1 or more")

    def open(self) -> None:
        """See `NetworkMetric`."""
        script(self._weights(), pick_device(self.device))

    def update(self, fake: Tensor, real: Tensor) -> None:
        """Take clips, both [B, F, 3, H, W] in 0..1."""
        weights = self._weights()
        key = ("fvd", weights.sha256, self.frames, self.stride, self.resize)
        self._seen.add_clips(fake, real, self.frames, lambda clip: self._features(clip, weights), key)

    @torch.inference_mode()
    def _features(self, clip: Tensor, weights: Weights) -> Tensor:
        device = pick_device(self.device)
        network, own = script(weights, device), self.resize == "network"
        frames = rounded(clip)
        if not own:
            frames = resized(frames, (SIDE, SIDE), "bicubic") / 127.5 - 1
        found = []
        for part in windows(frames, self.frames, self.stride).split(BATCH):
            with called(weights, CALL):
                rows = network(part.contiguous().to(device), rescale=own, resize=own, return_features=True)
                found.append(rows.flatten(1).cpu())
        return torch.cat(found)

    def compute(self) -> dict[str, float]:
        """{"fvd": ...} over all windows; NaN where a clip is not finite.

        Raises:
            Skipped: fewer than 2 windows.
        """
        remedy = f"raise evaluate.frames to {self.frames} or more, or evaluate.clips"
        if self.frames > 10:
            remedy += f", or set evaluate.metric_options.fvd.frames to {LEAST} or more"
        return {"fvd": self._seen.distance(f"windows of {self.frames} frames", remedy)}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        """See `Details`."""
        how = "inside the network" if self.resize == "network" else "bicubic, antialiased"
        own = {
            "window": f"{self.frames} frames, every {self.stride}" if self.stride > 1 else f"{self.frames} frames, all",
            "resize": f"{SIDE}x{SIDE}, {how}",
            "network": self._weights().said,
        }
        return {"fvd": own | self._seen.counts("windows")}

    def _weights(self) -> Weights:
        return Weights.find("fvd", I3D, self.weights, self.hash)
