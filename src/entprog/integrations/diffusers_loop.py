"""Draws for loops in the style of diffusers' training scripts: a noise scheduler, a model and a batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from entprog.core.types import Draw

__all__ = ["make_probe"]

TIMESTEP = "timestep"
"""Name in a draw's condition of the time as the model takes it, [B]."""


def make_probe(
    model: Callable[..., Any],
    scheduler: Any,
    latents: Tensor,
    *,
    draws: int = 4,
    seed: int = 0,
    **inputs: Any,
) -> tuple[Callable[[Draw], Tensor], list[Draw]]:
    """What `attach` needs of a diffusers-style loop: `predict, probe = make_probe(unet, scheduler, latents, ...)`.

    Noise levels are evenly spaced over the schedule, noise is drawn by `seed`; torch's own random state does not
    change. The target is what the scheduler's `prediction_type` says (epsilon, v_prediction, sample), or the velocity
    for schedulers of flow matching.

    Args:
        model: takes the noised latents first, `timestep=` and `inputs`; gives a tensor, `(tensor, ...)` or an object
            with `.sample`. The second half of the channels is dropped where it predicts twice as many (a learned
            variance).
        scheduler: of diffusers, for training.
        latents: [B, ...] clean samples of one batch, scaled as for the model.
        draws: how many draws are made from it.
        inputs: everything else that the model is called with, by name. Tensors with B first go with their sample;
            everything else (numbers, tuples, tables) is passed on as it is.

    Raises:
        ValueError: a scheduler that is not for training, or an unknown prediction type.
    """
    samples = len(latents)
    per_sample = {n: v for n, v in inputs.items() if isinstance(v, Tensor) and v.dim() > 0 and len(v) == samples}
    fixed = {name: value for name, value in inputs.items() if name not in per_sample}
    levels = (torch.arange(draws * samples, dtype=torch.float64) + 0.5) / (draws * samples)
    generator = torch.Generator().manual_seed(seed)
    probe = []
    for k in range(draws):
        tau = levels[k::draws].to(latents.device, torch.float32)  # every draw has low and high levels
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        x, timestep, target = _noised(scheduler, latents, noise, tau)
        probe.append(Draw(x, tau, target, {**per_sample, TIMESTEP: timestep}))

    def predict(draw: Draw) -> Tensor:
        own = {name: value for name, value in draw.condition.items() if name != TIMESTEP}
        output = model(draw.x, timestep=draw.condition[TIMESTEP], **own, **fixed)
        found = output if isinstance(output, Tensor) else output[0]
        if found.dim() > 1 and found.shape[1] == 2 * draw.target.shape[1]:
            found = found.chunk(2, dim=1)[0]
        prediction: Tensor = found
        return prediction

    return predict, probe


def _noised(scheduler: Any, clean: Tensor, noise: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noised latents, the model's time and the target of a prediction."""
    steps = int(scheduler.config.num_train_timesteps)
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    if callable(getattr(scheduler, "scale_noise", None)) or kind == "flow_prediction":
        level = tau.view(-1, *[1] * (clean.dim() - 1)).to(clean.dtype)
        return (1 - level) * clean + level * noise, tau * steps, noise - clean
    timestep = (tau * steps).long().clamp(max=steps - 1)
    if not callable(getattr(scheduler, "add_noise", None)):
        raise ValueError(f"scheduler: {type(scheduler).__name__} cannot add noise; give the one for training (DDPM)")
    x = scheduler.add_noise(clean, noise, timestep)
    targets = {"epsilon": lambda: noise, "sample": lambda: clean}
    targets["v_prediction"] = lambda: scheduler.get_velocity(clean, noise, timestep)
    if kind not in targets:
        raise ValueError(f"scheduler: prediction_type = {kind!r}; choose from {', '.join(targets)}")
    return x, timestep, targets[kind]()
