"""What the engine saves, in a plan: equal to the whole network simulated, and to the meter of the step that runs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import optim

from entprog.config.load import read_config
from entprog.config.schema import Config, ModelConfig
from entprog.core.blocks import discover_blocks
from entprog.core.freeze import param_groups
from entprog.core.types import Draw, Shape
from entprog.diffusion.objective import Objective
from entprog.nets.dit import VideoDiT
from entprog.plan.caveats import notes
from entprog.plan.estimate import Planner
from entprog.plan.largest import largest_m
from entprog.plan.orders import suffix
from entprog.plan.rows import Plan
from entprog.plan.screen import text
from entprog.plan.simulator import Simulator, Step
from entprog.plugins import load
from entprog.profiling.hardware import find_device
from entprog.profiling.meter import Meter
from entprog.profiling.step_costs import adamw
from entprog.profiling.subject import Case
from entprog.savings.frozen_storage import FrozenStorage
from entprog.savings.reference_cache import ReferenceCache
from entprog.tasks.human_video.build import build_model
from entprog.tasks.human_video.plan_subject import HumanVideoSubject
from entprog.tasks.human_video.task import HumanVideoTask

GALORE = "benchmarks.rivals.galore:Galore"

PLAIN = Case(Shape(16, 2, 2), outside=False)
SUFFIX = ("blocks.8", "temporal.4", "blocks.11")
CASES: dict[str, Case] = {
    "cache": replace(PLAIN, references=2),
    "echo": replace(PLAIN, echo=True),
    "tokens": replace(PLAIN, shape=Shape(16, 2, 2, 0.5)),
    "bf16": replace(PLAIN, storage="bf16"),
    "int8": replace(PLAIN, storage="int8"),
    "nf4": replace(PLAIN, storage="nf4", checkpointing=True),
    "offload": replace(PLAIN, storage="offload"),
    "lora": replace(PLAIN, low_rank=4, spared=("temporal.*", "blocks.*.mlp.up")),
    "mixed": replace(PLAIN, low_rank=4, storage="int8"),
}
DEEP = 16
LONG = pytest.param("mixed", marks=pytest.mark.slow)  # takes as long as all others


def parts(name: str, blocks: tuple[str, ...], active: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Blocks that train in full, and those that train by adapters."""
    if name == "lora":
        return (), blocks
    return active, tuple(block for block in blocks if block not in active) if name == "mixed" else ()


@pytest.mark.parametrize("name", [*(name for name in CASES if name != "mixed"), LONG])
def test_savings_are_composed_exactly(name: str) -> None:
    simulator = Simulator(HumanVideoSubject(Config(), depth=DEEP))
    blocks = simulator.subject.family("all")
    active, adapted = parts(name, blocks, suffix(blocks).top(4))
    short, whole = (f(CASES[name], active, adapted) for f in (simulator.timeline, simulator.whole))
    assert short.peak == whole.peak and short.at_peak == whole.at_peak
    assert short.operations == whole.operations
    assert short.left == whole.left and short.left["activations"] == 0


def told(name: str) -> Step:
    simulator = Simulator(HumanVideoSubject(Config()))
    active, adapted = parts(name, simulator.subject.family("all"), SUFFIX)
    return simulator.step(CASES[name], active, adapted=adapted)


def metered(model: VideoDiT, optimizer: optim.Optimizer, case: Case, cache: ReferenceCache | None = None) -> Meter:
    task = HumanVideoTask(model, Objective(), reference_cache=cache)
    model.gradient_checkpointing = case.checkpointing
    torch.manual_seed(1)
    references = torch.randn(2, 16, 4, 4)
    if cache is not None:
        cache.prepare(references)
    with Meter(model, optimizer) as meter:
        batch = torch.zeros(2, 2, 16, 4, 4), references, torch.zeros(2, 2, 3, 16, 16, dtype=torch.uint8)
        condition = {"reference": references * 1.0, "pose": torch.zeros(2, 2, 3, 16, 16)}
        places = torch.stack([torch.arange(2)] * 2) if case.shape.tokens < 1 else None
        hidden = torch.zeros(2, 2, 4, model.config.width) if case.echo else None
        clip = torch.zeros(2, 2, 16, 4, 4)
        draw = Draw(clip, torch.zeros(2), torch.zeros_like(clip), condition, places, hidden)
        task.prepare(draw)
        task.loss(draw).backward()
        del batch
    return meter


