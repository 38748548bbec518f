"""diffusers' schedulers, set up to take the implied clean sample."""

from typing import Any

from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from entprog.diffusion.objective import STEPS

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
        # schedules end in almost pure noise, where a solver in log-SNR would take one infinite step on a clean
        # clip that is only a guess
        scheduler = DPMSolverMultistepScheduler(
            **common, algorithm_type="dpmsolver++", solver_order=2, lambda_min_clipped=-3.0
        )
    scheduler.set_timesteps(num_inference_steps)
    return scheduler
