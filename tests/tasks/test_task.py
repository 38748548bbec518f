"""The human video task: what is random about a draw, and what the loss is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from entprog.core.types import Draw, Shape
from entprog.data.clips import Clips
from entprog.data.shards import Shards
from entprog.diffusion.objective import Objective, step_to_tau
from entprog.profiling.device import pick_device, pick_precision
from entprog.tasks.base import fixed_draws
from entprog.tasks.human_video.task import FAMILIES, HumanVideoTask
from entprog.train.draws import save_draws
from tiny import small_dit


@pytest.fixture
def task() -> HumanVideoTask:
    return HumanVideoTask(small_dit(), Objective(), full_size=32)


@pytest.fixture
def clips(tiny_data: Path) -> Clips:
    return Clips(Shards(tiny_data), "train", frames=3)


def everything(draw: Draw) -> dict[str, torch.Tensor]:
    return {"x": draw.x, "tau": draw.tau, "target": draw.target, **draw.condition}


def test_a_sample_is_drawn_alike_in_any_batch(task: HumanVideoTask, clips: Clips) -> None:
    task.dropout = 0.5
    whole = task.draw(clips.batch(3, Shape(16, 3, 4)), Shape(16, 3, 4), seed=7)
    for k in range(4):
        alone = task.draw(clips.batch(3 + k, Shape(16, 3, 1)), Shape(16, 3, 1), seed=7)
        for name, value in everything(alone).items():
            assert torch.equal(value[0], everything(whole)[name][k]), name
    again = task.draw(clips.batch(3, Shape(16, 3, 4)), Shape(16, 3, 4), seed=7)
    assert all(torch.equal(v, everything(again)[n]) for n, v in everything(whole).items())
    other = task.draw(clips.batch(3, Shape(16, 3, 4)), Shape(16, 3, 4), seed=8)
    assert not torch.equal(other.target, whole.target) and not torch.equal(other.tau, whole.tau)


def test_noise_and_time_stay_when_size_and_length_change(task: HumanVideoTask, clips: Clips) -> None:
    large = task.draw(clips.batch(0, Shape(32, 3, 2)), Shape(32, 3, 2), seed=1)
    small = task.draw(clips.batch(0, Shape(16, 2, 2)), Shape(16, 2, 2), seed=1)
    assert large.target.shape == (2, 3, 16, 8, 8) and small.target.shape == (2, 2, 16, 4, 4)
    assert torch.equal(small.target, large.target[:, :2, :, :4, :4]) and torch.equal(small.tau, large.tau)
    assert large.condition["pose"].shape == (2, 3, 3, 32, 32) and large.condition["pose"].max() <= 1
    assert large.size == 2 and not large.target.requires_grad


def test_dropout_takes_both_conditions_or_none(task: HumanVideoTask, clips: Clips) -> None:
    shape = Shape(16, 1, 64)
    task.dropout = 0.3
    draw = task.draw(clips.batch(0, shape), shape, seed=0)
    gone = [not draw.condition["reference"][k].any() for k in range(64)]
    assert gone == [not draw.condition["pose"][k].any() for k in range(64)]
    assert 8 <= sum(gone) <= 32
    full = task.draw(clips.batch(0, shape), shape, seed=0, dropout=0.0)
    assert all(bool(v.flatten(1).any(1).all()) for v in full.condition.values())
    for kept in (k for k in range(64) if not gone[k]):
        assert torch.equal(draw.condition["reference"][kept], full.condition["reference"][kept])
    none = task.draw(clips.batch(0, shape), shape, seed=0, dropout=1.0)
    assert not any(v.any() for v in none.condition.values())
    assert torch.equal(draw.target, full.target) and torch.equal(draw.x, none.x)


def test_the_loss_is_the_mean_squared_error_of_the_noise(task: HumanVideoTask, clips: Clips) -> None:
    shape = Shape(16, 3, 2)
    batch = clips.batch(0, shape)
    draw = task.draw(batch, shape, seed=0)
    predicted = task.model(draw.x, draw.tau, batch.reference, batch.pose.float() / 255).detach()
    assert torch.equal(task.predict(draw), predicted)
    by_hand = sum(float(e) ** 2 for e in (predicted - draw.target).flatten()) / draw.target.numel()
    assert float(task.loss(draw).detach()) == pytest.approx(by_hand, rel=1e-5)
    losses = task.losses(draw)
    assert losses.shape == (2,) and float(losses.detach().mean()) == pytest.approx(by_hand, rel=1e-5)


def test_a_phase_without_poses_shows_none(task: HumanVideoTask, clips: Clips) -> None:
    task.pose = False
    shape = Shape(16, 1, 2)
    draw = task.draw(clips.batch(0, shape), shape, seed=0)
    assert set(draw.condition) == {"reference"}
    assert torch.equal(task.predict(draw), task.model(draw.x, draw.tau, draw.condition["reference"]))


def test_half_precision_stays_close_and_returns_float32(task: HumanVideoTask, clips: Clips) -> None:
    shape = Shape(16, 3, 2)
    draw = task.draw(clips.batch(0, shape), shape, seed=0)
    exact = task.predict(draw).detach()
    task.autocast = "bf16"
    half = task.predict(draw)
    assert half.dtype == torch.float32 and not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.05 * float(exact.abs().max()))


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noising_is_that_of_diffusers(name: str) -> None:
    clean, noise = torch.randn(2, 1000, 3, 4).unbind()
    step = torch.arange(1000)
    ours = Objective(beta_schedule=name).add(clean, noise, step_to_tau(step))
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_schedule=name).add_noise(clean, noise, step)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_times_and_steps() -> None:
    noising = Objective()
    assert noising.steps(torch.tensor([0.0, 0.00049, 0.001, 0.5, 0.99999, 1.0])).tolist() == [0, 0, 1, 500, 999, 999]
    assert noising.steps(step_to_tau(torch.arange(1000))).tolist() == list(range(1000))
    clean = torch.randn(2, 5)
    torch.testing.assert_close(noising.add(clean, clean * 0, torch.zeros(2)), clean, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"beta_schedule = 'cosine': choose linear"):
        Objective(beta_schedule="cosine")


def test_fixed_draws_are_a_function_of_their_arguments(task: HumanVideoTask, clips: Clips, tmp_path: Path) -> None:
    task.dropout = 1.0
    shape = Shape(16, 1, 8)
    draws = fixed_draws(task, clips, shape, 16, seed=3)
    assert [draw.size for draw in draws] == [8, 8]
    assert all(bool(draw.condition["reference"].any()) for draw in draws), "no condition is dropped"
    again = fixed_draws(task, clips, shape, 16, seed=3)
    assert all(torch.equal(a.x, b.x) and torch.equal(a.target, b.target) for a, b in zip(draws, again, strict=True))
    assert [d.size for d in fixed_draws(task, clips, shape, 3, seed=3)] == [3]
    spread = np.sort(torch.cat([draw.tau for draw in draws]).numpy())
    assert np.diff(spread).max() < 2.7 / 16
    save_draws(tmp_path, draws, fixed_draws(task, clips, shape, 3, seed=4))
    from safetensors.torch import load_file

    stored = load_file(str(tmp_path / "draws.safetensors"))
    assert torch.equal(stored["probe.1.tau"], draws[1].tau) and stored["holdout.0.x"].shape == (3, 1, 16, 4, 4)
    assert (tmp_path / "draws.json").read_text() == '{"probe": [8, 8], "holdout": [3]}\n'


def test_every_sample_asked_for_is_drawn(task: HumanVideoTask, clips: Clips) -> None:
    def sizes(samples: int) -> list[int]:
        return [draw.size for draw in fixed_draws(task, clips, Shape(16, 1, 8), samples, seed=3)]

    small = [draw.size for draw in fixed_draws(task, clips, Shape(16, 1, 2), 5, seed=3)]
    assert small == [1, 2, 2], "a draw is no larger than a training step"
    assert [sizes(n) for n in (1, 8, 12, 17)] == [[1], [8], [6, 6], [5, 6, 6]]
    whole = torch.cat([draw.tau for draw in fixed_draws(task, clips, Shape(16, 1, 2), 17, seed=3)])
    alone = task.draw(clips.batch(0, Shape(16, 1, 17)), Shape(16, 1, 17), 3)
    assert torch.equal(whole, alone.tau)


def test_families_split_the_blocks() -> None:
    names = small_dit(reference="separate").entprog_blocks()
    spatial, temporal = ([n for n in names if FAMILIES[kind](n)] for kind in ("spatial", "temporal"))
    assert sorted(spatial + temporal) == sorted(names) and temporal == ["temporal.0", "temporal.1"]
    assert [n for n in names if FAMILIES["all"](n)] == names


def test_devices_and_precisions() -> None:
    cpu = torch.device("cpu")
    assert pick_device("cpu") == cpu and pick_precision("no", cpu) == "no"
    assert pick_precision("auto", cpu) in ("bf16", "no")
    with pytest.raises(ValueError, match=r"device = 'gpu': choose auto"):
        pick_device("gpu")
    with pytest.raises(ValueError, match=r"mixed_precision = 'fp16': only on a CUDA device"):
        pick_precision("fp16", cpu)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device here"):
            pick_device("cuda")
