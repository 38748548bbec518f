"""The objective: how noise is added, what a model predicts, and the clean sample that a prediction implies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import diffusers
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from entprog.diffusion.levels import FlowLevels, Levels, LogNormalLevels, TableLevels, Timesteps, dynamic_shift, ranged

STEPS = 1000


Kind = Literal["epsilon", "v", "flow"]


@dataclass(frozen=True)
class Objective:
    """The forward process and the model's target: x_tau = a x_0 + b eps.

    | kind | a, b | target | x_0 from a prediction |
    |---|---|---|---|
    | epsilon | sqrt(abar), sqrt(1 - abar) | eps | (x - b eps_hat) / a |
    | v (Salimans & Ho 2022) | the same | a eps - b x_0 | a x - b v_hat |
    | flow (rectified flow) | 1 - tau, tau | eps - x_0 | x - tau v_hat |

    Attributes:
        kind: as above.
        beta_schedule: a name of diffusers that gives abar over 1000 steps: "linear" (DDPM, DiT), "scaled_linear"
            or "squaredcos_cap_v2" (IDDPM's cosine). Not used by flow.
        shift: of flow's times: tau becomes shift tau / (1 + (shift - 1) tau).
        beta_start, beta_end: of the linear schedules.
        levels: the noise levels of a pretrained model, in the place of schedule and shift; None for our own models.
    """

    kind: Kind = "epsilon"
    beta_schedule: str = "squaredcos_cap_v2"
    shift: float = 1.0
    beta_start: float = 0.0001
    beta_end: float = 0.02
    levels: Levels | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in ("epsilon", "v", "flow"):
            raise ValueError(f"objective.kind = {self.kind!r}: choose epsilon, v or flow")
        if self.beta_schedule not in ("linear", "scaled_linear", "squaredcos_cap_v2"):
            raise ValueError(
                f"diffusion.beta_schedule = {self.beta_schedule!r}: choose linear, scaled_linear or squaredcos_cap_v2"
            )
        scheduler: Any = DDPMScheduler(
            num_train_timesteps=STEPS, beta_schedule=self.beta_schedule, beta_start=self.beta_start,
            beta_end=self.beta_end,
        )  # fmt: skip
        object.__setattr__(self, "_table", scheduler.alphas_cumprod)

    @classmethod
    def from_scheduler_config(
        cls,
        config: Mapping[str, Any],
        *,
        shift: float = 0.0,
        sampling: Timesteps = "uniform",
        part: tuple[float, float] = (0.0, 1.0),
        tokens: int = 0,
    ) -> "Objective":
        """The objective of a pretrained model, read from its scheduler_config.json.

        Args:
            shift: of flow's times; 0 for that of the file.
            sampling: how flow's times are drawn.
            part: the lowest and highest noise level that is trained, 0 and 1 for all.
            tokens: of a sample, for a scheduler whose shift depends on them.

        Raises:
            ValueError: the scheduler says what can't be trained on, or an option does not apply to it.
        """
        name, kind = str(config.get("_class_name", "")), config.get("prediction_type", "epsilon")
        continuous = config.get("timestep_type") == "continuous"
        if why := ranged(*part, ends=not continuous):
            raise ValueError(f"model.timestep_range: {why}")
        if "FlowMatch" in name or kind == "flow_prediction" or config.get("use_flow_sigmas"):
            own = float(config.get("flow_shift") or config.get("shift") or 1.0)
            if config.get("use_dynamic_shifting"):
                own = dynamic_shift(config, tokens)
            levels: Levels = FlowLevels(shift or own, sampling, *part)
            return cls("flow", shift=shift or own, levels=levels)
        kinds: dict[str, Kind] = {"epsilon": "epsilon", "v_prediction": "v"}
        if kind not in kinds:
            raise ValueError(
                f"scheduler_config.json: prediction_type = {kind!r}: expected {', '.join(kinds)} or flow "
                f"(its class: {name or 'none'})"
            )
        if shift or sampling != "uniform":
            key = "flow_shift" if shift else "timestep_sampling"
            raise ValueError(f"model.{key}: only for flow models, but {name or 'the scheduler'} predicts {kinds[kind]}")
        if continuous:
            levels = LogNormalLevels()
        else:
            levels = TableLevels(_scheduler(name, config).alphas_cumprod, *part)
        if kind == "epsilon" and config.get("rescale_betas_zero_snr"):
            raise ValueError(
                "scheduler_config.json: rescale_betas_zero_snr = true with prediction_type = 'epsilon': at the last "
                "step nothing is left of the picture; a model that was trained so predicts v_prediction"
            )
        return cls(kinds[kind], levels=levels)

    def a(self, tau: Tensor) -> Tensor:
        """Factor of the clean latents at times tau [B] in 0..1."""
        if self.levels is not None:
            return self.levels.a(tau)
        if self.kind == "flow":
            return 1 - self.model_time(tau)
        return self._abar(tau).sqrt()

    def b(self, tau: Tensor) -> Tensor:
        """Factor of the noise at times tau [B] in 0..1."""
        if self.levels is not None:
            return self.levels.b(tau)
        if self.kind == "flow":
            return self.model_time(tau)
        return (1 - self._abar(tau)).sqrt()

    def model_time(self, tau: Tensor) -> Tensor:
        """The time [B] in 0..1 that the network gets: shifted for flow, tau itself otherwise."""
        if self.kind == "flow" and self.shift != 1.0:
            return self.shift * tau / (1 + (self.shift - 1) * tau)
        return tau

    def time(self, tau: Tensor) -> Tensor:
        """The time [B] in the unit of a pretrained model's scheduler; without levels the discrete step."""
        return self.steps(tau) if self.levels is None else self.levels.time(tau)

    def add(self, clean: Tensor, noise: Tensor, tau: Tensor) -> Tensor:
        """x_tau of clean latents [B, ...] with `noise` of the same shape at `tau` [B]."""
        return _wide(self.a(tau), clean) * clean + _wide(self.b(tau), clean) * noise

    def target(self, clean: Tensor, noise: Tensor, tau: Tensor) -> Tensor:
        """What a prediction must match, the shape of `clean`."""
        if self.kind == "epsilon":
            return noise
        if self.kind == "flow":
            return noise - clean
        return _wide(self.a(tau), clean) * noise - _wide(self.b(tau), clean) * clean

    def x0(self, prediction: Tensor, x: Tensor, tau: Tensor) -> Tensor:
        """The clean latents that a prediction at x_tau implies."""
        a, b = _wide(self.a(tau), x), _wide(self.b(tau), x)
        if self.kind == "epsilon":
            return (x - b * prediction) / a
        return x - b * prediction if self.kind == "flow" else a * x - b * prediction

    def steps(self, tau: Tensor) -> Tensor:
        """Discrete steps 0..999 of times tau in 0..1."""
        return (tau.double() * STEPS).long().clamp(0, STEPS - 1)

    def shifted(self, tau: Tensor, factor: float) -> Tensor:
        """Times at which the signal-to-noise ratio abar / (1 - abar) is `factor` squared times that of `tau` [B].

        A picture of half the side has a quarter of the tokens for the same content: with `factor` 2, the
        ratio of the sides, the shifted time keeps as much of it as `tau` does at full size (Hoogeboom et al.
        2023, "simple diffusion"). Times are those of discrete steps, clamped to the table's ends.
        """
        table = self._table.double()  # type: ignore[attr-defined]
        log_ratio = torch.log(table / (1 - table))
        wanted = log_ratio[self.steps(tau).cpu()] + 2 * math.log(factor)
        # The table is descending: search it from its end.
        place = torch.searchsorted(-log_ratio.contiguous(), -wanted.contiguous()).clamp(1, STEPS - 1)
        nearer = (log_ratio[place - 1] - wanted).abs() < (log_ratio[place] - wanted).abs()
        return step_to_tau(torch.where(nearer, place - 1, place).to(tau.device), tau.device)

    def _abar(self, tau: Tensor) -> Tensor:
        table: Tensor = self._table  # type: ignore[attr-defined]
        return table.to(tau.device)[self.steps(tau)]


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """[B] reshaped to [B, 1, ...] to broadcast with a tensor [B, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))


def step_to_tau(step: Tensor | int, device: torch.device | str = "cpu") -> Tensor:
    """The time in 0..1 in the middle of a discrete step."""
    return (torch.as_tensor(step, device=device, dtype=torch.float32) + 0.5) / STEPS


def _scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """diffusers' scheduler of that class, which has a table of its noise levels."""
    found = getattr(diffusers, name or "DDPMScheduler", None)
    if found is None or not hasattr(found, "from_config"):
        raise ValueError(
            f"scheduler_config.json: _class_name = {name!r}: no scheduler of diffusers {diffusers.__version__}"
        )
    scheduler = found.from_config(dict(config))
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"scheduler_config.json: _class_name = {name!r}: gives no noise levels to train on; put the scheduler of "
            "the model's training there"
        )
    return scheduler
