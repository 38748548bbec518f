"""From noise to latent clips, thin over diffusers' schedulers.

Shape legend: B clips, F frames, C latent channels, h w latent height and width, S pixels of a side.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor
from tqdm import tqdm

from entprog.diffusion.objective import STEPS, step_to_tau

if TYPE_CHECKING:
    from entprog.codecs.pca import PatchCodec
    from entprog.tasks.human_video.task import HumanVideo

SCHEDULERS = ("ddim", "ddpm", "dpm++")


def make_scheduler(name: str, beta_schedule: str, num_inference_steps: int) -> Any:
    """A diffusers scheduler that takes the implied clean clip, with its timesteps set.

    "ddim" is deterministic (Song et al. 2021), "ddpm" is
    ancestral with the spacing of IDDPM (Nichol & Dhariwal 2021: from the first to the last step, both included)
    and "dpm++" the second-order multistep solver of Lu et al. 2022.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"sample.scheduler = {name!r}: choose one of {', '.join(SCHEDULERS)}")
    if not 1 <= num_inference_steps <= STEPS:
        raise ValueError(f"sample.num_inference_steps = {num_inference_steps}: choose from 1 to {STEPS}")
    common = {"num_train_timesteps": STEPS, "beta_schedule": beta_schedule, "prediction_type": "sample"}
    scheduler: Any
    if name == "ddim":
        scheduler = DDIMScheduler(**common, clip_sample=False, timestep_spacing="leading")
    elif name == "ddpm":
        scheduler = DDPMScheduler(**common, clip_sample=False, timestep_spacing="linspace")
    else:
        # schedules end in almost pure noise, where a solver in log-SNR would take one endless step on a clean
        # clip that is a mere guess
        scheduler = DPMSolverMultistepScheduler(
            **common, algorithm_type="dpmsolver++", solver_order=2, lambda_min_clipped=-3.0
        )
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


@torch.no_grad()
def sample_clips(
    task: "HumanVideo",
    reference: Tensor,
    pose: Tensor | None,
    *,
    frames: int | None = None,
    scheduler: str = "ddim",
    num_inference_steps: int = 25,
    guidance_scale: float = 2.0,
    seed: int = 0,
    keys: Sequence[int],
    codec: "PatchCodec | None" = None,
    progress: bool = False,
) -> Tensor:
    """Generate clips of the reference's person in the given poses.

    At each step the model's noise gives the implied clean clip x_0 = (x - sqrt(1 - abar) eps) / sqrt(abar), which
    the scheduler carries to the next time. Guidance (Ho & Salimans 2022) is
    eps = eps(nothing) + scale (eps(reference, pose) - eps(nothing)), where "nothing" is zeros for both, as in
    training; scale 1 runs one branch only.

    Args:
        task: model and forward process.
        reference: clean latents of the reference images [B, C, h, w].
        pose: pose maps [B, F, 3, S, S], uint8 or floats in 0..1; None for a model that sees none.
        frames: F where `pose` is None (default 1).
        keys: one integer >= 0 a clip: its noise follows from (seed, key) alone, not from the batch it is in.
        codec: where given, the implied clean clip is clamped to 0..1 in pixels at each step. Worth it: near pure
            noise that clip is a wild guess, and one wild step is never made good again.

    Returns:
        Latents [B, F, C, h, w], float32, on the task's device.

    Raises:
        ValueError: an unknown scheduler, or a step count, scale or number of keys that can't be.
    """
    if len(keys) != len(reference):
        raise ValueError(f"keys = {list(keys)}: give one for each of the {len(reference)} clips")
    if guidance_scale < 0:
        raise ValueError(f"sample.guidance_scale = {guidance_scale}: choose 1 (no guidance) or more")
    steps = make_scheduler(scheduler, task.noising.beta_schedule, num_inference_steps)
    device = task.device
    guided = guidance_scale != 1
    reference = reference.to(device)
    if pose is not None:
        frames = pose.shape[1]
        pose = pose.to(device).float() / (255 if pose.dtype == torch.uint8 else 1)
        pose = torch.cat([torch.zeros_like(pose), pose]) if guided else pose
    shown = torch.cat([torch.zeros_like(reference), reference]) if guided else reference
    size = (frames or 1, *reference.shape[1:])
    sources = [np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, 5, key)))) for key in keys]
    first = [source.standard_normal(size, dtype=np.float32) for source in sources]
    x: Tensor = torch.from_numpy(np.stack(first)).to(device) * steps.init_noise_sigma
    later = [torch.Generator().manual_seed(int(source.integers(2**63))) for source in sources]
    options = {"generator": later} if scheduler == "ddpm" else {}
    with task.precision():
        states = task.model.reference_states(shown)
    for step in tqdm(steps.timesteps, "Sampling", unit="step", disable=not progress, leave=False):
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
        x = steps.step(clean, step, x, **options).prev_sample
    return x
