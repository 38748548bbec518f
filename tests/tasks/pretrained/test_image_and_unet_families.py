"""U-Nets and image transformers are fed in training what their own pipelines feed them."""

from dataclasses import replace
from typing import Any

import diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion as svd_pipeline
import pytest
import torch
from PIL import Image

from entprog.tasks.pretrained.families.base import Latent
from tests.family_checks import (
    Loaded,
    assert_conditions,
    assert_recovers,
    assert_same_call,
    assert_skips,
    captured,
)

SETTINGS = {"pose": "none", "reference": "native"}


def picture(side: int = 64) -> Image.Image:
    pixels = torch.rand(side, side, 3, generator=torch.Generator().manual_seed(3))
    return Image.fromarray((pixels * 255).byte().numpy())


class TestSVD:
    latent = Latent(5, 4, 8, 8, 5)

    @pytest.fixture
    def loaded(self) -> Loaded:
        return Loaded.of("svd")

    def stored(self, loaded: Loaded, pipeline: Any) -> dict[str, torch.Tensor]:
        """What a data set holds of the picture: latents scaled, as the codec gives them, and the embedding."""
        pixels = pipeline.video_processor.preprocess(picture(), height=64, width=64)
        latents = pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor
        return {
            "reference": latents[:, None],
            "image_embeds": loaded.family.encode_image(pipeline, picture())[None],
        }

    @torch.no_grad()
    def test_calls_are_those_of_the_pipeline(self, loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
        # The pipeline adds noise to the picture; the data set has none.
        monkeypatch.setattr(svd_pipeline, "randn_tensor", lambda shape, **rest: torch.zeros(shape))
        pipeline = loaded.pipeline()
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(1, *self.latent.shape, generator=generator)
        seen = []
        with captured(pipeline.unet) as found:
            pipeline(picture(), 64, 64, 5, 3, latents=x, output_type="latent", max_guidance_scale=2.0)
        condition = loaded.family.condition(self.stored(loaded, pipeline), {}, self.latent, **SETTINGS)
        assert len(found.calls) == 3
        for call in found.calls:
            noised = call["sample"][1:, :, :4]
            given = loaded.family.inputs(noised, call["timestep"].expand(1), condition)
            assert_same_call(call, given, 1, guided=True)
            nothing = loaded.family.inputs(noised, call["timestep"].expand(1), {})
            without = {n: v[:1] if v.dim() else v for n, v in call.items() if torch.is_tensor(v)}
            assert_same_call(without, nothing, 1)
            seen.append(float(call["timestep"]))
        assert seen == sorted(seen, reverse=True)

    def test_image_latents_are_scaled_back(self, loaded: Loaded) -> None:
        configs = replace(loaded.family.configs, codec={"scaling_factor": 0.18215})
        family, own = type(loaded.family)(configs), torch.randn(1, 1, 4, 8, 8)
        stored = {"reference": own * 0.18215, "image_embeds": torch.zeros(1, 1, 16)}
        found = family.condition(stored, {}, self.latent, **SETTINGS)["image"]
        assert torch.allclose(found, own, rtol=2e-7, atol=0)

    def test_contract(self, loaded: Loaded) -> None:
        stored = {"reference": torch.randn(2, 1, 4, 8, 8), "image_embeds": torch.randn(2, 1, 16)}
        for reference in ("native", "none"):
            given = stored if reference == "native" else {}
            assert set(loaded.family.stored(pose="none", reference=reference)) == set(given)
            settings = {"pose": "none", "reference": reference}
            found = loaded.family.condition(given, {}, self.latent, **settings)
            assert_conditions(loaded.family, found, self.latent, **settings)
        assert_recovers(loaded.family, self.latent)
        assert loaded.family.objective().kind == "v"

    def test_skips(self, loaded: Loaded) -> None:
        x, time = torch.randn(1, *self.latent.shape), torch.tensor([0.3])
        condition = {"image": torch.randn(1, 1, 4, 8, 8), "image_embeds": torch.randn(1, 1, 16)}
        assert_skips(loaded, lambda: loaded.predict(x, time, condition))
