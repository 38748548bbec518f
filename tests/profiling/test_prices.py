"""What a step is said to cost beforehand, against the meter of the step itself."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from entprog.config.schema import RankingConfig, TrainConfig
from entprog.core.blocks import Blocks, discover_blocks
from entprog.core.freeze import Freezer, param_groups
from entprog.core.truncation import input_parameters
from entprog.core.types import Draw
from entprog.diffusion.objective import Objective
from entprog.nets.dit import SIZES
from entprog.plan.estimate import Planner
from entprog.profiling.hardware import find_device
from entprog.profiling.meter import Meter
from entprog.profiling.profiled import profiled_peak
from entprog.profiling.states import expected_state_bytes
from entprog.profiling.step_costs import adamw, measure_costs
from entprog.savings.in_backward import build_optimizer, optimizer_plugin
from entprog.savings.options import Option
from entprog.savings.simulated_step import simulate_step
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.train.ranking import rank_blocks
from entprog.train.run import train
from tiny import lines, small_dit, synthetic_data, tiny_config

GALORE = "benchmarks.rivals.galore:Galore"

OPTIMIZERS = ["adamw", "adamw8bit", "adafactor", GALORE, "muon"]
RANK = 24
SUFFIX = ("blocks.2", "temporal.1", "blocks.3")


def chosen(name: str) -> TrainConfig:
    if name == "adamw8bit":
        pytest.importorskip("torchao")
    return TrainConfig(optimizer=name, optimizer_options={"rank": RANK} if name == GALORE else {})  # type: ignore[arg-type]


def built(samples: int = 2) -> tuple[HumanVideoTask, Blocks, Draw, tuple[str, ...]]:
    """A task with a pose adapter in every block, a draw, and the names of the input-side parameters."""
    task = HumanVideoTask(small_dit(width=64, pose="blocks"), Objective(), full_size=16)
    condition = {"reference": torch.randn(samples, 16, 4, 4), "pose": torch.rand(samples, 2, 3, 16, 16)}
    clip = (samples, 2, 16, 4, 4)
    draw = Draw(torch.randn(clip), torch.rand(samples), torch.randn(clip), condition)
    blocks = discover_blocks(task.model)
    return task, blocks, draw, input_parameters(task.model, blocks, lambda: task.predict(draw))


def fresh(draw: Draw) -> Draw:
    """One of the same size that is nobody's but the loss's, as the loop's are."""
    condition = {name: torch.rand(value.shape) for name, value in draw.condition.items()}
    return Draw(torch.randn(draw.x.shape), torch.rand(draw.tau.shape), torch.randn(draw.target.shape), condition)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_are_known_beforehand(name: str, kind: torch.dtype) -> None:
    shapes = [(64, 64), (64, 96), (64, 65), (7, 5), (300,), (8192,), (2, 48, 64)]
    parameters = [nn.Parameter(torch.randn(shape).to(kind)) for shape in shapes]
    optimizer = build_optimizer(chosen(name), [{"name": "blocks.0", "params": parameters, "lr": 1e-3}])
    simulated = [expected_state_bytes(optimizer, optimizer.param_groups[0], p) for p in parameters]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for parameter, expected in zip(parameters, simulated, strict=True):
        real = [state.untyped_storage().nbytes() for state in optimizer.state[parameter].values()]
        assert sorted(expected) == sorted(real), parameter.shape
        assert optimizer_plugin(chosen(name)).state_bytes(parameter, "block") == sum(real)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_price_of_a_suffix_is_the_meter_of_its_step(name: str) -> None:
    """Inputs that never train end the backward at the lowest active block, in bytes and FLOPs alike."""
    task, blocks, draw, inputs = built()
    config, model = chosen(name), task.model
    assert {"patch_embed.weight", "pose_embed.linear.weight"} & set(inputs) and "head.weight" not in inputs
    trainable = {id(p) for path, p in model.named_parameters() if path not in inputs}
    simulated = simulate_step(task, blocks, Option(SUFFIX), draw, 2, config, trainable=trainable)
    optimizer = build_optimizer(config, param_groups(model, blocks, lr=1e-4))
    Freezer(model, blocks, optimizer, inputs=inputs).train_only(SUFFIX, inputs=False)
    task.loss(fresh(draw)).backward()
    optimizer.step()  # makes the states
    optimizer.zero_grad()
    with Meter(model, optimizer) as meter:
        drawn = fresh(draw)  # alive during the backward, as in the training loop
        task.loss(drawn).backward()
    assert (simulated.flops, simulated.peak) == (meter.flops, meter.peak)
    assert simulated.by_category == meter.at_peak
    everything = simulate_step(
        task, blocks, Option(SUFFIX), draw, 2, config, trainable={id(p) for p in model.parameters()}
    )
    assert everything.flops > 1.2 * simulated.flops and everything.peak > simulated.peak