@pytest.mark.parametrize("name", CASES)
def test_savings_are_those_of_a_step_that_runs(name: str) -> None:
    step, case = told(name), CASES[name]
    model = build_model(ModelConfig())
    blocks = discover_blocks(model)
    about: dict[str, Any] = {}
    if case.low_rank:
        pytest.importorskip("peft")
        from entprog.methods._low_rank import MixedFreezer
        from entprog.methods.lora import Lora
        from entprog.methods.mixed import Mixed

        method = Lora(rank=4, full=case.spared) if name == "lora" else Mixed(rank=4)
        for parameter in model.parameters():
            parameter.requires_grad_(any(parameter is p for block in blocks for p in block.parameters()))
        optimizer = optim.AdamW(method.groups(model, blocks, lr=1e-4, seed=0), fused=True)
        if name == "mixed":
            MixedFreezer(model, blocks, optimizer, outside=False, **about).train_only(SUFFIX)
    else:
        model.requires_grad_(False)
        for block in SUFFIX:
            model.get_submodule(block).requires_grad_(True)
        optimizer = optim.AdamW(param_groups(model, blocks, lr=1e-4), fused=True)
    if case.storage != "full":
        FrozenStorage(discover_blocks(model), case.storage).follow()  # type: ignore[arg-type]
    cache = ReferenceCache(model, "device", 2**30) if case.references else None
    meter = metered(model, optimizer, case, cache)
    kept = case.references * HumanVideoSubject(Config()).reference_bytes(case, SUFFIX) if cache is not None else 0
    trained = [p for p in model.parameters() if p.requires_grad]
    assert step.trained == sum(p.numel() for p in trained)
    assert step.flops == meter.flops
    assert step.by_category["optimizer"] == sum(adamw(p) for p in trained)
    if name == "offload":  # a CPU has nowhere else to keep the originals, and the meter sees them read
        weights = sum(p.numel() for p in build_model(ModelConfig()).parameters()) * 4
        assert step.by_category["weights"] < 0.5 * weights
        return
    assert step.by_category["weights"] == meter.at_peak["weights"]
    assert step.peak + kept == pytest.approx(meter.peak, rel=0.01)


def test_new_blocks_that_rest_are_left_out() -> None:
    from entprog.methods.lora import Lora

    model = build_model(ModelConfig(fresh=("temporal",)))
    blocks = discover_blocks(model)
    method = Lora(rank=4, m=0.5, full=("temporal.*",))
    outside = [p for p in model.parameters() if not any(p is q for block in blocks for q in block.parameters())]
    for parameter in outside:
        parameter.requires_grad_(False)
    optimizer = optim.AdamW(method.groups(model, blocks, lr=1e-4, seed=0), fused=True)
    model.idle = model.idle_temporal()
    assert model.idle == {0, 1, 2}
    case = replace(PLAIN, low_rank=4, spared=method.full, new_rest=True)
    for subject in (HumanVideoSubject(Config()), HumanVideoSubject(Config(), depth=DEEP)):
        simulator = Simulator(subject)
        adapted = method.active(0, simulator.subject.family("all"), 0)
        short, whole = (f(case, (), adapted) for f in (simulator.timeline, simulator.whole))
        assert short.peak == whole.peak and short.operations == whole.operations
    step = Simulator(HumanVideoSubject(Config())).step(case, (), adapted=method.active(0, blocks.names, 0))
    meter = metered(model, optimizer, case)
    assert step.flops == meter.flops and step.peak == pytest.approx(meter.peak, rel=0.01)
    planner = Planner(recipe(method="lora", method_options__m=0.5, model__fresh='["temporal"]'), find_device("4090"))
    assert planner.case(planner.config.phases["video"]).new_rest


