"""Sampling with the scheduler that comes with a pretrained model.

Shape legend: B clips, F frames, T latent frames, C latent channels, h w latent height and width.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from entprog.config.schema import SampleConfig
from entprog.data.sampler import generator
from entprog.diffusion.windows import Window
from entprog.tasks.pretrained.families.base import Latent
from entprog.tasks.pretrained.held_out import NOTHING, TEXT

if TYPE_CHECKING:
    from entprog.tasks.pretrained.task import PretrainedTask

__all__ = ["denoise", "generate_clips"]


def generate_clips(
    task: "PretrainedTask", conditions: Mapping[str, Tensor], settings: SampleConfig, keys: Sequence[int], *,
    progress: bool = False, window: Window | None = None,
) -> Tensor:  # fmt: skip
    """Clips [B, F, 3, H, W] in 0..1, on the CPU: see `Task.generate`.

    Args:
        conditions: those of `held_out.clip_of`, [B, ...]: tensors of the data set, the padded texts, and how many
            "frames" to give.
    """
    frames = conditions["pose"].shape[1]
    about = task.data.about["codec"]
    height, width = conditions["latents"].shape[-2:]
    length = (frames - 1) // int(about["frames_factor"]) + 1
    latent = task.led(Latent(length, task.family.channels, height, width, frames))
    if window is None:
        noises = [generator(settings.seed, 5, key).standard_normal(latent.shape, dtype=np.float32) for key in keys]
        noise = torch.from_numpy(np.stack(noises))
    else:
        noise = window.noise(latent.shape[1:], settings.seed, keys[0], leading=latent.frames - length)
    given = conditioned(task, conditions, latent, TEXT)
    family = task.family
    if why := task.guidance_problem(settings):
        raise ValueError(f'sample.guided_by = "{settings.guided_by}": {why}')
    by = settings.guided_by or family.guided_by
    contrast = bool(family.text_length) or by != "text"
    guided = settings.guidance_scale != 1 and contrast and not family.embedded_guidance
    nothing = conditioned(task, conditions, latent, NOTHING if by == "text" else TEXT, without=by) if guided else None
    if task.family.embedded_guidance:  # the network takes the scale in the place of a second pass
        given["guidance"] = torch.full_like(given["guidance"], task.family.embedded_guidance)
    if nothing is not None and by == family.guided_by:
        dropped = [name for name in task.family.unguided if name in nothing]
        nothing |= {name: task.family.nothing(name, nothing) for name in dropped}
    latents = denoise(
        task, noise.to(task.device), given, nothing, settings, progress=progress, window=window, key=keys[0]
    )
    return task.decoded(latents[:, latent.frames - length :])[:, : int(conditions["frames"][0])]


def conditioned(
    task: "PretrainedTask", conditions: Mapping[str, Tensor], latent: Latent, text: str, *, without: str = ""
) -> dict[str, Tensor]:
    """What the network gets beside the latents, with the text or with the empty one, and `without` "pose" or
    "reference".
    """
    count = len(conditions["pose"])
    padded = {key.removeprefix(text): value for key, value in conditions.items() if key.startswith(text)}
    kept = {group: torch.ones(count) for group in ("text", "pose", "reference")}
    if without in ("pose", "reference"):
        kept[without] = torch.zeros(count)
    return task.with_text(conditions, padded, latent, kept)


@torch.no_grad()
def denoise(
    task: "PretrainedTask", noise: Tensor, given: Mapping[str, Tensor], nothing: Mapping[str, Tensor] | None,
    settings: SampleConfig, *, progress: bool = False, window: Window | None = None, key: int = 0,
) -> Tensor:  # fmt: skip
    """Latents [B, T, C, h, w] of noise of that shape.

    Args:
        given: the conditions.
        nothing: those of the second call of classifier-free guidance; None without guidance.
        window: of a longer clip (then B is 1), whose frames are the last ones of `noise`; key: of that clip.
    """
    scheduler: Any = task.family.sampler(task.folder.scheduler())
    if why := task.family.sampling_problem(scheduler):
        raise ValueError(f"sample.scheduler = 'native': {why}")
    times = task.family.timesteps(scheduler, settings.num_inference_steps, Latent(*noise.shape[1:]), noise.device)
    x = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    random = torch.Generator(noise.device).manual_seed(settings.seed)
    leading = 0 if window is None else noise.shape[1] - window.length
    later: Any = random if window is None else window.generators(settings.seed, key, leading=leading)
    takes = {"generator": later} if _takes_generator(scheduler) else {}
    network = task.model
    for i, time in enumerate(tqdm(times, desc="Denoising", disable=not progress, leave=False)):
        network = _moved(task, network, task.network_at(float(time)))
        x = task.family.keep(x, given)
        scaled = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        at = time.expand(len(x)).to(noise.device)
        predicted = task.call(scaled, at, given, network)
        if nothing is not None:
            free = task.call(scaled, at, nothing, network)
            predicted = free + task.family.guidance(settings.guidance_scale, x) * (predicted - free)
        if window is None:
            x = scheduler.step(predicted, time, x, return_dict=False, **takes)[0]
        else:  # a generator for each frame: windows that share frames add the same noise to them
            predicted = window.blend(i, predicted, leading=leading)
            x = scheduler.step(predicted[0], time, x[0], return_dict=False, **takes)[0][None]
    _moved(task, network, task.model)
    return task.family.keep(x, given)


def _moved(task: "PretrainedTask", last: nn.Module, now: nn.Module) -> nn.Module:
    """The network to call next, on the task's device, which the expert that does not train leaves after use."""
    if last is not now and last is not task.model:
        last.to("cpu")
    return now if now is task.model else now.to(task.device)


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters
