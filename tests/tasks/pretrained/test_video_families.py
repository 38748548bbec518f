"""CogVideoX, HunyuanVideo and LTX-Video: a family's inputs equal those of its own pipeline, bit for bit."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from entprog.core.blocks import outside_parameters
from entprog.core.skip import Skipper
from entprog.core.truncation import input_parameters
from entprog.tasks.pretrained.families.base import Latent
from family_calls import Captured, Opened, differences, posterior_mode, seen_inputs, shapes_of

PROMPTS = ["", "a person dances"]
"""Of one call with classifier-free guidance: the negative prompt first."""


@dataclass(frozen=True)
class Case:
    """One pipeline: how it is run, and what the data set would hold of the same inputs.

    Attributes:
        latent: of a sample.
        settings: of the pipeline's call.
        image: whether it takes a reference image.
        packed: latents [1, T, C, h, w] in the pipeline's own layout.
        within: largest difference of inputs from the pipeline's; above 0 only where its own arithmetic rounds.
    """

    latent: Latent
    settings: dict[str, Any]
    image: bool = False
    packed: Callable[[Tensor], Tensor] = lambda x: x
    within: float = 0.0

    @property
    def reference(self) -> str:
        return "native" if self.image else "none"


COG: dict[str, Any] = {"height": 48, "width": 64, "num_frames": 9, "max_sequence_length": 24}
CASES = {
    "cogvideox-2b": Case(Latent(3, 4, 6, 8, 9), COG),
    "cogvideox-5b": Case(Latent(3, 4, 8, 6, 9), COG | {"height": 64, "width": 48}),
    "cogvideox-5b-i2v": Case(Latent(3, 4, 6, 8, 9), COG, image=True),
    "cogvideox-1.5": Case(Latent(4, 4, 6, 4, 13), COG | {"width": 32, "num_frames": 13}),
    "cogvideox-1.5-i2v": Case(Latent(4, 4, 6, 4, 13), COG | {"width": 32, "num_frames": 13}, image=True, within=1e-6),
}
ALONE = {"LTXVideoTransformerBlock"}
"""Blocks that return video tokens alone, not the text tokens with them."""

every = pytest.mark.parametrize("name", CASES)


@cache
def opened(name: str) -> Opened:
    return Opened(name)


def picture(settings: dict[str, Any]) -> Image.Image:
    side = settings["width"], settings["height"]
    values = torch.randint(0, 255, (side[1], side[0], 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


def stored(name: str) -> dict[str, Tensor]:
    """What a data set holds of the reference image, [1, ...], encoded as the codec does."""
    case, pipeline = CASES[name], opened(name).pipeline
    if not case.image:
        return {}
    size = case.settings["height"], case.settings["width"]
    pixels = pipeline.video_processor.preprocess(picture(case.settings), *size)
    with torch.no_grad(), posterior_mode():
        latents = pipeline.vae.encode(pixels.unsqueeze(2)).latent_dist.mode()
    return {"reference": latents.transpose(1, 2) * pipeline.vae.config.scaling_factor}


def condition(name: str, prompts: list[str]) -> dict[str, Tensor]:
    case, family = CASES[name], opened(name).family
    with torch.no_grad():
        text = family.padded([family.encode_text(opened(name).pipeline, prompt) for prompt in prompts])
    given = {key: value.expand(len(prompts), *value.shape[1:]) for key, value in stored(name).items()}
    return family.condition(given, text, case.latent, pose="none", reference=case.reference)


def noise(name: str, samples: int = 1, seed: int = 5) -> Tensor:
    return torch.randn(samples, *CASES[name].latent.shape, generator=torch.Generator().manual_seed(seed))


@cache
def captured(name: str) -> Captured:
    case = CASES[name]
    images = {"image": picture(case.settings)} if case.image else {}
    settings = case.settings | images | {"prompt": PROMPTS[1], "negative_prompt": PROMPTS[0], "guidance_scale": 3.0}
    return opened(name).run(case.packed(noise(name)), num_inference_steps=3, **settings)


@every
def test_inputs_are_those_of_the_pipeline(name):
    case, run, family = CASES[name], captured(name), opened(name).family
    assert run.calls and len(run.times) == 3
    scheduler = family.sampler(copy.deepcopy(opened(name).pipeline.scheduler))
    times = family.timesteps(scheduler, 3, case.latent, torch.device("cpu"))
    assert torch.equal(times, torch.stack(run.times))
    given = condition(name, PROMPTS)
    for call, latents, time in zip(run.calls, run.latents, times, strict=False):
        x = latents.expand(2, *latents.shape[1:])
        assert differences(family.inputs(x, time.expand(2), given), call, case.within) == []


@every
def test_conditions_have_the_names_and_shapes_that_the_family_says(name):
    case, family = CASES[name], opened(name).family
    for reference in {case.reference, "none"}:
        found = family.condition(
            stored(name), {k: v for k, v in condition(name, PROMPTS).items() if k != "channels"}, case.latent,
            pose="none", reference=reference,
        )  # fmt: skip
        shapes = shapes_of(family, case.latent, pose="none", reference=reference)
        assert {key: tuple(value.shape[1:]) for key, value in found.items()} == shapes
    assert set(family.stored(pose="none", reference=case.reference)) == set(stored(name))
    assert family.native_reference == case.image
    assert family.size_problem(case.latent) == ""


@every
def test_clean_latents_follow_from_the_target(name):
    family, latent = opened(name).family, CASES[name].latent
    objective = family.objective(tokens=torch.Size(family.tokens(latent)).numel())
    clean, eps, tau = noise(name, 8, 1), noise(name, 8, 2), torch.linspace(0.01, 0.99, 8)
    x, target = objective.add(clean, eps, tau), objective.target(clean, eps, tau)
    assert (objective.x0(target, x, tau) - clean).abs().max() <= 1e-5
    with torch.no_grad():
        out = opened(name).predict(x, objective.time(tau), condition(name, [PROMPTS[1]] * 8))
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
    model, given = opened(name), condition(name, PROMPTS)
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
    model, case, given = opened(name), CASES[name], condition(name, PROMPTS)
    frames, rows, columns = model.family.tokens(case.latent)
    sizes = []
    for block in model.blocks:
        with seen_inputs(block.module, lambda call: sizes.append(call.get("hidden_states", call.get("0")).shape)):
            model.predict(noise(name, 2), torch.tensor([700, 300]), given)
    assert set(sizes) == {(2, frames * rows * columns, model.family.width)}


@every
@torch.no_grad()
def test_the_entrance_takes_control_latents_in_the_layout_of_control(name):
    model, given, x = opened(name), condition(name, PROMPTS), noise(name, 2)
    entrance, seen = model.network.get_submodule(model.family.entrance), []
    assert isinstance(entrance, nn.Linear | nn.Conv2d | nn.Conv3d)
    with seen_inputs(entrance, lambda call: seen.append(call["0"])):
        model.predict(x, torch.tensor([700, 300]), given)
    control = model.family.control(x)
    axis = control.dim() - 1 if isinstance(entrance, nn.Linear) else 1
    assert torch.equal(seen[0].narrow(axis, 0, control.shape[axis]), control)


@every
@torch.no_grad()
def test_the_head_is_what_is_read_after_the_last_block(name):
    model, given = opened(name), condition(name, PROMPTS)
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
