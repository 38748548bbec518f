"""3D ResNets of Hara, Kataoka and Satoh (arXiv 1711.09577) up to their pooled features.

Parameters are called as in the published checkpoints, so these can be loaded. Shape legend: B clips, C channels,
T frames, H W height and width in pixels.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Depth", "build"]

Depth = Literal["resnet-50", "resnext-101"]
WIDTHS = (64, 128, 256, 512)
"""Channels of a ResNet's four stages before expansion."""
KINDS: dict[str, tuple[tuple[int, int, int, int], int, int]] = {
    "resnet-50": ((3, 4, 6, 3), 4, 1),
    "resnext-101": ((3, 4, 23, 3), 2, 32),
}
"""Blocks of each stage, expansion of a block, groups of its middle convolution."""


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3 and 1x1x1 convolutions beside the identity, or beside a 1x1x1 convolution where shapes differ."""

    def __init__(self, channels: int, middle: int, out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(middle)
        self.conv2 = nn.Conv3d(middle, middle, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm3d(middle)
        self.conv3 = nn.Conv3d(middle, out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out)
        self.downsample = (
            nn.Sequential(nn.Conv3d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm3d(out))
            if stride > 1 or channels != out
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return (self.bn3(self.conv3(x)) + beside).relu()


class ResNet3D(nn.Module):
    """[B, 3, T, H, W] -> [B, C], the mean over what is left of frames and pixels."""

    def __init__(self, kind: Depth) -> None:
        super().__init__()
        blocks, expansion, groups = KINDS[kind]
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        channels = 64
        for number, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True), 1):
            middle = width if groups == 1 else 2 * width
            stage: list[nn.Module] = []
            for i in range(count):
                stride = 2 if number > 1 and i == 0 else 1
                stage.append(Bottleneck(channels, middle, middle * expansion, stride, groups))
                channels = middle * expansion
            self.add_module(f"layer{number}", nn.Sequential(*stage))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for number in range(1, len(WIDTHS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x.mean((2, 3, 4))


def build(kind: Depth, tensors: Mapping[str, Tensor]) -> ResNet3D:
    """The network with these weights; the classifier among them is left out.

    Raises:
        ValueError: they are those of another network.
    """
    with torch.device("meta"):  # drawing random weights would advance the generator that training draws from
        network = ResNet3D(kind)
    own = {name: value.clone() for name, value in tensors.items() if not name.startswith("fc.")}
    counted = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    own |= {name: torch.tensor(0) for name in counted - own.keys()}  # checkpoints of PyTorch before 0.4.1 lack them
    try:
        network.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise ValueError(f"no weights of a 3D {kind}: {str(error).splitlines()[1].strip()[:200]}") from error
    return network.eval().requires_grad_(False)
