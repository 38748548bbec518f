"""Frechet inception distance (Heusel et al., arXiv 1706.08500) over frames."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from entprog.metrics._collected import Collected, resized, rounded
from entprog.metrics._weights import Source, Weights, called, script
from entprog.profiling.device import pick_device

__all__ = ["FID"]

INCEPTION = Source(
    "inception-2015-12-05.pt",
    ("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",),
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
)
"""The Inception-v3 of the original FID (TensorFlow, 2015), as NVIDIA publishes it for StyleGAN2."""
CALL = "network(frames [N, 3, H, W] in 0..255, return_features=True) -> [N, D]"
SIDE = 299
BATCH = 16


@dataclass(frozen=True)
class FID:
    """Frechet distance between generated and true frames over Inception-v3's pooled features (FID); 0 is best.

    The network is the TorchScript file that NVIDIA publishes, or one that is called alike. It is found at `weights`, in
    the cache folder (`metrics/inception-2015-12-05.pt`), or fetched there; without it the metric is skipped.

    Attributes:
        weights: file of the network.
        hash: the sha256 that this file must have, or its first digits.
        resize: to 299x299, "bilinear" without antialiasing (pytorch-fid, DisCo) or "bicubic" with it (clean-fid).
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    pooling: ClassVar[str] = (
        "squared Frechet distance over Inception-v3 (2015, 2048 pooled features), frames rounded to 8 bits, "
        "all frames of all clips"
    )
    per_clip: ClassVar[bool] = False
    weights: Path | None = None
    hash: str = ""
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    device: str = "auto"
    _seen: Collected = field(default_factory=Collected, init=False, repr=False, compare=False)

    def open(self) -> None:
        """See `NetworkMetric`."""
        script(self._weights(), pick_device(self.device))

    def update(self, fake: Tensor, real: Tensor) -> None:
        """Take clips, both [B, F, 3, H, W] in 0..1."""
        weights = self._weights()
        for one, other in zip(fake, real, strict=True):
            key = ("fid", weights.sha256, self.resize)
            self._seen.add(one, other, lambda clip: self._features(clip, weights), key)

    @torch.inference_mode()
    def _features(self, clip: Tensor, weights: Weights) -> Tensor:
        device = pick_device(self.device)
        network, found = script(weights, device), []
        for part in rounded(clip).split(BATCH):
            frames = resized(part, (SIDE, SIDE), self.resize, antialias=self.resize == "bicubic")
            with called(weights, CALL):
                found.append(network(frames.to(device), return_features=True).flatten(1).cpu())
        return torch.cat(found)

    def compute(self) -> dict[str, float]:
        """{"fid": ...} over all frames; NaN where a frame is not finite.

        Raises:
            Skipped: fewer than 2 frames.
        """
        return {"fid": self._seen.distance("frames", "raise evaluate.frames or evaluate.clips")}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        """See `Details`."""
        how = "bicubic, antialiased" if self.resize == "bicubic" else "bilinear, not antialiased"
        own = {"resize": f"{SIDE}x{SIDE}, {how}", "network": self._weights().said}
        return {"fid": own | self._seen.counts("frames")}

    def _weights(self) -> Weights:
        return Weights.find("fid", INCEPTION, self.weights, self.hash)
