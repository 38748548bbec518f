"""The forward process: x_tau from clean latents and noise, thin over diffusers' noise schedules."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

STEPS = 1000


@dataclass(frozen=True)
class Noising:
    """x_tau = sqrt(abar) x_0 + sqrt(1 - abar) eps, with abar from a diffusers beta schedule of 1000 steps.

    `beta_schedule` is a name of diffusers: "linear" (DDPM, DiT) or "squaredcos_cap_v2" (IDDPM's cosine).
    """

    beta_schedule: str = "squaredcos_cap_v2"

    def __post_init__(self) -> None:
        if self.beta_schedule not in ("linear", "scaled_linear", "squaredcos_cap_v2"):
            raise ValueError(
                f"diffusion.beta_schedule = {self.beta_schedule!r}: choose linear, scaled_linear or squaredcos_cap_v2"
            )
        scheduler: Any = DDPMScheduler(num_train_timesteps=STEPS, beta_schedule=self.beta_schedule)
        object.__setattr__(self, "_table", scheduler.alphas_cumprod)

    def steps(self, tau: Tensor) -> Tensor:
        """Discrete steps 0..999 of times tau in 0..1."""
        return (tau.double() * STEPS).long().clamp(0, STEPS - 1)

    def shifted(self, tau: Tensor, factor: float) -> Tensor:
        """Times at which the signal-to-noise ratio abar / (1 - abar) is `factor` squared times that of `tau` [B].

        A picture of half the side has a quarter of the tokens to tell the same content by: with `factor` 2, the
        ratio of the sides, it keeps as much of it at the shifted time as the full one has at `tau` (Hoogeboom et al.
        2023, "simple diffusion"). Times are those of discrete steps; the table's ends bound them.
        """
        table = self._table.double()  # type: ignore[attr-defined]
        log_ratio = torch.log(table / (1 - table))
        wanted = log_ratio[self.steps(tau).cpu()] + 2 * math.log(factor)
        # The table falls: search it from its end.
        place = torch.searchsorted(-log_ratio.contiguous(), -wanted.contiguous()).clamp(1, STEPS - 1)
        nearer = (log_ratio[place - 1] - wanted).abs() < (log_ratio[place] - wanted).abs()
        return step_to_tau(torch.where(nearer, place - 1, place).to(tau.device), tau.device)

    def add(self, clean: Tensor, noise: Tensor, tau: Tensor) -> Tensor:
        """x_tau of clean latents [B, ...] with `noise` of the same shape at `tau` [B]."""
        abar = self._table.to(clean.device)[self.steps(tau)]  # type: ignore[attr-defined]
        abar = abar.view(-1, *[1] * (clean.dim() - 1))
        return abar.sqrt() * clean + (1 - abar).sqrt() * noise


def step_to_tau(step: Tensor | int, device: torch.device | str = "cpu") -> Tensor:
    """The time in 0..1 in the middle of a discrete step."""
    return (torch.as_tensor(step, device=device, dtype=torch.float32) + 0.5) / STEPS
