"""The Wan families against diffusers' own pipelines: what the network gets, text, noise levels, blocks."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from entprog.config.load import ConfigError
from entprog.core.blocks import Blocks, discover_blocks
from entprog.core.skip import Skipper
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.families.base import Configs, Latent
from entprog.tasks.pretrained.folder import read_configs
from pretrained_runs import Variant, task_of
from tiny_pipelines import saved
from wan_calls import FRAMES, PROMPT, STEPS, USES, captured, condition, family, latent, network

EXPERTS = ("wan-2.2-i2v", "wan-2.2-t2v-a14b")
FOLDERS = tuple(dict.fromkeys(use.folder for use in USES.values()))


def latents_of(name: str, call: Any) -> Tensor:
    """The latents [1, T, C, h, w] among the channels that a pipeline gave."""
    channels = family(USES[name].folder).channels
    return call.arguments["hidden_states"][:, :channels].transpose(1, 2)


@pytest.mark.parametrize("name", USES)
def test_the_network_gets_what_the_pipeline_feeds_it(name: str) -> None:
    """Latents, time and text of each call of the pipeline, the rest from stored tensors: equal bits."""
    known, calls = family(USES[name].folder), captured(name).calls
    assert len(calls) == 2 * STEPS
    for place, call in enumerate(calls):
        x = latents_of(name, call)
        given = condition(name, call.arguments["encoder_hidden_states"])
        inputs = known.inputs(x, torch.tensor([call.time]), given)
        expected = {k: v for k, v in call.arguments.items() if isinstance(v, Tensor)}
        if place % 2:  # without a prompt, for guidance
            given |= {key: known.nothing(key, given) for key in known.unguided if key in given}
            inputs = known.inputs(x, torch.tensor([call.time]), given)
        assert inputs.keys() == expected.keys()
        for key, value in expected.items():
            assert inputs[key].shape == value.shape, key
            assert torch.equal(inputs[key].float(), value.float()), key


@pytest.mark.parametrize("name", USES)
def test_float16_on_disk_changes_the_inputs_by_a_thousandth(name: str) -> None:
    known, call = family(USES[name].folder), captured(name).calls[0]
    given = condition(name, call.arguments["encoder_hidden_states"], stored_as=torch.float16)
    inputs = known.inputs(latents_of(name, call), torch.tensor([call.time]), given)
    for key, value in inputs.items():
        torch.testing.assert_close(value.float(), call.arguments[key].float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", USES)
def test_conditions_are_what_condition_gives(name: str) -> None:
    use, known = USES[name], family(USES[name].folder)
    declared = known.conditions(latent(name), pose=use.pose, reference=use.reference)
    given = condition(name)
    assert {c.name: c.shape for c in declared} == {key: tuple(value.shape[1:]) for key, value in given.items()}
    assert all(given[c.name].is_floating_point() for c in declared)
    assert {key: known.nothing(key, given).shape for key in given} == {key: value.shape for key, value in given.items()}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("reference", ["native", "frame", "none"])
@pytest.mark.parametrize("pose", ["native", "blocks"])
def test_every_setting_runs(name: str, pose: str, reference: str) -> None:
    """Also conditions that the family's pipeline does not know, such as a model of images without one."""
    known = family(name)
    if (reference == "native" and not known.native_reference) or (pose == "native" and not known.native_pose):
        return
    if why := known.problem(pose=pose, reference=reference):
        assert name == "wan-animate" and 'set "native"' in why
        return
    random = torch.Generator().manual_seed(0)
    height, width = 4, 6
    clip = torch.randn(2, 3, known.channels, height, width, generator=random)
    everything = {
        "control": clip, "blank": clip, "first": clip, "reference": clip[:, :1],
        "image_embeds": torch.randn(2, 257, 16, generator=random),
        "face": torch.zeros(2, FRAMES, 3, 16, 16, dtype=torch.uint8),
    }  # fmt: skip
    stored = {key: everything[key] for key in known.stored(pose=pose, reference=reference)}
    front = int(reference == "frame") + known.leading(reference=reference)
    size = Latent(3 + front, known.channels, height, width, FRAMES)
    text = known.padded(
        [{"text": torch.randn(3, 32, generator=random)}, {"text": torch.randn(5, 32, generator=random)}]
    )
    given = known.condition(stored, text, size, pose=pose, reference=reference)
    shapes = {c.name: c.shape for c in known.conditions(size, pose=pose, reference=reference)}
    assert shapes == {key: tuple(value.shape[1:]) for key, value in given.items()}
    x = torch.randn(2, *size.shape, generator=random)
    with torch.no_grad():
        out = network(name)(**known.inputs(x, torch.tensor([300.0, 700.0]), given), return_dict=False)[0]
    assert known.output(out, x).shape == x.shape and out.isfinite().all() and out.std() > 1e-3


@pytest.mark.parametrize("name", FOLDERS)
def test_text_is_stored_unpadded_and_padded_as_the_pipeline_does(name: str) -> None:
    known = family(name)
    cls = getattr(diffusers, str(known.configs.index["_class_name"]))
    absent = [key for key in ("transformer", "transformer_2", "vae") if key in known.configs.index]
    pipeline = cls.from_pretrained(saved(name), **dict.fromkeys(absent))
    texts = [known.encode_text(pipeline, prompt) for prompt in ("", PROMPT)]
    assert [len(text["text"]) for text in texts] == [1, len(PROMPT.split()) + 1]
    padded = known.padded(texts)["text"]
    calls = captured(name).calls
    assert torch.equal(padded[1:], calls[0].arguments["encoder_hidden_states"])
    assert torch.equal(padded[:1], calls[1].arguments["encoder_hidden_states"])


@pytest.mark.parametrize("name", FOLDERS)
def test_the_clean_latents_follow_from_the_target(name: str) -> None:
    known = family(name)
    objective = known.objective(part=known.part())
    random = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 64, 3, 4, 4, 4, generator=random)
    tau = torch.linspace(0.01, 0.99, 64)
    x, target = objective.add(clean, noise, tau), objective.target(clean, noise, tau)
    torch.testing.assert_close(objective.x0(target, x, tau), clean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["wan-2.1-t2v", "wan-2.2-ti2v-5b, image", "wan-2.2-t2v-a14b"])
def test_times_are_those_of_the_scheduler(name: str) -> None:
    """The same time stands for the same noise level in training and in sampling."""
    known, calls = family(USES[name].folder), captured(name).calls
    scheduler = diffusers.UniPCMultistepScheduler.from_config(dict(known.configs.scheduler))
    times = known.timesteps(scheduler, STEPS, latent(name), torch.device("cpu"))
    assert times.tolist() == [call.time for call in calls[::2]]
    objective = known.objective()
    for time, sigma in zip(times.tolist(), scheduler.sigmas.tolist(), strict=False):
        u = sigma / (objective.shift - (objective.shift - 1) * sigma)
        assert objective.b(torch.tensor([u])).item() == pytest.approx(sigma, abs=1e-6)
        assert objective.time(torch.tensor([u])).item() == pytest.approx(time, abs=1)  # the scheduler cuts to integers


@pytest.mark.parametrize("name", EXPERTS)
def test_each_expert_has_the_noise_levels_that_the_pipeline_gives_it(name: str) -> None:
    boundary = {"wan-2.2-i2v": 0.9, "wan-2.2-t2v-a14b": 0.875}[name]
    high, low = family(name, "transformer"), family(name, "transformer_2")
    assert (high.part(), low.part()) == ((boundary, 1.0), (0.0, boundary))
    for call in captured(name).calls:
        least, most = family(name, call.component).part()
        assert 1000 * least <= call.time <= 1000 * most
        assert high.component_at(call.time) == low.component_at(call.time) == call.component
    assert {call.component for call in captured(name).calls} == {"transformer", "transformer_2"}
    for known, other in ((high, "transformer_2"), (low, "transformer")):
        (note,) = known.notes()
        assert f'model.component = "{other}"' in note
        objective, tau = known.objective(part=known.part()), torch.rand(1000)
        least, most = known.part()
        assert (objective.b(tau) >= least - 1e-6).all() and (objective.b(tau) <= most + 1e-6).all()


def test_one_network_has_all_noise_levels_and_no_note() -> None:
    for name in set(FOLDERS) - set(EXPERTS):
        assert family(name).part() == (0.0, 1.0) and family(name).notes() == ()


def test_a_model_of_a_first_and_a_last_image_is_refused() -> None:
    configs = read_configs(saved("wan-2.1-i2v"))
    known = family_of(Configs(dict(configs.network) | {"pos_embed_seq_len": 514}, configs.scheduler))
    assert "first and a last image" in known.problem(pose="blocks", reference="native")
    assert not family("wan-2.1-i2v").problem(pose="blocks", reference="native")


def test_a_model_with_other_channels_is_refused() -> None:
    """Such as those that take control latents beside the image's."""
    configs = read_configs(saved("wan-2.2-i2v"))
    known = family_of(Configs(dict(configs.network) | {"in_channels": 48}, configs.scheduler))
    assert "in_channels = 48" in known.problem(pose="blocks", reference="native")
    assert not any(family(name).problem(pose="blocks", reference="native") for name in FOLDERS)


def test_what_counts_in_the_loss() -> None:
    """A frame that is given or that stands for the reference does not; TI2V without a reference makes all frames."""
    assert [family("wan-2.2-ti2v-5b").first_counted(reference=r) for r in ("native", "none")] == [1, 0]
    assert [family("wan-vace").first_counted(reference=r) for r in ("native", "none")] == [1, 0]
    assert family("wan-animate").first_counted(reference="native") == 1
    assert family("wan-2.2-i2v").first_counted(reference="native") == 0


