"""U-Nets and image transformers are fed in training what their own pipelines feed them."""

from dataclasses import replace
from typing import Any

import diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion as svd_pipeline
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image

from entprog.methods._low_rank import put_on
from entprog.tasks.pretrained.families.base import Latent
from entprog.tasks.pretrained.text import encode_images
from family_checks import (
    Loaded,
    assert_conditions,
    assert_recovers,
    assert_same_call,
    assert_skips,
    captured,
    conditions_of,
)
from tiny_pipelines import saved

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

    @torch.no_grad()
    def test_float16_on_disk_changes_the_inputs_by_a_thousandth(self, loaded: Loaded) -> None:
        stored = self.stored(loaded, loaded.pipeline())
        x, time = torch.zeros(1, *self.latent.shape), torch.tensor([0.5])
        exact, rounded = (
            loaded.family.inputs(x, time, loaded.family.condition(given, {}, self.latent, **SETTINGS))
            for given in (stored, {key: value.half() for key, value in stored.items()})
        )
        for key, value in exact.items():
            if torch.is_tensor(value) and value.is_floating_point():
                assert (rounded[key].float() - value).abs().max() <= 1e-3 * value.abs().max(), key

    def test_image_embeddings_by_the_folder(self) -> None:
        found = encode_images(saved("svd"), torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
        assert found.shape == (2, 1, 16)

    def test_frame_rate_of_the_data(self, loaded: Loaded) -> None:
        x = torch.zeros(2, *self.latent.shape)
        assert (
            loaded.family.inputs(x, torch.zeros(2), {})["added_time_ids"].tolist()
            == [pytest.approx([6, 127, 0.02])] * 2
        )
        loaded.family.frame_rate = 16.0
        assert loaded.family.inputs(x, torch.zeros(2), {})["added_time_ids"][0, 0] == 15

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


PROMPTS = ["a person dances", "a person walks in the room with slow steps"]
PLAIN = {"pose": "none", "reference": "none"}
IMAGES = ("sd3", "flux", "dit", "pixart", "pixart-sigma", "unet-2d")
LATENTS = dict.fromkeys(IMAGES, Latent(1, 4, 8, 8)) | {
    "unet-motion": Latent(5, 4, 8, 8, 5),
    "latte": Latent(3, 4, 8, 8, 3),
}
KINDS = dict.fromkeys(LATENTS, "epsilon") | {"sd3": "flow", "flux": "flow"}


def noised(variant: str, call: dict[str, Any]) -> torch.Tensor:
    """The latents of a call as we hold them, [B, T, C, h, w]."""
    x = call.get("hidden_states", call.get("sample"))
    if variant in ("unet-motion", "latte"):
        return x.transpose(1, 2)
    if variant == "flux":
        x = x.view(len(x), 4, 4, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(len(x), 4, 8, 8)
    return x[:, None]


def given(variant: str) -> dict[str, Any]:
    """What the pipeline is called with."""
    size = {"height": 64, "width": 64, "num_inference_steps": 3}
    text = size | {"prompt": PROMPTS, "output_type": "latent"}
    return {
        "unet-2d": text, "sd3": text | {"prompt": PROMPTS[:1]}, "flux": text, "unet-motion": text | {"num_frames": 5},
        "pixart": text | {"use_resolution_binning": False, "clean_caption": False},
        "pixart-sigma": text | {"use_resolution_binning": False, "clean_caption": False},
        "latte": text | {"video_length": 3, "guidance_scale": 1.0, "clean_caption": False},
        "dit": {"class_labels": [3, 7], "num_inference_steps": 3},
    }[variant]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("variant", LATENTS)
def test_calls_are_those_of_the_pipeline(variant: str) -> None:
    loaded, latent = Loaded.of(variant), LATENTS[variant]
    family, pipeline = loaded.family, loaded.pipeline()
    condition: dict[str, Any] = {}
    nothing: dict[str, Any] = {"class_labels": torch.tensor([3, 7])}  # DiTPipeline puts the labels first
    prompts = given(variant).get("prompt", PROMPTS)
    if family.text_length:
        condition = conditions_of(family, pipeline, prompts, latent, **PLAIN)
        nothing = conditions_of(family, pipeline, [""] * len(prompts), latent, **PLAIN)
    if family.embedded_guidance:  # training gives 1, whoever generates the pipeline's scale
        assert float(condition["guidance"].min()) == float(condition["guidance"].max()) == 1
        condition["guidance"] = torch.full((len(prompts),), family.embedded_guidance)
    network = getattr(pipeline, family.configs.component)
    with captured(network) as found:
        pipeline(**given(variant), generator=torch.Generator().manual_seed(1))
    assert len(found.calls) == 3
    for call in found.calls:
        same = noised(variant, call)[-len(prompts) :]
        time = call["timestep"] * (1000 if variant == "flux" else 1)
        time = time.expand(len(same)) if time.dim() == 0 else time[-len(same) :]
        if "encoder_attention_mask" in call:  # what the mask hides is of no effect
            call["encoder_hidden_states"] *= call["encoder_attention_mask"][..., None]
        call.pop("joint_attention_kwargs", None)
        if variant == "flux":  # 1000 sigma / 1000 is not sigma to the last bit
            assert torch.allclose(call.pop("timestep"), time / 1000, rtol=1e-6)
            call["timestep"] = time / 1000
        assert_same_call(call, family.inputs(same, time, condition), len(same), guided=True)
        if variant not in ("flux", "latte"):  # not guided
            first = {name: half(value) for name, value in call.items()}
            assert_same_call(first, family.inputs(same, time, nothing), len(same))


def half(value: Any) -> Any:
    """The first half of a guided call's tensors."""
    if isinstance(value, dict):
        return {key: half(entry) for key, entry in value.items()}
    return value[: len(value) // 2] if torch.is_tensor(value) and value.dim() else value


@pytest.mark.parametrize("variant", LATENTS)
def test_contract(variant: str) -> None:
    loaded, latent = Loaded.of(variant), LATENTS[variant]
    family = loaded.family
    if family.text_length:
        assert_conditions(family, conditions_of(family, loaded.pipeline(), PROMPTS, latent, **PLAIN), latent, **PLAIN)
    assert_recovers(family, latent)
    assert family.objective(tokens=16).kind == KINDS[variant]
    assert family.channels == 4
    assert family.stored(**PLAIN) == ()
    assert family.leading(reference="none") == 0
    assert family.size_problem(latent) == ""


def drawn(variant: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Latents, time and conditions at random."""
    family, latent = Loaded.of(variant).family, LATENTS[variant]
    generator = torch.Generator().manual_seed(2)
    condition = {
        c.name: torch.ones(2, *c.shape) if c.name == "text_mask" else torch.randn(2, *c.shape, generator=generator)
        for c in family.conditions(latent, **PLAIN)
    }
    return torch.randn(2, *latent.shape, generator=generator), torch.tensor([300, 700]), condition


@pytest.mark.parametrize("variant", LATENTS)
def test_skips(variant: str) -> None:
    loaded, drawing = Loaded.of(variant), drawn(variant)
    assert_skips(loaded, lambda: loaded.predict(*drawing), shared="norm1.emb" if variant == "dit" else "")


@torch.no_grad()
@pytest.mark.parametrize("variant", LATENTS)
def test_output_has_the_layout_of_the_latents(variant: str) -> None:
    loaded = Loaded.of(variant)
    x, time, condition = drawn(variant)
    out = loaded.predict(x, time, condition)
    assert out.shape == x.shape
    alone = loaded.predict(x[1:], time[1:], {name: value[1:] for name, value in condition.items()})
    assert torch.allclose(out[1:], alone, atol=1e-5)


def test_sizes_that_a_network_can_not_take() -> None:
    for variant, wrong, said in (
        ("sd3", Latent(3, 4, 8, 8, 3), "single images, not 3"),
        ("dit", Latent(1, 4, 8, 6), "squares, not 8 x 6"),
        ("latte", Latent(5, 4, 8, 8, 5), "takes 3 frames"),
        ("unet-motion", Latent(9, 4, 8, 8, 9), "8 frames at most, not 9"),
    ):
        assert said in Loaded.of(variant).family.size_problem(wrong)


class TestReferenceOfStills:
    """The Siamese pass of U-Nets of images: frame 0 is the reference, which the others' self-attention sees."""

    latent = Latent(4, 4, 8, 8, 3)

    @pytest.fixture
    def loaded(self) -> Loaded:
        return Loaded.of("unet-2d")

    def drawing(self, loaded: Loaded) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(4)
        found = loaded.family.conditions(self.latent, **SETTINGS)
        condition = {c.name: torch.randn(2, *c.shape, generator=generator) for c in found}
        return torch.randn(2, *self.latent.shape, generator=generator), torch.tensor([300, 700]), condition

    @torch.no_grad()
    def test_without_a_reference_it_is_off_to_the_bit(self, loaded: Loaded) -> None:
        x, time, condition = self.drawing(loaded)
        condition.pop("first")
        shared = loaded.predict(x, time, condition)
        loaded.network.set_attn_processor(AttnProcessor2_0())
        assert torch.equal(loaded.predict(x, time, condition), shared)

    @torch.no_grad()
    def test_frames_see_the_reference_and_nothing_of_each_other(self, loaded: Loaded) -> None:
        x, time, condition = self.drawing(loaded)
        out = loaded.predict(x, time, condition)
        other = loaded.predict(x, time, condition | {"first": condition["first"].flip(0)})
        assert float((out - other)[:, 1:].abs().amax((2, 3, 4)).min()) > 1e-4
        x[:, 1] += 1
        moved = loaded.predict(x, time, condition)
        assert torch.equal(moved[:, 2:], out[:, 2:])
        assert not torch.equal(moved[:, 1], out[:, 1])

    @torch.no_grad()
    def test_the_pass_of_the_reference_is_that_of_the_clean_image_at_time_0(self, loaded: Loaded) -> None:
        x, time, condition = self.drawing(loaded)
        out = loaded.predict(x, time, condition)
        alone = loaded.predict(condition["first"], time * 0, {"text": condition["text"]})
        assert torch.allclose(out[:, :1], alone, atol=1e-5)
        assert torch.equal(loaded.family.keep(x, condition)[:, :1], condition["first"])

    @torch.no_grad()
    def test_two_passes_by_hand_agree(self, loaded: Loaded) -> None:
        """The reference first, its self-attention states kept; then each frame, with those beside its own."""
        x, time, condition = self.drawing(loaded)
        out = loaded.predict(x, time, condition)
        bank: dict[str, torch.Tensor] = {}
        inner = [m for m in loaded.network.named_modules() if m[0].endswith(".attn1")]
        for name, module in inner:
            module.processor = ByHand(name, bank, fill=True)
        text = condition["text"]
        loaded.network(condition["first"][:, 0], time * 0, text, return_dict=False)
        for _, module in inner:
            module.processor.fill = False
        for frame in range(1, 4):
            alone = loaded.network(x[:, frame], time, text, return_dict=False)[0]
            assert torch.allclose(out[:, frame], alone, atol=1e-5)

    def test_contract(self, loaded: Loaded) -> None:
        assert loaded.family.stored(**SETTINGS) == ("reference",)
        assert loaded.family.leading(reference="native") == loaded.family.first_counted(reference="native") == 1
        found = loaded.family.condition({"reference": torch.randn(2, 1, 4, 8, 8)}, self.drawing(loaded)[2], self.latent,
                                        **SETTINGS)  # fmt: skip
        assert_conditions(loaded.family, found, self.latent, **SETTINGS)

    def test_skips(self, loaded: Loaded) -> None:
        drawing = self.drawing(loaded)
        assert_skips(loaded, lambda: loaded.predict(*drawing))


class ByHand(AttnProcessor2_0):
    """Self-attention that keeps its states, or has kept ones beside its own."""

    def __init__(self, name: str, bank: dict[str, torch.Tensor], fill: bool) -> None:
        super().__init__()
        self.name, self.bank, self.fill = name, bank, fill

    def __call__(self, attn: Any, states: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        if self.fill:
            self.bank[self.name] = states
            return super().__call__(attn, states)
        return super().__call__(attn, states, torch.cat([states, self.bank[self.name]], 1))


def test_low_rank_adapters_on_layers_whose_input_is_named() -> None:
    loaded, drawing = Loaded.of("unet-motion"), drawn("unet-motion")
    with torch.no_grad():
        bare = loaded.predict(*drawing)
    put_on(loaded.network, loaded.blocks(), rank=2, alpha=2, seed=0)
    out = loaded.predict(*drawing)
    assert torch.equal(out, bare)
    out.square().mean().backward()
    layer: Any = loaded.network.get_submodule("mid_block.motion_modules.0.proj_in")
    assert float(layer.lora_B["default"].weight.grad.norm()) > 0
