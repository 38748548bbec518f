"""Small TorchScript networks that are called as the published ones of FVD, FID and CSIM, saved to disk."""

from pathlib import Path

import torch
from torch import Tensor, nn


class StandInI3D(nn.Module):
    """Called as StyleGAN-V's i3d_torchscript.pt: clips [N, 3, T, H, W]; refuses what that would refuse."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if x.shape[2] < 9 or not return_features:
            raise ValueError("too few frames")
        if rescale:
            x = x / 127.5 - 1
        if resize:
            x = nn.functional.interpolate(x, (x.shape[2], 8, 8), mode="trilinear", align_corners=False)
        else:
            assert x.shape[3] == 224 and x.shape[4] == 224
            x = nn.functional.avg_pool3d(x, (1, 28, 28))
        return torch.cat([x.mean(2).flatten(1)[:, :6], (x[:, :, 1:] - x[:, :, :-1]).abs().mean((2, 3, 4))], 1)


class StandInInception(nn.Module):
    """Called as NVIDIA's inception-2015-12-05.pt: frames [N, 3, H, W] in 0..255."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert return_features and x.shape[2] == 299
        x = nn.functional.avg_pool2d((x - 128) / 128, 74)
        return x.flatten(1)[:, :8]


class StandInFace(nn.Module):
    """Called as ArcFace: faces [N, 3, 112, 112] in -1..1."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] == 112
        return nn.functional.avg_pool2d(x, 28).flatten(1)


def saved(network: nn.Module, path: Path) -> Path:
    """The network as a TorchScript file."""
    torch.jit.script(network).save(str(path))
    return path
