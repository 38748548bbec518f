"""CogVideoX, HunyuanVideo and LTX-Video: a family's inputs equal those of its own pipeline, bit for bit."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from entprog.core.blocks import outside_parameters
from entprog.core.skip import Skipper
from entprog.core.truncation import input_parameters
from family_calls import differences, seen_inputs, shapes_of
from video_cases import CASES, captured, condition, noise, opened, own_layout, stored

ALONE = {"LTXVideoTransformerBlock"}
"""Blocks that return video tokens alone, not the text tokens with them."""

every = pytest.mark.parametrize("name", CASES)


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


@every
def test_conditions_have_the_names_and_shapes_that_the_family_says(name):
    case, family = CASES[name], opened(name).family
    for reference in {case.reference, "none"}:
        found = condition(name, (0, 1), reference)
        shapes = shapes_of(family, case.latent, pose="none", reference=reference)
        assert {key: tuple(value.shape[1:]) for key, value in found.items()} == shapes
    assert set(family.stored(pose="none", reference=case.reference)) == set(stored(name))
    assert family.native_reference == (case.image or "ltx" in name)
    assert family.first_counted(reference=case.reference) == int("ltx" in name and case.image)
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
    assert [block for block, _ in skipper.order] == list(model.blocks.names)
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
    sizes, texts = set(), set()

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        sizes.add(kwargs.get("hidden_states", args[0] if args else None).shape)
        texts.add(output[1].shape[1] if isinstance(output, tuple) else 0)

    hooks = [block.module.register_forward_hook(note, with_kwargs=True) for block in model.blocks]
    model.predict(noise(name, 2), torch.tensor([700, 300]), given)
    for hook in hooks:
        hook.remove()
    assert sizes == {(2, frames * rows * columns, model.family.width)}
    assert texts == {model.family.joint_tokens}
    assert model.family.frames_factor == 4


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


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.image])
def test_a_reference_stored_in_float16_gives_nearly_the_same_inputs(name):
    family, case = opened(name).family, CASES[name]
    whole, half = (condition(name, (0,), dtype=dtype) for dtype in (torch.float32, torch.float16))
    exact, rounded = (family.inputs(noise(name), torch.tensor([700.0]), given) for given in (whole, half))
    assert case.reference == "native" and differences(rounded, exact) != []
    for key, value in exact.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert (rounded[key].float() - value).abs().max() <= 1e-3 * value.abs().max()


@pytest.mark.parametrize("name", [name for name in CASES if name != "cogvideox-5b"])  # whose sampler is another
@torch.no_grad()
def test_a_plain_sampling_loop_ends_where_the_pipeline_does(name):
    model, case, x = opened(name), CASES[name], noise(name)
    scheduler = model.family.sampler(copy.deepcopy(model.pipeline.scheduler))
    given, nothing = condition(name, (1,)), condition(name, (0,))
    if case.guidance:
        given["guidance"] = nothing["guidance"] = torch.tensor([case.guidance])
    for time in model.family.timesteps(scheduler, 3, case.latent, torch.device("cpu")):
        x = model.family.keep(x, given)
        with_text, without = (model.predict(x, time.expand(1), conditions) for conditions in (given, nothing))
        x = scheduler.step(without + case.scale * (with_text - without), time, x, return_dict=False)[0]
    expected = captured(name).result
    x = model.family.keep(x, given)
    torch.testing.assert_close(x, own_layout(name, expected), rtol=1e-4, atol=1e-4)
