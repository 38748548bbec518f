"""The Codec contract: frames to latents and back."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from torch import Tensor

__all__ = ["Codec"]


class Codec(ABC):
    """A latent space of frames.

    Attributes:
        name: of the codec, for protocols.
        channels: C of latents.
        factor: pixels of a side that become one latent position.
        frames_factor: frames that become one latent frame; 1 where each frame is encoded separately.
    """

    name: ClassVar[str]
    channels: int
    factor: int
    frames_factor: int = 1

    @property
    @abstractmethod
    def hash(self) -> str:
        """Short hash of the codec's numbers; latents of different codecs do not mix."""

    @abstractmethod
    def encode(self, frames: Tensor | np.ndarray) -> Tensor:
        """uint8 frames [..., H, W, 3] (H, W multiples of `factor`) to float32 latents [..., C, H / f, W / f]."""

    @abstractmethod
    def encode_pixels(self, frames: Tensor) -> Tensor:
        """Frames in 0..1, [..., 3, H, W], to latents on the same device, without rounding."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [..., C, h, w] to frames in 0..1, [..., 3, H, W]."""
