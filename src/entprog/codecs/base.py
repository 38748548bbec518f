"""The Codec contract: frames to latents and back."""

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor

__all__ = ["Codec"]


class Codec(ABC):
    """A latent space of frames.

    Where `frames_factor` is above 1, the codec is a causal video codec: methods then take and give whole videos, with
    a frame axis before the channels: F = frames_factor * k + 1 frames [..., F, 3, H, W] are T = k + 1 latent frames
    [..., T, C, h, w]. The first latent frame is the first frame alone, each other one is `frames_factor` frames. A
    window of frames must be encoded by itself: a slice of a longer video's latents differs.

    Attributes:
        name: of the codec, for protocols.
        channels: C of latents.
        factor: pixels of a side that become one latent position.
        frames_factor: frames that become one latent frame; 1 where each frame is encoded separately.
    """

    name: str
    channels: int
    factor: int
    frames_factor: int = 1

    @property
    @abstractmethod
    def hash(self) -> str:
        """Short hash of the codec's numbers; latents of different codecs do not mix."""

    @abstractmethod
    def encode(self, frames: Tensor | np.ndarray) -> Tensor:
        """uint8 frames [..., H, W, 3] (H, W multiples of `factor`) to float32 latents [..., C, H / f, W / f].

        Raises:
            ValueError: H or W is no multiple of `factor`, or the number of frames does not fit `frames_factor`.
        """

    @abstractmethod
    def encode_pixels(self, frames: Tensor) -> Tensor:
        """Frames in 0..1, [..., 3, H, W], to latents on the same device, without rounding."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [..., C, h, w] to frames in 0..1, [..., 3, H, W]."""
