"""Losses by noise band: the mean loss in each of a few equal intervals of tau, since one mean hides differences."""

import math
from collections.abc import Sequence

__all__ = ["band_edges", "band_means"]


def band_means(losses: Sequence[float], tau: Sequence[float], bands: int = 5) -> list[float]:
    """Mean loss in each of `bands` equal intervals of tau from 0 (clean) to 1 (pure noise); NaN where one is empty.

    `losses[i]` is the loss of a draw at noise level `tau[i]`. A value of tau on an edge belongs to the higher band, 1
    to the highest.

    Raises:
        ValueError: unequal lengths, no band, or a tau outside [0, 1].
    """
    if bands < 1:
        raise ValueError(f"bands = {bands}: must be at least 1")
    if len(losses) != len(tau):
        raise ValueError(f"{len(losses)} losses and {len(tau)} values of tau: give one tau a loss")
    members: list[list[float]] = [[] for _ in range(bands)]
    for loss, noise in zip(losses, tau, strict=True):
        if not 0.0 <= noise <= 1.0:
            raise ValueError(f"tau = {noise}: must be in [0, 1]")
        members[min(int(noise * bands), bands - 1)].append(loss)
    return [math.fsum(values) / len(values) if values else math.nan for values in members]


def band_edges(bands: int = 5) -> list[tuple[float, float]]:
    """(lowest, highest) tau of each band, ascending."""
    return [(i / bands, (i + 1) / bands) for i in range(bands)]
