"""Overlapping windows over a clip that is longer than a model makes, blended at each denoising step.

As temporal MultiDiffusion (Bar-Tal et al. 2023, over time), but causal: a window is denoised after the one before it.
Both begin at the same noise in the frames that they share. There, at each step, the prediction of the window before is
kept and blended with the own one, with a weight that falls linearly from 1 at the first shared frame to 0 behind the
last. So the first shared frame is exactly that of the window before, and what is kept does not grow with the length.

Shape legend: B clips, T latent frames, C latent channels, h w latent height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

__all__ = ["Window", "plan_windows"]

SHARED = 3
"""A window shares one of so many of its frames with the next one."""
OWN_NOISE = 8
"""Stream of the noise of frames that a window does not share."""


@dataclass
class Window:
    """One window of a longer clip, in latent frames.

    Attributes:
        start, length: its place in the clip.
        first: leading latent frames that no other window has: 1 for a causal video codec, whose first latent frame is a
            single frame where that of the clip is several; else 0.
        before, after: how many latent frames it shares with the window before and the next one, without `first`.
        former: per denoising step, what the window before predicted for the shared frames; set by `follow`.
        own: per step, what this window predicts for the frames that the next one shares.
    """

    start: int
    length: int
    first: int = 0
    before: int = 0
    after: int = 0
    former: list[Tensor] = field(default_factory=list, repr=False)
    own: list[Tensor] = field(default_factory=list, repr=False)

    def follow(self, last: "Window") -> None:
        """Blend with what the window before predicted, which has been denoised."""
        self.former, last.own = last.own, []

    def noise(self, shape: Sequence[int], seed: int, key: int, *, leading: int = 0) -> Tensor:
        """Initial noise [1, leading + T, C, h, w]: that of a frame depends on its place in the clip, not on the window.

        Args:
            shape: (C, h, w).
            leading: frames in front of the clip's own that are denoised, too.
        """
        own = [_source(seed, 5, key, OWN_NOISE, self.start, i) for i in range(leading + self.first)]
        sources = [*own, *(_source(seed, 5, key, i) for i in self._places())]
        return torch.from_numpy(np.stack([one.standard_normal(shape, dtype=np.float32) for one in sources]))[None]

    def generators(self, seed: int, key: int, *, leading: int = 0) -> list[torch.Generator]:
        """For a scheduler that adds noise at each step: one for each latent frame, alike where windows share it."""
        own = [(OWN_NOISE, self.start, i) for i in range(leading + self.first)]
        places = [*own, *((OWN_NOISE, i) for i in self._places())]
        seeds = [int(_source(seed, 6, key, *place).integers(2**63)) for place in places]
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def _places(self) -> range:
        return range(self.start + self.first, self.start + self.length)

    def blend(self, step: int, predicted: Tensor, *, leading: int = 0) -> Tensor:
        """The prediction [B, leading + T, C, h, w] of a step, blended with that of the window before."""
        at = leading + self.first
        if self.former:
            former = self.former[step].to(predicted.device)
            weight = torch.arange(self.before, 0, -1, device=predicted.device).view(-1, 1, 1, 1) / self.before
            predicted = predicted.clone()
            shared = predicted[:, at : at + self.before]
            predicted[:, at : at + self.before] = torch.where(weight == 1, former, shared + weight * (former - shared))
        if self.after:
            self.own.append(predicted[:, -self.after :].cpu())
        return predicted


def _source(*keys: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(keys)))


def plan_windows(total: int, length: int, *, first: int = 0) -> list[Window]:
    """Windows of `length` latent frames over a clip of `total`, evenly spread; neighbours share at least a third.

    One window where the clip is no longer than that. Windows of a single latent frame share nothing, and those of two
    with `first` 1 share one pixel frame, but no latent frame.
    """
    if total <= length:
        return [Window(0, total)]
    if length == 1:
        return [Window(start, 1) for start in range(total)]
    shared = min(length - 1, -(-length // SHARED) + first)
    count = -(-(total - shared) // (length - shared))
    starts = [round(i * (total - length) / (count - 1)) for i in range(count)]
    windows = [Window(start, length, first if i else 0) for i, start in enumerate(starts)]
    for last, window in pairwise(windows):
        window.before = last.after = max(0, last.start + last.length - window.start - first)
    return windows