def test_measured_costs_end_where_the_backward_ends() -> None:
    task, blocks, draw, inputs = built(1)
    order, model = list(blocks.names), task.model
    optimizer = build_optimizer(TrainConfig(), param_groups(model, blocks, lr=1e-4))
    task.loss(draw).backward()
    optimizer.step()
    optimizer.zero_grad()
    states = {id(p): adamw(p) for p in model.parameters()}
    never, always, rarely = (
        measure_costs(task, blocks, order, draw, 1, outside=True, exact=True, inputs=inputs, every=every)
        for every in (0, 1, 4)
    )
    for active in (["temporal.1"], ["blocks.3"], ["blocks.2", "blocks.3"], ["blocks.1", "blocks.2", "blocks.3"], order):
        with Freezer(model, blocks, optimizer, inputs=inputs) as freezer:
            freezer.train_only(active, inputs=False)
            trained = sum(states[id(p)] for p in model.parameters() if p.requires_grad)
            with Meter(model) as meter:
                task.loss(draw).backward()
            model.zero_grad()
        assert never.flops.of(active) == meter.flops < always.flops.of(active)
        mean = (always.flops.of(active) + 3 * never.flops.of(active)) / 4
        assert rarely.flops.of(active) == pytest.approx(mean, rel=1e-12)
        assert never.bytes.of(active) == pytest.approx(meter.peak + trained, rel=0.1)
        if active == ["temporal.1"]:  # a depth that was tried
            assert never.bytes.of(active) == meter.peak + trained
    assert rarely.bytes == always.bytes and rarely.spent == always.spent + never.spent
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_the_peak_of_ranking_is_that_of_the_allocator() -> None:
    task, blocks, draw, _ = built()
    held = [draw.x, draw.tau, draw.target, *draw.condition.values()]
    for score in ("cei", "gradient"):

        def scored(score: str = score) -> None:
            rank_blocks(task, blocks, [draw], RankingConfig(score=score))

        with Meter(task.model, held=held) as meter:
            scored()
        assert meter.peak == pytest.approx(profiled_peak(scored, [*task.model.parameters(), *held]), rel=0.02), score


def test_a_run_is_priced_as_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage that was fitted takes what was said, and the run's peak knows of its ranking."""
    monkeypatch.setitem(SIZES, "nano", {"depth": 4, "width": 32, "heads": 2})
    data = synthetic_data(tmp_path / "data", sizes=(16,))
    config = tiny_config(
        tmp_path / "run", data, phases__subject__steps=0, phases__video__steps=0, phases__pose__steps=2,
        phases__pose__batch=4, phases__pose__frames=4, phases__pose__blocks="all", schedule__name="fixed",
        schedule__options__m=[2], ranking__score="order", ranking__options__order="last", model__pose="blocks",
        freeze__inputs_every=0, train__memory_budget="1GiB", model__condition_dropout=0.0,
    )  # fmt: skip
    run = train(config)
    rows, events = lines(run / "log.jsonl"), lines(run / "events.jsonl")
    (fit,) = (event for event in events if event["event"] == "fit")
    (rank,) = (event for event in events if event["event"] == "rank")
    assert rows[0]["bytes_peak"] == pytest.approx(fit["bytes_peak"] - fit["bytes_reserved"], rel=0.03)
    (planned,) = Planner(config, find_device("cpu")).phases("suffix")
    assert planned.ranking is not None and rank["bytes_peak"] <= planned.ranking <= 1.25 * rank["bytes_peak"]
    totals = events[-1]
    assert totals["bytes_peak_scoring"] == rank["bytes_peak"] > 0
    assert totals["bytes_peak"] == max(rank["bytes_peak"], *(row["bytes_peak"] for row in rows))
    with pytest.raises(ValueError, match="the weights alone take"):
        train(replace(config, output_dir=str(tmp_path / "b"), train=replace(config.train, memory_budget="1KiB")))
