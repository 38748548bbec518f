"""Noise levels of pretrained models: what a time tau in 0..1 means for the forward process and for the network.

Shape legend: B samples.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["FlowLevels", "Levels", "LogNormalLevels", "TableLevels", "Timesteps", "dynamic_shift", "ranged"]

Timesteps = Literal["uniform", "logit_normal"]

TRAIN_STEPS = 1000
EDGE = 1e-5
"""tau is kept this far from 0 and 1 where a distribution has no ends."""


class Levels(ABC):
    """x_tau = a x_0 + b eps; training draws tau uniformly, so the levels hold the distribution of noise, too."""

    @abstractmethod
    def a(self, tau: Tensor) -> Tensor:
        """Factor [B] of the clean latents."""

    @abstractmethod
    def b(self, tau: Tensor) -> Tensor:
        """Factor [B] of the noise."""

    @abstractmethod
    def time(self, tau: Tensor) -> Tensor:
        """[B] what the network gets, in the unit of the scheduler's timesteps."""


@dataclass(frozen=True)
class FlowLevels(Levels):
    """Rectified flow: a = 1 - sigma, b = sigma, time 1000 sigma.

    sigma = shift u / (1 + (shift - 1) u) of a time u that is uniform, or logit-normal (Esser et al. 2024), by its
    inverse distribution function. Of a part `low`..`high` of the noise levels (an expert of Wan 2.2) exactly the draws
    in it are kept: the distribution is cut, not squeezed.
    """

    shift: float = 1.0
    sampling: Timesteps = "uniform"
    low: float = 0.0
    high: float = 1.0

    def sigma(self, tau: Tensor) -> Tensor:
        """The noise level in `low`..`high`."""
        start, end = (self._share_below(sigma) for sigma in (self.low, self.high))
        u = start + (end - start) * tau
        if self.sampling == "logit_normal":
            u = torch.sigmoid(torch.special.ndtri(u.double().clamp(EDGE, 1 - EDGE))).to(tau.dtype)
        return self.shift * u / (1 + (self.shift - 1) * u)

    def _share_below(self, sigma: float) -> float:
        """The share of all draws below a noise level."""
        u = sigma / (self.shift - (self.shift - 1) * sigma)
        if self.sampling == "uniform" or not 0 < u < 1:
            return u
        return 0.5 * (1 + math.erf(math.log(u / (1 - u)) / math.sqrt(2)))

    def a(self, tau: Tensor) -> Tensor:
        return 1 - self.sigma(tau)

    def b(self, tau: Tensor) -> Tensor:
        return self.sigma(tau)

    def time(self, tau: Tensor) -> Tensor:
        return self.sigma(tau) * TRAIN_STEPS


class TableLevels(Levels):
    """The discrete steps of a scheduler: a = sqrt(abar), b = sqrt(1 - abar), time the step.

    Args:
        alphas: abar [steps], descending.
        low, high: the part of the steps that is trained, as shares of them.
    """

    def __init__(self, alphas: Tensor, low: float = 0.0, high: float = 1.0) -> None:
        self.alphas, self.low, self.high = alphas.float(), low, high

    def time(self, tau: Tensor) -> Tensor:
        u = self.low + (self.high - self.low) * tau.double()
        return (u * len(self.alphas)).long().clamp(0, len(self.alphas) - 1)

    def _abar(self, tau: Tensor) -> Tensor:
        return self.alphas.to(tau.device)[self.time(tau)]

    def a(self, tau: Tensor) -> Tensor:
        return self._abar(tau).sqrt()

    def b(self, tau: Tensor) -> Tensor:
        return (1 - self._abar(tau)).sqrt()


@dataclass(frozen=True)
class LogNormalLevels(Levels):
    """EDM's noise levels (Karras et al. 2022): ln sigma is normal, x / sqrt(1 + sigma^2) is what the network gets.

    With a^2 = 1 / (1 + sigma^2), EDM's target is the v of Salimans & Ho 2022; the time is ln(sigma) / 4. Mean and
    spread are those of Stable Video Diffusion (Blattmann et al. 2023).
    """

    mean: float = 0.7
    spread: float = 1.6

    def sigma(self, tau: Tensor) -> Tensor:
        """The noise level, above 0."""
        return torch.exp(self.mean + self.spread * torch.special.ndtri(tau.double().clamp(EDGE, 1 - EDGE)))

    def a(self, tau: Tensor) -> Tensor:
        return (1 + self.sigma(tau) ** 2).rsqrt().float()

    def b(self, tau: Tensor) -> Tensor:
        sigma = self.sigma(tau)
        return (sigma * (1 + sigma**2).rsqrt()).float()

    def time(self, tau: Tensor) -> Tensor:
        return (0.25 * self.sigma(tau).log()).float()


def dynamic_shift(config: Mapping[str, Any], tokens: int) -> float:
    """The shift of a flow scheduler with `use_dynamic_shifting`, for so many tokens: linear in them, as exp(mu)."""
    few, many = int(config.get("base_image_seq_len", 256)), int(config.get("max_image_seq_len", 4096))
    low, high = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    mu = low + (high - low) * (tokens - few) / (many - few)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)


def ranged(low: float, high: float, *, ends: bool) -> str:
    """Why a part of the noise levels can't be trained by itself; empty where it can. `ends`: whether they have any."""
    if not 0 <= low < high <= 1:
        return f"expected two numbers from 0 to 1, the lower first, not [{low:g}, {high:g}]"
    if not ends and (low, high) != (0, 1):
        return "the noise levels of this model have no ends; leave it out"
    return ""
