"""Rivals: what they train and when, and that their updates are their authors' packages' own."""

import importlib.util
import sys
import types
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.rivals.galore_adamw import GaLoreAdamW
from entprog.config.schema import TrainConfig
from entprog.core.blocks import discover_blocks
from entprog.core.freeze import param_groups
from entprog.core.types import Shape, Workload
from entprog.nets.dit import SIZES, build_dit
from entprog.plugins import load
from entprog.savings.in_backward import build_optimizer
from entprog.train.run import train
from loops import DRAWS, Rig, weights
from tiny import lines, synthetic_data, tiny_config
from toy import toy_task

LISA, BADAM = "benchmarks.rivals.lisa:Lisa", "benchmarks.rivals.badam:Badam"
NAMES = tuple(f"blocks.{i}" for i in range(12))
SHAPE = Shape(64, 10, 4)
INPUTS = ("embed.weight", "embed.bias", "inlet.weight", "inlet.bias")


def trained(method: str, steps: int, names: tuple[str, ...] = NAMES, seed: int = 3, **options: Any) -> list[Workload]:
    plugin = load("method", method, **options)
    every = [plugin.workload(i, names, SHAPE, steps, seed) for i in range(steps)]
    planned = list(plugin.workloads(names, SHAPE, steps, seed))
    assert [w for w, count in planned for _ in range(count)] == every, "workloads() lists what trains"
    return every


# --- sizes by stage ---


def test_a_progression_without_freezing() -> None:
    every = trained("full", 8, frames=[2, 2, 2, 0], resolution=[0.5, 0.5, 0, 0], batch=[8, 0.5, 0, 0])
    assert all(workload.active == NAMES for workload in every)
    assert [workload.shape for workload in every[::2]] == [
        Shape(32, 2, 8), Shape(32, 2, 2), Shape(64, 2, 4), SHAPE,
    ]  # fmt: skip
    plugin = load("method", "full", tokens=[0.5, 1.0])
    assert plugin.shapes(SHAPE) == (Shape(64, 10, 4, 0.5), SHAPE) and plugin.stages == 2
    assert load("method", "full", frames=[2, 0]).shapes(Shape(64, 1, 4)) == (Shape(64, 1, 4),)
    assert load("method", "lora", resolution=[0.3, 0]).shapes(SHAPE)[0].resolution == 16, "a multiple of 8"


def test_stages_are_announced_once_each() -> None:
    rig = Rig(method="full", schedule=None, total=6, options={"frames": [1, 0]}, shape=Shape(16, 2, 2))
    rig.run()
    assert [values["stage"] for name, values in rig.events if name == "stage"] == [0, 1]
    assert [info.stage for info in rig.infos] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": [2, 0], "batch": [1]}, r"method_options\.batch = \[1\]: give one value for each of the 2 stages"),
        ({"frames": [2.5, 0]}, r"method_options\.frames = \[2\.5, 0\]: 2\.5 can't be"),
        ({"tokens": [0.0, 1.0]}, r"method_options\.tokens = \[0\.0, 1\.0\]: 0 is not a share"),
        ({"batch": [-1, 0]}, r"method_options\.batch = \[-1, 0\]: -1 can't be"),
    ],
)
def test_sizes_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load("method", "full", **options)


def test_a_foreign_loop_has_no_sizes_and_a_phase_enough_steps() -> None:
    rig = Rig(method="full", schedule=None, total=4, options={"frames": [1, 0]})
    with pytest.raises(ValueError, match=r"method_options\.frames: sizes can only change"):
        rig.method.plan(0)
    with pytest.raises(ValueError, match="method_options: 2 stages, but the phase has 1 steps"):
        Rig(method="full", schedule=None, total=1, options={"frames": [1, 0]}, shape=Shape(16, 2, 2))


# --- LISA ---


def test_lisa_draws_gamma_blocks_evenly() -> None:
    every = trained(LISA, 600, gamma=3, every=2)
    assert all(len(workload.active) == 3 and workload.inputs for workload in every)
    assert all(list(w.active) == sorted(w.active, key=NAMES.index) for w in every), "in the network's order"
    counts = {name: sum(name in workload.active for workload in every[::2]) for name in NAMES}
    assert sum(counts.values()) == 900 and all(45 < count < 105 for count in counts.values())
    assert trained(LISA, 20, every=2) == trained(LISA, 20, every=2) != trained(LISA, 20, every=2, seed=4)
    assert all(w.active == NAMES[:1] for w in trained(LISA, 4, NAMES[:1], every=2)), "all of a phase that has fewer"
    turns = [len([w for w, _ in groupby(trained(LISA, steps))]) for steps in (50, 250)]
    assert all(15 < count <= 25 for count in turns), turns
    assert load("method", LISA).turn_steps(NAMES, 100_000) == 20


