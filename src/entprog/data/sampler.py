"""Data order and randomness as pure functions, so that a run resumes exactly at any batch size or world size."""

import numpy as np

GOLDEN = 0.6180339887498949


def locate(position: int, length: int) -> tuple[int, int]:
    """Epoch and index within it of the sample at `position`, which counts samples from 0."""
    return divmod(position, length)


def shuffled(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of an epoch: a permutation of 0..length-1 fixed by (seed, epoch)."""
    return generator(seed, 0, epoch).permutation(length)


def generator(*keys: int) -> np.random.Generator:
    """A generator fixed by its integer keys (each >= 0)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(keys)))


def stratified_tau(seed: int, positions: np.ndarray, band: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Diffusion times in 0..1, inside a band of them, for samples at `positions` [B].

    The golden-ratio sequence: any run of neighbouring positions is spread evenly over the band, whatever the batch.
    """
    offset = generator(seed, 1).random()
    even = (offset + positions * GOLDEN) % 1.0
    return even if band == (0.0, 1.0) else band[0] + (band[1] - band[0]) * even


def sample_noise(seed: int, position: int, frames: int, full: tuple[int, int, int], cut: tuple[int, int]) -> np.ndarray:
    """Standard normal noise [frames, C, *cut] float32 of one sample.

    Drawn frame by frame at the `full` size (C, H, W) and cropped to the top left: the same numbers for the same
    (seed, position) at any frame count and any smaller size.
    """
    noise = generator(seed, 2, position).standard_normal((frames, *full), dtype=np.float32)
    return noise[:, :, : cut[0], : cut[1]]
