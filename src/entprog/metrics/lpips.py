"""Learned perceptual image patch similarity (Zhang et al., arXiv 1801.03924) of frames."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torchmetrics
from torch import Tensor, nn

from entprog.metrics._collected import cached
from entprog.metrics._weights import Source, Weights, state_dict
from entprog.metrics.base import Skipped
from entprog.profiling.device import pick_device

__all__ = ["LPIPS"]

Net = Literal["vgg", "alex"]
SOURCES: dict[Net, Source] = {
    "vgg": Source(
        "vgg16-397923af.pth",
        ("https://download.pytorch.org/models/vgg16-397923af.pth",),
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    "alex": Source(
        "alexnet-owt-7be5be79.pth",
        ("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",),
        "7be5be79",
    ),
}
"""The networks of torchvision, whose files carry the first digits of their checksum in the name."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation for pixels in -1..1."""
BATCH = 8
SMALLEST: dict[Net, int] = {"vgg": 16, "alex": 63}
"""Pixels a side below which a network's last layer has nothing left."""


@dataclass(frozen=True)
class LPIPS:
    """Learned perceptual distance of frames (LPIPS); 0 for equal frames.

    The weights of the layers' sum come with torchmetrics, those of the network with torchvision; the latter are found
    at `weights`, in the cache folder (`metrics/vgg16-397923af.pth`), or fetched there. Without them the metric is
    skipped. Neither torchvision nor the package `lpips` is needed.

    Attributes:
        weights: file of the network's weights.
        hash: the sha256 that this file must have, or its first digits.
        net: "vgg" (papers on human video) or "alex" (the default of torchmetrics and lpips).
        scaled: whether frames are given in -1..1, as the network expects; DisCo's evaluation gives them in 0..1.
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    pooling: ClassVar[str] = "version 0.1, mean over pixels of each layer, mean over frames and clips"
    weights: Path | None = None
    hash: str = ""
    net: Net = "vgg"
    scaled: bool = True
    device: str = "auto"
    _frames: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def open(self) -> None:
        """See `NetworkMetric`."""
        _network(self.net, self._weights(), pick_device(self.device))

    @torch.inference_mode()
    def update(self, fake: Tensor, real: Tensor) -> None:
        """Take clips, both [B, F, 3, H, W] in 0..1.

        Raises:
            Skipped: frames too small for the network.
        """
        if min(fake.shape[-2:]) < SMALLEST[self.net]:
            raise Skipped(
                f"frames of {fake.shape[-2]}x{fake.shape[-1]} px; {self.net} needs {SMALLEST[self.net]} a side: raise "
                "evaluate.resolution"
            )
        weights = self._weights()
        key = ("lpips", weights.sha256, self.net, self.scaled)
        for one, other in zip(fake, real, strict=True):
            self._frames.append(cached(torch.cat([one, other]), lambda both: self._distances(both, weights), key))

    def _distances(self, both: Tensor, weights: Weights) -> Tensor:
        """Of the first half of the frames from the second."""
        device = pick_device(self.device)
        network = _network(self.net, weights, device)
        both = 2 * both.float() - 1 if self.scaled else both.float()
        pairs = [half.split(BATCH) for half in both.chunk(2)]
        return torch.cat([network(a.to(device), b.to(device)) for a, b in zip(*pairs, strict=True)])

    def compute(self) -> dict[str, float]:
        """{"lpips": ...} over all frames."""
        return {"lpips": torch.cat(self._frames).mean().item()}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        """See `Details`."""
        given = "-1..1" if self.scaled else "0..1, unscaled"
        return {"lpips": {"network": f"{self.net}, {self._weights().said}", "pixels": given}}

    def _weights(self) -> Weights:
        return Weights.find("lpips", SOURCES[self.net], self.weights, self.hash)


class Network(nn.Module):
    """sum over layers of the mean over pixels of w . (f(a) - f(b))^2, f of unit length over channels; [N]."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.features, self.taps = backbone(net)
        channels = [64, 128, 256, 512, 512] if net == "vgg" else [64, 192, 384, 256, 256]
        self.lins = nn.ParameterList([nn.Parameter(torch.empty(1, c, 1, 1)) for c in channels])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        shift, scale = (a.new_tensor(values).view(3, 1, 1) for values in (SHIFT, SCALE))
        a, b = (a - shift) / scale, (b - shift) / scale
        total = a.new_zeros(len(a))
        weights = iter(self.lins)
        for i, layer in enumerate(self.features):
            a, b = layer(a), layer(b)
            if i in self.taps:
                difference = (_unit(a) - _unit(b)).square() * next(weights)
                total = total + difference.sum(1).mean((1, 2))
        return total


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()


def backbone(net: Net) -> tuple[nn.Sequential, tuple[int, ...]]:
    """The convolutions of VGG-16 or AlexNet, numbered as in torchvision, and after which of them LPIPS looks."""
    if net == "alex":
        layers: list[nn.Module] = [
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        ]  # fmt: skip
        return nn.Sequential(*layers), (1, 4, 7, 9, 11)
    layers, taps, channels = [], [], 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        taps.append(len(layers) - 1)
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers[:-1]), tuple(taps)


@lru_cache(maxsize=2)
def _network(net: Net, weights: Weights, device: torch.device) -> Network:
    """The network with its weights.

    Raises:
        Skipped: they are those of another network.
    """
    found = {k: v for k, v in state_dict(weights).items() if k.startswith("features.")}
    with torch.device("meta"):
        network = Network(net)
    found |= {f"lins.{i}": value for i, value in enumerate(_layer_weights(net))}
    try:
        network.load_state_dict(found, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:200]
        raise Skipped(f"{weights.path}: no weights of {net} as torchvision stores them ({reason})") from error
    return network.eval().requires_grad_(False).to(device)


def _layer_weights(net: Net) -> list[Tensor]:
    """The weights of the layers' channels that the authors of LPIPS fitted; torchmetrics ships them."""
    folder = Path(inspect.getfile(torchmetrics)).parent / "functional" / "image" / "lpips_models"
    stored = state_dict(Weights(folder / f"{net}.pth", "", None))
    return [stored[f"lin{i}.model.1.weight"] for i in range(5)]
