"""The PCA patch codec: frames to latents and back by one orthonormal projection of small patches.

A patch of 4 x 4 pixels (48 numbers) becomes 16 channels. Only the principal components are fitted, so encoding a
frame takes microseconds and decoding is exact up to the dropped components.
"""

import hashlib
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from safetensors.torch import load_file, save_file
from torch import Tensor

from entprog.codecs.base import Codec

__all__ = ["Pca"]

FACTOR = 4
CHANNELS = 16
AT_ONCE = 2**18
"""Pixels that are encoded at once on a CPU, four frames of 256 px: their floats stay in its cache."""


@dataclass(frozen=True)
class Pca:
    """Principal components of RGB patches of 4 x 4 pixels: the embedded codec.

    Attributes:
        path: a file written by `PatchCodec.save`; empty for the codec that ships with the package.
    """

    path: str = ""

    def open(self) -> "PatchCodec":
        """The codec itself."""
        return PatchCodec.load(self.path) if self.path else PatchCodec.default()


class PatchCodec(Codec):
    """Principal components of RGB patches as a latent space.

    Attributes:
        mean: [48] mean patch, in -1..1.
        basis: [16, 48] orthonormal rows, most variance first.
        scale: [16] divisor of each coefficient. Scaling by the square root of a channel's standard deviation
            (half whitening) keeps coarse channels larger than fine ones, as in pixels, but less so.
    """

    name = "pca-f4c16"
    channels, factor = CHANNELS, FACTOR

    def __init__(self, mean: Tensor, basis: Tensor, scale: Tensor) -> None:
        self.mean, self.basis, self.scale = mean.float(), basis.float(), scale.float()

    @classmethod
    def default(cls) -> "PatchCodec":
        """The codec that ships with the package."""
        with as_file(files("entprog") / "assets" / "codec.safetensors") as path:
            return cls.load(path)

    @classmethod
    def load(cls, path: str | Path) -> "PatchCodec":
        """Read a codec file written by `save`."""
        tensors = load_file(str(path))
        missing = {"mean", "basis", "scale"} - tensors.keys()
        if missing:
            raise ValueError(
                f"codec = {str(path)!r}: no tensors {sorted(missing)}; give a file written by PatchCodec.save"
            )
        return cls(tensors["mean"], tensors["basis"], tensors["scale"])

    @classmethod
    def fit(cls, frames: Tensor) -> "PatchCodec":
        """Principal components of all patches of uint8 frames [F, H, W, 3]."""
        patches = _patches(frames.movedim(-1, -3).float() / 127.5 - 1).flatten(0, 2).double()
        mean = patches.mean(0)
        centred = patches - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        order = values.argsort(descending=True)[:CHANNELS]
        basis = vectors[:, order].T
        basis = basis * basis.sum(1, keepdim=True).sign().where(basis.sum(1, keepdim=True).abs() > 1e-6, torch.ones(()))
        deviation = values[order].clamp_min(1e-12).sqrt()
        scale = deviation.sqrt()
        scale = scale * ((deviation / scale) ** 2).mean().sqrt()
        return cls(mean, basis, scale)

    def save(self, path: str | Path) -> None:
        """Write the codec as safetensors, with the folder's read permissions."""
        path = Path(path)
        tensors = {"mean": self.mean, "basis": self.basis.contiguous(), "scale": self.scale}
        save_file(tensors, str(path), {"name": self.name})
        path.chmod(path.parent.stat().st_mode & 0o666)  # the format's writer makes it private

    @property
    def hash(self) -> str:
        """Short hash of the codec's numbers; latents of different codecs do not mix."""
        digest = hashlib.sha256()
        for tensor in (self.mean, self.basis, self.scale):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def encode(self, frames: Tensor | np.ndarray) -> Tensor:
        """uint8 frames [..., H, W, 3] (H, W multiples of 4) to float32 latents [..., 16, H/4, W/4]."""
        given = torch.as_tensor(frames)
        lead, (height, width) = given.shape[:-3], _checked(*given.shape[-3:-1])
        rows, columns = height // FACTOR, width // FACTOR
        at_once = AT_ONCE // max(1, height * width) if given.device.type == "cpu" else given.numel()
        # the bytes are reordered, not the four times larger floats
        cells = given.reshape(-1, rows, FACTOR, columns, FACTOR, 3).permute(0, 1, 3, 5, 2, 4)
        latents = torch.cat(
            [
                self._of_patches(some.reshape(-1, rows, columns, 3 * FACTOR**2).float().div_(127.5).sub_(1))
                for some in cells.split(max(1, at_once))
            ]
        )
        return latents.reshape(*lead, *latents.shape[1:])

    def encode_pixels(self, frames: Tensor) -> Tensor:
        """Frames in 0..1, [..., 3, H, W], to latents [..., 16, H/4, W/4] on the same device, without rounding."""
        return self._project(frames.float() * 2 - 1)

    def _project(self, pixels: Tensor) -> Tensor:
        """Pixels in -1..1, [..., 3, H, W], to latents."""
        lead = pixels.shape[:-3]
        latents = self._of_patches(_patches(pixels.reshape(-1, *pixels.shape[-3:])))
        return latents.reshape(*lead, *latents.shape[1:])

    def _of_patches(self, patches: Tensor) -> Tensor:
        """Patches [F, H/4, W/4, 48] in -1..1 to latents [F, 16, H/4, W/4]."""
        mean, basis, scale = (t.to(patches.device) for t in (self.mean, self.basis, self.scale))
        return ((patches - mean) @ basis.T / scale).permute(0, 3, 1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [..., 16, h, w] to frames in 0..1, [..., 3, 4h, 4w]."""
        lead = latents.shape[:-3]
        flat = latents.reshape(-1, *latents.shape[-3:]).float().permute(0, 2, 3, 1)
        mean, basis, scale = (t.to(flat.device) for t in (self.mean, self.basis, self.scale))
        patches = (flat * scale) @ basis + mean
        frames = functional.pixel_shuffle(patches.permute(0, 3, 1, 2), FACTOR)
        frames = ((frames + 1) / 2).clamp(0, 1)
        return frames.reshape(*lead, *frames.shape[1:])


def _patches(pixels: Tensor) -> Tensor:
    """Pixels [F, 3, H, W] to patches [F, H/4, W/4, 48]."""
    _checked(*pixels.shape[2:])
    return functional.pixel_unshuffle(pixels, FACTOR).permute(0, 2, 3, 1)


def _checked(height: int, width: int) -> tuple[int, int]:
    if height % FACTOR or width % FACTOR:
        raise ValueError(f"frame size {height}x{width}: must be a multiple of {FACTOR}")
    return height, width


def to_uint8(frames: Tensor) -> np.ndarray:
    """Frames in 0..1, [..., 3, H, W], to uint8 [..., H, W, 3] for writing."""
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()
