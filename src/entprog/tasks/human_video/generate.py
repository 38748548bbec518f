"""From noise to latent clips.

Shape legend: B clips, F frames, C latent channels, h w latent height and width, S pixels of a side.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from entprog.codecs.base import Codec
from entprog.diffusion.objective import Objective, step_to_tau
from entprog.diffusion.schedulers import make_scheduler
from entprog.diffusion.windows import Window
from entprog.nets.dit import VideoDiT


class Denoiser(Protocol):
    """The part of the task that sampling needs."""

    model: VideoDiT
    objective: Objective

    @property
    def device(self) -> torch.device: ...

    def precision(self) -> Any: ...


@torch.no_grad()
def sample_clips(
    task: Denoiser,
    reference: Tensor,
    pose: Tensor | None,
    *,
    frames: int | None = None,
    scheduler: str = "ddim",
    num_inference_steps: int = 25,
    guidance_scale: float = 2.0,
    seed: int = 0,
    keys: Sequence[int],
    codec: Codec | None = None,
    progress: bool = False,
    window: Window | None = None,
) -> Tensor:
    """Generate clips of the reference's person in the given poses.

    At each step the model's noise gives the implied clean clip x_0 = (x - sqrt(1 - abar) eps) / sqrt(abar), which
    the scheduler moves to the next time. Guidance (Ho & Salimans 2022) is
    eps = eps(nothing) + scale (eps(reference, pose) - eps(nothing)), where "nothing" is zeros for both, as in
    training; scale 1 runs one branch only.

    Args:
        task: model and forward process.
        reference: clean latents of the reference images [B, C, h, w].
        pose: pose maps [B, F, 3, S, S], uint8 or floats in 0..1; None for a model that sees none.
        frames: F where `pose` is None (default 1).
        keys: one integer >= 0 for each clip: its noise depends on (seed, key) only, not on the batch.
        codec: where given, the implied clean clip is clamped to 0..1 in pixels at each step. Near pure noise that
            clip is a rough guess, and later steps do not correct a large error.
        window: of a longer clip that the frames are; then of one clip.

    Returns:
        Latents [B, F, C, h, w], float32, on the task's device.

    Raises:
        ValueError: an unknown scheduler, or an impossible step count, scale or number of keys.
    """
    if len(keys) != len(reference):
        raise ValueError(f"keys = {list(keys)}: give one for each of the {len(reference)} clips")
    if guidance_scale < 0:
        raise ValueError(f"sample.guidance_scale = {guidance_scale}: choose 1 (no guidance) or more")
    steps = make_scheduler(scheduler, task.objective.beta_schedule, num_inference_steps)
    device = task.device
    guided = guidance_scale != 1
    reference = reference.to(device)
    if pose is not None:
        frames = pose.shape[1]
        pose = pose.to(device).float() / (255 if pose.dtype == torch.uint8 else 1)
        pose = torch.cat([torch.zeros_like(pose), pose]) if guided else pose
    shown = torch.cat([torch.zeros_like(reference), reference]) if guided else reference
    size = (frames or 1, *reference.shape[1:])
    if window is None:
        sources = [np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, 5, key)))) for key in keys]
        noise = torch.from_numpy(np.stack([source.standard_normal(size, dtype=np.float32) for source in sources]))
        later = [torch.Generator().manual_seed(int(source.integers(2**63))) for source in sources]
    else:
        noise, later = window.noise(size[1:], seed, keys[0]), window.generators(seed, keys[0])
    x: Tensor = noise.to(device) * steps.init_noise_sigma
    options = {"generator": later} if scheduler == "ddpm" else {}
    with task.precision():
        states = task.model.reference_states(shown)
    for i, step in enumerate(tqdm(steps.timesteps, "Sampling", unit="step", disable=not progress, leave=False)):
        tau = step_to_tau(step, device).expand(len(shown))
        with task.precision():
            eps = task.model(torch.cat([x, x]) if guided else x, tau, None, pose, reference_states=states)
        if guided:
            nothing, conditioned = eps.chunk(2)
            eps = nothing + guidance_scale * (conditioned - nothing)
        abar = steps.alphas_cumprod[int(step)].to(device)
        clean = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
        if codec is not None:
            clean = codec.encode_pixels(codec.decode(clean))
        if window is None:
            x = steps.step(clean, step, x, **options).prev_sample
        else:  # a generator for each frame: windows that share frames add the same noise to them
            clean = window.blend(i, clean)
            x = steps.step(clean[0], step, x[0], **options).prev_sample[None]
    return x
