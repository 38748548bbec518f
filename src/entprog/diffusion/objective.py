"""The forward process: x_tau from clean latents and noise, thin over diffusers' noise schedules."""

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

    def add(self, clean: Tensor, noise: Tensor, tau: Tensor) -> Tensor:
        """x_tau of clean latents [B, ...] with `noise` of the same shape at `tau` [B]."""
        abar = self._table.to(clean.device)[self.steps(tau)]  # type: ignore[attr-defined]
        abar = abar.view(-1, *[1] * (clean.dim() - 1))
        return abar.sqrt() * clean + (1 - abar).sqrt() * noise


def step_to_tau(step: Tensor | int, device: torch.device | str = "cpu") -> Tensor:
    """The time in 0..1 in the middle of a discrete step."""
    return (torch.as_tensor(step, device=device, dtype=torch.float32) + 0.5) / STEPS