def test_the_given_frame_is_kept_while_sampling() -> None:
    """As WanImageToVideoPipeline ends: the first frame is the reference."""
    name = "wan-2.2-ti2v-5b, image"
    known, done = family("wan-2.2-ti2v-5b"), captured(name)
    kept = known.keep(torch.zeros_like(done.latents), condition(name))
    assert torch.equal(kept[:, :1], done.stored["reference"]) and torch.equal(done.latents[:, :1], kept[:, :1])
    assert not kept[:, 1:].any()


@pytest.mark.parametrize("name", USES)
def test_sampling_by_the_family_ends_where_the_pipeline_does(name: str) -> None:
    """The scheduler's loop around `inputs`, `output` and `keep`, from the pipeline's own noise."""
    folder, done = USES[name].folder, captured(name)
    known = family(folder)
    scheduler = diffusers.UniPCMultistepScheduler.from_config(dict(known.configs.scheduler))
    x = latents_of(name, done.calls[0])
    given, free = (condition(name, call.arguments["encoder_hidden_states"]) for call in done.calls[:2])
    for key in set(known.unguided) & set(free):
        free[key] = known.nothing(key, free)
    for time, call in zip(known.timesteps(scheduler, STEPS, latent(name), x.device), done.calls[::2], strict=True):
        x, out = known.keep(x, given), []
        for each in (given, free):
            with torch.no_grad():
                raw = network(folder, call.component)(**known.inputs(x, time.expand(1), each), return_dict=False)[0]
            out.append(known.output(raw, x))
        x = scheduler.step(out[1] + 2 * (out[0] - out[1]), time, x, return_dict=False)[0]
    x = known.keep(x, given)[:, known.leading(reference=USES[name].reference) :]
    torch.testing.assert_close(x, done.latents, rtol=0, atol=1e-5)


def blocks_of(name: str, model: nn.Module) -> Blocks:
    known = family(name)
    names = known.block_names(model) or list(known.patterns)
    return discover_blocks(model, names or None, adapters=known.skip_adapters(model))


def run(name: str, model: nn.Module) -> Tensor:
    use = next(key for key, use in USES.items() if use.folder == name and use.pose == USES[name].pose)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, *latent(use).shape, generator=random)
    text = torch.randn(1, 512, 32, generator=random)
    with torch.no_grad():
        return model(**family(name).inputs(x, torch.tensor([500.0]), condition(use, text)), return_dict=False)[0]


class PassOn(nn.Module):
    """In the place of a block of the main stack."""

    def forward(self, hidden_states: Tensor, *rest: Any) -> Tensor:
        return hidden_states


ORDERS = dict.fromkeys(FOLDERS, tuple(f"blocks.{i}" for i in range(6))) | {
    "wan-vace": (*(f"vace_blocks.{i}" for i in range(3)), *(f"blocks.{i}" for i in range(6))),
    "wan-animate": (
        "blocks.0", "face_adapter.0", "blocks.1", "blocks.2", "blocks.3", "face_adapter.1", "blocks.4", "blocks.5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_blocks_are_listed_as_they_run(name: str) -> None:
    model = network(name)
    blocks = blocks_of(name, model)
    assert blocks.names == ORDERS[name]
    with Skipper(blocks) as skipper:
        run(name, model)
    assert tuple(block for block, _ in skipper.order) == blocks.names and not skipper.uncalled
    assert set(blocks.adapters) == {block for block in blocks.names if not block.startswith("blocks.")}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_skipped_block_is_a_block_that_is_not_there(name: str) -> None:
    model = network(name)
    blocks = blocks_of(name, model)
    whole = run(name, model)
    for block in blocks.names:
        with Skipper(blocks) as skipper, skipper.skip(block):
            skipped = run(name, model)
        assert not torch.equal(skipped, whole)
        without = copy.deepcopy(model)
        stack, place = block.split(".")
        if stack == "blocks":
            without.get_submodule(stack)[int(place)] = PassOn()
        else:  # a side block with all parameters zero
            for parameter in without.get_submodule(block).parameters():
                parameter.data.zero_()
        assert torch.equal(skipped, run(name, without)), block
        if stack == "blocks" and not blocks.adapters:
            shorter = copy.deepcopy(model)
            del shorter.get_submodule(stack)[int(place)]
            assert torch.equal(skipped, run(name, shorter)), block


def test_the_expert_that_does_not_train_is_looked_at_first(tmp_path: Path) -> None:
    """Sampling takes both, after days of training."""
    variant = Variant.make("wan-2.2-t2v-a14b", tmp_path)
    model = tmp_path / "model"
    shutil.copytree(variant.model, model)
    (file,) = (model / "transformer_2").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ConfigError, match=r"transformer_2: .*copy its weights again"):
        task_of(replace(variant, model=model))