@pytest.mark.parametrize("states", ["drop", "keep"])
def test_lisa_drops_the_states_of_blocks_that_freeze(states: str) -> None:
    rig = Rig(method=LISA, schedule=None, total=12, options={"gamma": 1, "every": 2, "states": states})
    rig.run()
    holding = {
        name.rsplit(".", 1)[0] if name.startswith("blocks") else "outside"
        for name, p in rig.task.model.named_parameters()
        if rig.optimizer.state.get(p)
    }
    blocks = {".".join(name.split(".")[:2]) for name in holding if name != "outside"}
    seen = {name for info in rig.infos for name in info.active}
    assert "outside" in holding and len(seen) > 1
    assert blocks == (set(rig.infos[-1].active) if states == "drop" else seen)


# --- BAdam ---


def test_badam_takes_every_block_once_a_round() -> None:
    every = trained(BADAM, 144, every=4)
    first, second = ([w.active[0] for w in every[start : start + 48 : 4]] for start in (0, 48))
    assert sorted(first) == sorted(second) == sorted(NAMES) and first != second
    assert [w.active[0] for w in trained(BADAM, 12, every=1, order="ascending")] == list(NAMES)
    assert [w.active[0] for w in trained(BADAM, 12, every=1, order="descending")] == list(NAMES[::-1])
    plugin = load("method", BADAM)
    assert [plugin.turn_steps(NAMES, steps) for steps in (5, 360, 10_000)] == [1, 10, 100]


def test_badam_lets_inputs_train_in_the_first_blocks_turn() -> None:
    for inputs, expected in (("first", ["blocks.0"]), ("always", list(NAMES)), ("never", [])):
        every = trained(BADAM, 12, every=1, order="ascending", inputs=inputs)
        assert [w.active[0] for w in every if w.inputs] == expected
    rig = Rig(method=BADAM, schedule=None, total=8, options={"every": 1, "order": "ascending"}, inputs=INPUTS)
    moved = []
    for i in range(8):
        before = weights(rig.task)
        rig.run(i, i + 1)
        moved.append(not torch.equal(before["inlet.weight"], rig.task.model.inlet.weight))
        assert not torch.equal(before["outlet.weight"], rig.task.model.outlet.weight), "output-side: always trains"
    assert moved == [True, False, False, False] * 2


def test_badam_equals_its_authors_package(capsys: pytest.CaptureFixture[str]) -> None:
    """Switches, dropped states and updates; outside the blocks all is an "active module" there."""
    package = pytest.importorskip("badam", exc_type=ImportError)
    rig = Rig(method=BADAM, schedule=None, total=10, options={"every": 3, "order": "ascending", "inputs": "always"})
    rig.run()

    task = toy_task()
    own = torch.optim.AdamW(param_groups(task.model, discover_blocks(task.model), lr=1e-2), lr=1e-2, weight_decay=0.1)
    with pytest.warns(UserWarning, match="BAdam expect model"):
        theirs = package.BlockOptimizer(
            own, list(task.model.named_parameters()), block_prefix_list=[[f"blocks.{i}."] for i in range(4)],
            switch_block_every=3, switch_mode="ascending", active_modules=["embed.", "inlet.", "outlet."], verbose=0,
        )  # fmt: skip
    theirs.global_step = -1  # the package gives its first block one step less
    for i in range(10):
        task.loss(DRAWS[i % len(DRAWS)]).backward()
        theirs.step()
        theirs.zero_grad(set_to_none=True)
    ours = weights(rig.task)
    assert all(torch.equal(ours[name], p) for name, p in task.model.named_parameters())
    capsys.readouterr()


@pytest.mark.parametrize("method", [LISA, BADAM], ids=["lisa", "badam"])
def test_new_blocks_may_always_train(method: str) -> None:
    names = ("blocks.0", "temporal.0", "blocks.1", "temporal.1", "blocks.2")
    every = trained(method, 12, names, every=1, always=["temporal.*"])
    assert all({"temporal.0", "temporal.1"} < set(w.active) for w in every)
    assert all(list(w.active) == sorted(w.active, key=names.index) for w in every)
    assert {name for w in every for name in w.active} == set(names)
    assert all(w.active == names[1:2] for w in trained(method, 3, names[1:2], always=["temporal.*"]))


# --- GaLore, Adafactor ---


def matrices() -> dict[str, Tensor]:
    """Tall, wide and square ones, one too small to be projected, and a vector."""
    source = torch.Generator().manual_seed(0)
    shapes = {"tall": (24, 10), "wide": (10, 24), "square": (12, 12), "small": (30, 4), "vector": (7,)}
    return {name: torch.randn(shape, generator=source) for name, shape in shapes.items()}


def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the authors' AdamW; the package itself imports more than it needs."""
    found = importlib.util.find_spec("galore_torch")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("galore-torch is not installed")
    pytest.importorskip("transformers")
    package = types.ModuleType("galore_torch")
    package.__path__ = list(found.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "galore_torch", package)
    return importlib.import_module("galore_torch.adamw")


