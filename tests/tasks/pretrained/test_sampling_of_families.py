"""Our sampling loop gives the latents of a family's own pipeline: same noise, same conditions, same scheduler."""

from types import SimpleNamespace
from typing import Any

import diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion as svd_pipeline
import pytest
import torch
from PIL import Image

from entprog.config.schema import SampleConfig
from entprog.tasks.pretrained.families.base import Latent
from entprog.tasks.pretrained.folder import ModelFolder
from entprog.tasks.pretrained.generate import denoise
from family_checks import Loaded, conditions_of

PLAIN = {"pose": "none", "reference": "none"}
PROMPT = "a person walks"
STEPS, SCALE = 4, 2.5


def sampled(loaded: Loaded, noise: torch.Tensor, given: Any, nothing: Any) -> torch.Tensor:
    """What the loop of a task with this family makes of noise."""
    task: Any = SimpleNamespace(
        family=loaded.family, folder=ModelFolder.open(str(loaded.folder)), model=loaded.network,
        network_at=lambda time: loaded.network, device=torch.device("cpu"),
        call=lambda x, time, condition, network: loaded.predict(x, time, condition),
    )  # fmt: skip
    settings = SampleConfig(scheduler="native", num_inference_steps=STEPS, guidance_scale=SCALE)
    return denoise(task, noise, given, nothing, settings)


def noise_of(latent: Latent) -> torch.Tensor:
    return torch.randn(1, *latent.shape, generator=torch.Generator().manual_seed(5))


CASES: dict[str, tuple[Latent, dict[str, Any]]] = {
    "unet-2d": (Latent(1, 4, 8, 8), {}),
    "unet-motion": (Latent(5, 4, 8, 8, 5), {"num_frames": 5}),
    "sd3": (Latent(1, 4, 8, 8), {}),
    "flux": (Latent(1, 4, 8, 8), {}),
    "pixart": (Latent(1, 4, 8, 8), {"use_resolution_binning": False, "clean_caption": False}),
    "pixart-sigma": (Latent(1, 4, 8, 8), {"use_resolution_binning": False, "clean_caption": False}),
}


@torch.no_grad()
@pytest.mark.parametrize("variant", CASES)
def test_latents_are_those_of_the_pipeline(variant: str) -> None:
    loaded, (latent, more) = Loaded.of(variant), CASES[variant]
    family, pipeline, noise = loaded.family, loaded.pipeline(), noise_of(latent)
    given = conditions_of(family, pipeline, [PROMPT], latent, **PLAIN)
    nothing = conditions_of(family, pipeline, [""], latent, **PLAIN)
    scale = SCALE
    if family.embedded_guidance:
        given["guidance"], nothing, scale = torch.full((1,), family.embedded_guidance), None, family.embedded_guidance
    start = {"unet-motion": noise.transpose(1, 2), "flux": family.control(noise)}.get(variant, noise[:, 0])
    theirs = pipeline(
        PROMPT, height=64, width=64, num_inference_steps=STEPS, guidance_scale=scale, latents=start,
        output_type="latent", **more,
    )[0]  # fmt: skip
    ours = sampled(loaded, noise, given, nothing)
    assert torch.allclose(family.output(theirs, noise), ours, atol=1e-4 * float(ours.abs().max()))


@torch.no_grad()
def test_latents_of_svd_are_those_of_its_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svd_pipeline, "randn_tensor", lambda shape, **rest: torch.zeros(shape))
    loaded, latent = Loaded.of("svd"), Latent(5, 4, 8, 8, 5)
    family, pipeline, noise = loaded.family, loaded.pipeline(), noise_of(latent)
    pixels = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(6))
    image = Image.fromarray((pixels * 255).byte().numpy())
    shown = pipeline.video_processor.preprocess(image, height=64, width=64)
    stored = {
        "reference": (pipeline.vae.encode(shown).latent_dist.mode() * family.scale)[:, None],
        "image_embeds": family.encode_image(pipeline, image)[None],
    }
    given = family.condition(stored, {}, latent, pose="none", reference="native")
    nothing = {name: torch.zeros_like(value) for name, value in given.items()}
    theirs = pipeline(
        image, 64, 64, 5, STEPS, latents=noise, max_guidance_scale=SCALE, output_type="latent"
    )[0]  # fmt: skip
    ours = sampled(loaded, noise, given, nothing)
    assert torch.allclose(theirs, ours, atol=1e-4 * float(ours.abs().max()))
