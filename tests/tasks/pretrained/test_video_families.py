"""CogVideoX, HunyuanVideo and LTX-Video: a family's inputs equal those of its own pipeline, bit for bit."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideo15Transformer3DModel
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from entprog.core.blocks import outside_parameters
from entprog.core.skip import Skipper
from entprog.core.truncation import input_parameters
from entprog.tasks.pretrained.families.base import Configs, Latent
from entprog.tasks.pretrained.families.hunyuan_video import HunyuanVideo
from entprog.tasks.pretrained.families.hunyuan_video15 import HunyuanVideo15
from family_calls import Captured, Opened, differences, posterior_mode, seen_inputs, shapes_of

PROMPTS = ["", 'a person dances with the "HI" sign']
"""The negative prompt, and the prompt."""

BOTH = ((0, 1),)
"""One call a step for classifier-free guidance, with the negative prompt first; else ((1,), (0,))."""


def transposed(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


@dataclass(frozen=True)
class Case:
    """One pipeline: how it is run, and what the data set would hold of the same inputs.

    Attributes:
        latent: of a sample.
        settings: of the pipeline's call, the sizes and the guidance.
        calls: places in `PROMPTS` of the samples of each call of a step.
        layout: latents [B, T, C, h, w] as the pipeline takes them from its caller.
        image: whether it takes a reference image.
        padding: names of text inputs, whose masked places the network does not read, by the names of their masks.
        guidance: the scale that the network is given, in the case that it is given one.
        within: largest difference of inputs from the pipeline's; above 0 only where its own arithmetic rounds.
    """

    latent: Latent
    settings: dict[str, Any]
    calls: tuple[tuple[int, ...], ...] = BOTH
    layout: Callable[[Tensor], Tensor] = lambda x: x
    image: bool = False
    padding: dict[str, str] = field(default_factory=dict)
    guidance: float = 0.0
    within: float = 0.0

    @property
    def reference(self) -> str:
        return "native" if self.image else "none"


def tokens(x: Tensor) -> Tensor:
    return x.permute(0, 1, 3, 4, 2).flatten(1, 3)


CFG = {"guidance_scale": 3.0}
COG: dict[str, Any] = CFG | {"height": 48, "width": 64, "num_frames": 9, "max_sequence_length": 24}
COG_1_5 = COG | {"width": 32, "num_frames": 13}
HUNYUAN = {"height": 32, "width": 48, "num_frames": 9, "guidance_scale": 6.0, "true_cfg_scale": 2.0}
HUNYUAN_MASK = {"encoder_hidden_states": "encoder_attention_mask"}
HUNYUAN_MASKS = HUNYUAN_MASK | {"encoder_hidden_states_2": "encoder_attention_mask_2"}
LTX = CFG | {"height": 32, "width": 64, "num_frames": 9}
CASES = {
    "cogvideox-2b": Case(Latent(3, 4, 6, 8, 9), COG),
    "cogvideox-5b": Case(Latent(3, 4, 8, 6, 9), COG | {"height": 64, "width": 48}),
    "cogvideox-5b-i2v": Case(Latent(3, 4, 6, 8, 9), COG, image=True),
    "cogvideox-1.5": Case(Latent(4, 4, 6, 4, 13), COG_1_5),
    "cogvideox-1.5-i2v": Case(Latent(4, 4, 6, 4, 13), COG_1_5, image=True, within=1e-6),
    "hunyuan-video": Case(
        Latent(3, 4, 4, 6, 9), HUNYUAN, ((1,), (0,)), transposed, padding=HUNYUAN_MASK, guidance=6.0
    ),
    "hunyuan-video-1.5": Case(
        Latent(3, 4, 4, 6, 9), {"height": 64, "width": 96, "num_frames": 9}, ((1,), (0,)), transposed,
        padding=HUNYUAN_MASKS,
    ),
    "hunyuan-video-1.5-i2v": Case(
        Latent(3, 4, 4, 4, 9), {"num_frames": 9}, ((1,), (0,)), transposed, image=True, padding=HUNYUAN_MASKS
    ),
    "ltx-video": Case(Latent(3, 4, 4, 8, 9), LTX, layout=tokens, padding=HUNYUAN_MASK),
    "ltx-video-i2v": Case(Latent(3, 4, 4, 8, 9), LTX, layout=tokens, image=True, padding=HUNYUAN_MASK),
}  # fmt: skip
ALONE = {"LTXVideoTransformerBlock"}
"""Blocks that return video tokens alone, not the text tokens with them."""

every = pytest.mark.parametrize("name", CASES)


@cache
def opened(name: str) -> Opened:
    model = Opened(name)
    family, pipeline = model.family, model.pipeline
    if isinstance(family, HunyuanVideo15):  # shorter texts, which take less time
        padded = pipeline.tokenizer_max_length, pipeline.tokenizer_2_max_length, pipeline.vision_num_semantic_tokens
        assert padded == (family.text_tokens, family.glyph_tokens, family.image_tokens)
        pipeline.tokenizer_max_length = family.text_tokens = 24
        pipeline.tokenizer_2_max_length = family.glyph_tokens = 20
    return model


def picture(name: str) -> Image.Image:
    """A reference image of the size of the case."""
    latent, factor = CASES[name].latent, 16 if "1.5-i2v" in name and "hunyuan" in name else 8
    size = latent.height * factor, latent.width * factor, 3
    values = torch.randint(0, 255, size, generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


@cache
def stored(name: str) -> dict[str, Tensor]:
    """What a data set holds of the reference image, [1, ...], encoded as the codec does."""
    case, pipeline = CASES[name], opened(name).pipeline
    if not case.image:
        return {}
    pixels = pipeline.video_processor.preprocess(picture(name))
    with torch.no_grad(), posterior_mode():
        latents = pipeline.vae.encode(pixels.unsqueeze(2)).latent_dist.mode()
        if "ltx" in name:
            mean, std = (value.view(1, -1, 1, 1, 1) for value in (pipeline.vae.latents_mean, pipeline.vae.latents_std))
            return {"reference": ((latents - mean) / std).transpose(1, 2)}
        found = {"reference": latents.transpose(1, 2) * pipeline.vae.config.scaling_factor}
        if "hunyuan" in name:
            found["image_embeds"] = pipeline.encode_image(picture(name), 1, torch.device("cpu"), torch.float32)
    return found


def condition(name: str, prompts: Sequence[int], reference: str = "") -> dict[str, Tensor]:
    """Of a batch with those of `PROMPTS`."""
    case, family = CASES[name], opened(name).family
    with torch.no_grad():
        text = family.padded([family.encode_text(opened(name).pipeline, PROMPTS[place]) for place in prompts])
    given = {key: value.expand(len(prompts), *value.shape[1:]) for key, value in stored(name).items()}
    return family.condition(given, text, case.latent, pose="none", reference=reference or case.reference)


def noise(name: str, samples: int = 1, seed: int = 5) -> Tensor:
    return torch.randn(samples, *CASES[name].latent.shape, generator=torch.Generator().manual_seed(seed))


@cache
def captured(name: str) -> Captured:
    case = CASES[name]
    settings = case.settings | {"prompt": PROMPTS[1], "negative_prompt": PROMPTS[0]}
    if case.image:
        settings["image"] = picture(name)
    latents = noise(name)
    if "ltx" in name and case.image:  # latents that its caller gives have the image in them
        latents[:, :1] = stored(name)["reference"]
    return opened(name).run(latents=case.layout(latents), num_inference_steps=3, **settings)


@every
def test_inputs_are_those_of_the_pipeline(name):
    case, run, family = CASES[name], captured(name), opened(name).family
    assert len(run.times) == 3 and len(run.calls) == 3 * len(case.calls)
    scheduler = family.sampler(copy.deepcopy(opened(name).pipeline.scheduler))
    times = family.timesteps(scheduler, 3, case.latent, torch.device("cpu"))
    assert torch.equal(times, torch.stack(run.times))
    for place, call in enumerate(run.calls):
        step, prompts = place // len(case.calls), case.calls[place % len(case.calls)]
        given = condition(name, prompts)
        if case.guidance:
            given["guidance"] = torch.full((len(prompts),), case.guidance)
        x = noise(name) if step == 0 else own_layout(name, run.latents[step])
        ours = family.inputs(x.expand(len(prompts), *x.shape[1:]), times[step].expand(len(prompts)), given)
        with torch.no_grad():
            out, expected = (opened(name).network(**(given | {"return_dict": False}))[0] for given in (ours, call))
        for text, mask in case.padding.items():
            assert not torch.equal(call[text], ours[text]) or call[mask].bool().all() or not call[text].any()
            call[text] = torch.where(call[mask].bool()[..., None], call[text], 0)
        assert differences(ours, call, case.within) == []
        assert torch.equal(out, expected) or case.within


def own_layout(name: str, latents: Tensor) -> Tensor:
    """Latents that a pipeline gives its scheduler, as [B, T, C, h, w]."""
    latent = CASES[name].latent
    if latents.dim() == 3:
        return latents.unflatten(1, (latent.frames, latent.height, latent.width)).permute(0, 1, 4, 2, 3)
    if "cogvideox" in name:
        return latents
    latents = latents.transpose(1, 2)
    missing = latent.frames - latents.shape[1]  # frames that are given, not generated
    return torch.cat([torch.zeros_like(latents[:, :missing]), latents], 1)


@every
def test_conditions_have_the_names_and_shapes_that_the_family_says(name):
    case, family = CASES[name], opened(name).family
    for reference in {case.reference, "none"}:
        found = condition(name, (0, 1), reference)
        shapes = shapes_of(family, case.latent, pose="none", reference=reference)
        assert {key: tuple(value.shape[1:]) for key, value in found.items()} == shapes
    assert set(family.stored(pose="none", reference=case.reference)) == set(stored(name))
    assert family.native_reference == (case.image or "ltx" in name)
    assert family.counted_from(case.reference) == int("ltx" in name and case.image)
    assert family.size_problem(case.latent) == ""


@every
def test_clean_latents_follow_from_the_target(name):
    family, latent = opened(name).family, CASES[name].latent
    objective = family.objective(tokens=torch.Size(family.tokens(latent)).numel())
    clean, eps, tau = noise(name, 8, 1), noise(name, 8, 2), torch.linspace(0.01, 0.99, 8)
    x, target = objective.add(clean, eps, tau), objective.target(clean, eps, tau)
    assert (objective.x0(target, x, tau) - clean).abs().max() <= 1e-5
    with torch.no_grad():
        out = opened(name).predict(x, objective.time(tau), condition(name, [1] * 8))
    assert out.shape == target.shape and out.std() > 0.01


def passed_on(block: nn.Module) -> Callable[..., Any]:
    """A forward that gives hidden states back, and those of the text where the block returns both."""
    alone = type(block).__name__ in ALONE

    def forward(hidden_states, encoder_hidden_states=None, *args, **kwargs):
        return hidden_states if alone else (hidden_states, encoder_hidden_states)

    return forward


@every
@torch.no_grad()
def test_skipped_blocks_leave_the_model_without_them(name):
    model, given = opened(name), condition(name, (0, 1))
    x, time = noise(name, 2), torch.tensor([700, 300])
    whole = model.predict(x, time, given)
    with Skipper(model.blocks) as skipper:
        skipped = {}
        for block in model.blocks:
            with skipper.skip(block.name):
                skipped[block.name] = model.predict(x, time, given)
    for block in model.blocks:
        block.module.forward = passed_on(block.module)
        try:
            bare = model.predict(x, time, given)
        finally:
            del block.module.forward
        assert torch.equal(skipped[block.name], bare) and not torch.equal(bare, whole)


@every
@torch.no_grad()
def test_sizes_of_tokens_are_those_that_blocks_get(name):
    model, case, given = opened(name), CASES[name], condition(name, (0, 1))
    frames, rows, columns = model.family.tokens(case.latent)
    sizes = []
    for block in model.blocks:
        with seen_inputs(block.module, lambda call: sizes.append(call.get("hidden_states", call.get("0")).shape)):
            model.predict(noise(name, 2), torch.tensor([700, 300]), given)
    assert set(sizes) == {(2, frames * rows * columns, model.family.width)}


@every
@torch.no_grad()
def test_the_entrance_takes_control_latents_in_the_layout_of_control(name):
    model, given, x = opened(name), condition(name, (0, 1)), noise(name, 2)
    entrance, seen = model.network.get_submodule(model.family.entrance), []
    assert isinstance(entrance, nn.Linear | nn.Conv2d | nn.Conv3d)
    with seen_inputs(entrance, lambda call: seen.append(call["0"])):
        model.predict(x, torch.tensor([700, 300]), given)
    control = model.family.control(model.family.keep(x, given))
    axis = control.dim() - 1 if isinstance(entrance, nn.Linear) else 1
    assert torch.equal(seen[0].narrow(axis, 0, control.shape[axis]), control)


@every
@torch.no_grad()
def test_the_head_is_what_is_read_after_the_last_block(name):
    model, given = opened(name), condition(name, (0, 1))
    outside = outside_parameters(model.network, model.blocks)
    before = input_parameters(
        model.network, model.blocks, lambda: model.predict(noise(name, 2), torch.tensor([700, 300]), given)
    )
    named = {key for key in outside if key.startswith(model.family.head)}
    assert named == set(outside) - set(before) and named


@every
def test_the_network_runs_on_fake_tensors_as_a_plan_does(name):
    model, case = opened(name), CASES[name]
    shapes = shapes_of(model.family, case.latent, pose="none", reference=case.reference)
    with FakeTensorMode():
        network = type(model.network).from_config(model.network.config)
        given = {key: torch.ones(2, *shape) for key, shape in shapes.items()}
        x = torch.empty(2, *case.latent.shape)
        out = network(**model.family.inputs(x, torch.zeros(2), given), return_dict=False)[0]
        assert model.family.output(out, x).shape == x.shape


def test_cogvideox_refuses_sizes_that_its_positions_do_not_reach():
    learned, sliced = opened("cogvideox-5b-i2v").family, opened("cogvideox-1.5").family
    assert "learned for latents of 6x8, not 8x8" in learned.size_problem(Latent(3, 4, 8, 8, 9))
    assert "choose frames = 8 k - 3" in sliced.size_problem(Latent(3, 4, 6, 8, 9))
    assert "positions reach latents of 6x8" in sliced.size_problem(Latent(4, 4, 6, 10, 13))
    assert opened("cogvideox-5b").family.size_problem(Latent(5, 4, 12, 10, 17)) == ""


def test_cogvideox_samples_with_a_scheduler_that_steps_on_one_prediction():
    model = opened("cogvideox-5b")
    own = model.pipeline.scheduler
    found = model.family.sampler(own)
    assert (type(own).__name__, type(found).__name__) == ("CogVideoXDPMScheduler", "CogVideoXDDIMScheduler")
    assert torch.equal(found.alphas_cumprod, own.alphas_cumprod)
    found.set_timesteps(3)
    x = noise("cogvideox-5b")
    assert found.step(torch.zeros_like(x), found.timesteps[0], x, return_dict=False)[0].shape == x.shape


@pytest.mark.parametrize("name", ["hunyuan-video-1.5", "hunyuan-video-1.5-i2v"])
@pytest.mark.parametrize("prompts", [(0, 1), (1, 1)])
def test_hunyuan_video_15_with_static_shapes_equals_the_network_of_diffusers_bit_for_bit(name, prompts):
    model, given = opened(name), condition(name, prompts)
    static, original = type(model.network), type(model.network).__bases__[0]
    assert original is HunyuanVideo15Transformer3DModel and static.__name__ == original.__name__
    inputs = model.family.inputs(noise(name, 2), torch.tensor([700.0, 300.0]), given) | {"return_dict": False}
    results = []
    for kind in (static, original):
        model.network.__class__ = kind
        try:
            out = model.network(**inputs)[0]
            out.square().sum().backward()
        finally:
            model.network.__class__ = static
        gradients = {key: p.grad for key, p in model.network.named_parameters() if p.grad is not None}
        model.network.zero_grad()
        results.append((out.detach(), gradients))
    (out, gradients), (expected, others) = results
    assert torch.equal(out, expected) and gradients.keys() == others.keys()
    for key, gradient in gradients.items():
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient, others[key], rtol=1e-4, atol=1e-5)


def test_hunyuan_video_15_knows_of_each_sample_whether_it_has_an_image():
    model, x, time = opened("hunyuan-video-1.5-i2v"), noise("hunyuan-video-1.5-i2v", 2), torch.tensor([700.0, 300.0])
    given = condition("hunyuan-video-1.5-i2v", (1, 1))
    without = condition("hunyuan-video-1.5-i2v", (1, 1), "none")
    mixed = {key: torch.cat([value[:1], without[key][1:]]) for key, value in given.items()}
    with torch.no_grad():
        both, first, second = (model.predict(x, time, conditions) for conditions in (mixed, given, without))
    torch.testing.assert_close(both[0], first[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(both[1], second[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "network", "message"),
    [
        (HunyuanVideo, {"image_condition_type": "token_replace"}, "image_condition_type = 'token_replace'"),
        (HunyuanVideo15, {"use_meanflow": True}, "use_meanflow = true"),
    ],
)
def test_hunyuan_variants_that_take_more_are_refused(family, network, message):
    with pytest.raises(ValueError, match=message):
        family(Configs(network))


def test_distilled_networks_take_the_guidance_scale():
    assert opened("hunyuan-video").family.embedded_guidance == 6.0
    assert torch.equal(condition("hunyuan-video", (0, 1))["guidance"], torch.ones(2))
    assert opened("hunyuan-video-1.5").family.embedded_guidance == 0.0


def test_ltx_video_counts_seconds_at_the_frame_rate_of_the_videos():
    family, x, time = copy.copy(opened("ltx-video").family), noise("ltx-video"), torch.tensor([700.0])
    seconds = []
    for family.frame_rate in (0.0, 16.0):
        seconds.append(family.inputs(x, time, condition("ltx-video", (1,)))["rope_interpolation_scale"])
    assert seconds == [(4 / 25, 8, 8), (4 / 16, 8, 8)]