def test_galore_is_its_authors_package(monkeypatch: pytest.MonkeyPatch) -> None:
    package = theirs(monkeypatch)
    about = {"rank": 4, "update_proj_gap": 3, "scale": 0.25}
    common = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1}
    ends = []
    for ours in (True, False):
        ps = {name: torch.nn.Parameter(value) for name, value in matrices().items()}
        low = [ps[name] for name in ("tall", "wide", "square")]
        rest = [ps[name] for name in ("small", "vector")]
        if ours:
            built: Any = GaLoreAdamW([{"params": [*low, *rest], "project": True}], **common, **about)
        else:
            groups = [{"params": low, **about, "proj_type": "std"}, {"params": rest}]
            built = package.AdamW(groups, **common, no_deprecation_warning=True)
        source = torch.Generator().manual_seed(1)
        for _ in range(8):
            for p in ps.values():
                p.grad = torch.randn(p.shape, generator=source)
            built.step()
        ends.append(ps)
    for name in ends[0]:  # the package multiplies by views in another order of memory
        assert torch.allclose(ends[0][name], ends[1][name], rtol=0, atol=1e-6), name


def test_galore_projects_the_blocks_matrices_only() -> None:
    task = toy_task(width=64)
    settings = TrainConfig(optimizer="benchmarks.rivals.galore:Galore", optimizer_options={"rank": 8})
    built = build_optimizer(settings, param_groups(task.model, discover_blocks(task.model), lr=1e-2))
    assert isinstance(built, GaLoreAdamW)
    for p in task.model.parameters():
        p.grad = torch.randn_like(p)
    built.step()
    for name, p in task.model.named_parameters():
        state = built.state[p]
        assert ("projection" in state) == (name.startswith("blocks.") and p.ndim == 2), name
        planned = sorted(value.numel() * value.element_size() for value in state.values())
        assert sorted(built.state_bytes(p)) == planned
        assert all(v.untyped_storage().nbytes() == v.numel() * v.element_size() for v in state.values())


def test_adafactor_is_the_papers_also_for_small_gradients() -> None:
    """arXiv 1804.04235, algorithm 5: one step from nothing, gradients as a diffusion model has them."""
    source = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(12, 20, generator=source), 1e-6 * torch.randn(12, 20, generator=source)
    gradient = gradient * torch.logspace(0, 2, 20)  # columns of different size
    p = torch.nn.Parameter(start.clone())
    settings = TrainConfig(optimizer="adafactor", adam_weight_decay=0.0)
    built = build_optimizer(settings, [{"params": [p], "lr": 1e-2, "name": "blocks.0"}])
    p.grad = gradient.clone()
    built.step()
    squares = gradient.double() ** 2 + 1e-30
    estimate = squares.mean(1, keepdim=True) * squares.mean(0, keepdim=True) / squares.mean()
    update = gradient / estimate.sqrt()
    update = update / max(1.0, float(update.square().mean().sqrt()))
    expected = start - 1e-2 * max(1e-3, float(start.square().mean().sqrt())) * update
    assert torch.allclose(p.double(), expected, atol=1e-6)


def test_lora_leaves_new_modules_whole() -> None:
    """Pose adapters of the blocks train in full at the phase's own rate; those at the input lie outside anyway."""
    pytest.importorskip("peft")
    model = build_dit("nano", depth=3, width=32, heads=2, pose="blocks")
    blocks = discover_blocks(model, "blocks.*")
    groups = load("method", "lora", rank=4, full=["blocks.*.pose"]).groups(model, blocks, lr=1e-3, seed=0)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    inside = {name: p for name, p in model.named_parameters() if name.startswith("blocks.")}
    new = {name: p for name, p in inside.items() if ".pose." in name}
    assert new and not any("lora" in name for name in new)
    assert all(p.requires_grad and rate[id(p)] == 1e-3 for p in new.values())
    adapters = [p for name, p in inside.items() if ".lora_" in name]
    assert adapters and all(rate[id(p)] == pytest.approx(1e-2) for p in adapters)
    assert not any(p.requires_grad for name, p in inside.items() if ".lora_" not in name and ".pose." not in name)
    assert model.pose_embed is not None and all(rate[id(p)] == 1e-3 for p in model.pose_embed.parameters())


def test_lora_trains_a_phase_of_new_blocks_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`model.fresh` says what is new; image phases are adapted as ever."""
    pytest.importorskip("peft")
    monkeypatch.setitem(SIZES, "nano", {"depth": 4, "width": 32, "heads": 2})
    data = synthetic_data(tmp_path / "data")
    config = tiny_config(
        tmp_path / "run", data, method="lora", method_options__rank=2, model__fresh=["pose", "temporal"],
        phases__subject__steps=0, phases__pose__steps=2, phases__video__steps=2,
    )  # fmt: skip
    rows = lines(train(config) / "log.jsonl")
    temporal = sum(p.numel() for p in build_dit("nano").temporal.parameters())
    assert [row["trainable_params"] == temporal for row in rows] == [False, False, True, True]