def recipe(**more: Any) -> Config:
    keys = {"phases.subject.steps": 0, "phases.pose.steps": 0, "phases.video.frames": 2, "phases.video.resolution": 32}
    given = {**keys, **{key.replace("__", "."): value for key, value in more.items()}}
    return read_config(None, [(key, str(value)) for key, value in given.items()], planned=True)


@pytest.mark.parametrize("name", ["adamw8bit", "adafactor", GALORE, "muon"])
def test_states_of_every_optimizer_are_exact(name: str) -> None:
    planner = Planner(recipe(train__optimizer=name), find_device("cpu"))
    step = planner.step(replace(PLAIN, outside=True), SUFFIX)
    model = build_model(ModelConfig())
    inside = {id(p): block.name for block in discover_blocks(model) for p in block.parameters()}
    trained = [p for p in model.parameters() if inside.get(id(p), SUFFIX[0]) in SUFFIX]
    assert step.by_category["optimizer"] == sum(
        load("optimizer", name).state_bytes(p, "block" if id(p) in inside else "outside") for p in trained
    )
    (said,) = notes(planner)
    assert f'train.optimizer = "{name}": its states are exact' in said


def test_what_is_left_out_is_said() -> None:
    planner = Planner(
        recipe(
            train__memory_budget="8GiB", train__compile="blocks", train__reference_cache="device",
            phases__pose__steps=200_000,
        ),
        find_device("4090"),
    )  # fmt: skip
    said = list(notes(planner))
    assert [line.split(":")[0] for line in said] == [
        'train.reference_cache = "device"', 'train.memory_budget = "8GiB"', 'train.compile = "blocks"',
    ]  # fmt: skip
    assert "steps of video are those with their references known" in said[0]
    stored = Planner(recipe(freeze__storage="offload"), find_device("4090"))
    assert list(notes(stored)) == ['freeze.storage = "offload": fetching weights from the host\'s memory is not timed']
    assert not list(notes(Planner(recipe(), find_device("4090"))))


@pytest.mark.slow  # two plans whole
def test_an_echo_is_the_mean_of_its_steps() -> None:
    lean = {"method": "lora", "method_options__m": 0.34, "method_options__inputs": "never", "model__pose": "blocks"}
    rows = []
    for echo in (1, 4):
        planner = Planner(recipe(**lean, phases__video__echo=echo, phases__video__echo_window=3), find_device("cpu"))
        (phase,) = planner.phases("suffix")
        rows.append(next(row for row in phase.rows if row.kind == "stage"))
    once, often = rows
    assert 0.3 * once.flops < often.flops < 0.8 * once.flops and often.seconds < once.seconds
    assert often.peak - once.peak == 3 * planner.subject.hidden_bytes(planner.case(phase.settings))


@pytest.mark.parametrize("method", ["lora", LONG])
def test_a_method_with_adapters_is_planned_as_itself(method: str) -> None:
    stages = {} if method == "lora" else {"schedule__name": "fixed", "schedule__options__m": [2, 6]}
    planner = Planner(
        recipe(method=method, method_options__rank=4, train__ema_decay=0.9, **stages), find_device("4090")
    )
    (phase,) = planner.phases("suffix")
    said = text(Plan("nano", 1, planner.hardware, planner.precision, False, [phase], list(notes(planner))))
    rows = {row.kind: row for row in phase.rows}
    assert "note:" not in said
    if method == "lora":
        assert rows["stage"].trained < 0.5 * rows["lora"].trained and phase.ranking is None
        assert not largest_m(planner, phase, "suffix")
        return
    few, every = sorted((row for row in phase.rows if row.kind == "stage"), key=lambda row: row.m)
    assert few.lowest == 0 and every.trained == rows["full"].trained > few.trained > 0
    assert every.peak > rows["full"].peak, "adapters of blocks that train in full stay in memory"
    assert phase.ranking is not None and "ranking its blocks first: at most" in said
