"""Every method by its contract: off means off, frozen means frozen, and a saved state goes on exactly."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from entprog.core.types import Ranking, Shape, Trial, Workload
from entprog.plugins import describe, load, names
from entprog.train.checkpoint import load_checkpoint, save_checkpoint
from entprog.train.state import load_optimizer_state, optimizer_state
from loops import ORDER, Rig, Sizes, adaptive, weights

LISA = "benchmarks.rivals.lisa:Lisa"
BADAM = "benchmarks.rivals.badam:Badam"

INPUTS = ("embed.weight", "embed.bias", "inlet.weight", "inlet.bias")
"""Input-side parameters of the toy."""


def linear(stages: int) -> Any:
    return load("schedule", "linear", stages=stages)


def fixed(*m: float) -> Any:
    return load("schedule", "fixed", m=list(m))


UNRANKED: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "schedule": None},
    "full in stages": {
        "method": "full", "schedule": None, "options": {"frames": [1, 2, 0], "batch": [0.5, 0, 0]},
        "shape": Shape(16, 4, 2),
    },
    "lisa": {"method": LISA, "schedule": None, "options": {"gamma": 2, "every": 4}},
    "lisa, states kept": {"method": LISA, "schedule": None, "options": {"gamma": 1, "every": 4, "states": "keep"}},
    "badam": {"method": BADAM, "schedule": None, "options": {"every": 4}, "inputs": INPUTS},
    "badam, inputs never": {
        "method": BADAM, "schedule": None, "options": {"every": 4, "inputs": "never", "order": "descending"},
        "inputs": INPUTS,
    },
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    **UNRANKED,
    "linear": {"schedule": linear(4)},
    "descending": {"schedule": load("schedule", "descending", stages=3)},
    "supernet": {"schedule": adaptive("supernet", stages=2, search_steps=6)},
    "probe": {"schedule": adaptive("probe", stages=2, search_steps=6)},
    "sizes": {"schedule": Sizes("probe"), "shape": Shape(32, 2, 2)},
    "sizes of a supernet": {"schedule": Sizes("supernet"), "shape": Shape(32, 2, 2)},
}
SIZES = ("sizes", "sizes of a supernet")
TOTAL = 18


@pytest.mark.parametrize("name", names("method"))
def test_every_method_keeps_the_contract(name: str) -> None:
    if name in ("lora", "mixed"):
        pytest.importorskip("peft")
    assert describe("method", name).summary and load("method", name) == load("method", name)
    shape = Shape(16, 2, 2)
    rig = Rig(method=name, schedule=linear(2), total=6, shape=shape)
    for i in range(6):
        workload = rig.method.plan(i).workload
        assert workload == rig.method.plan(i).workload and workload.shape is not None
        assert replace(workload.shape, band=shape.band) == shape, "of the phase's size, whichever noise levels it has"
        assert 1 <= len(workload.active) <= 4 and set(workload.active) <= set(rig.blocks.names)
        assert rig.method.plan(i).replays == i
        rig.run(i, i + 1)
    assert next(values["stage"] for event, values in rig.events if event == "stage") == 0
    assert all(values["m"] == len(values["active"]) for event, values in rig.events if event == "stage")


@pytest.mark.parametrize("kind", ["full", "everything"])
def test_off_means_off(kind: str) -> None:
    """With every block active the method equals plain training bit for bit."""
    with_method = Rig(schedule=fixed(4), total=10, method="full" if kind == "full" else "progressive")
    plain = Rig(schedule=fixed(4), total=10)
    with_method.run()
    plain.plain_steps(0, 10)
    assert with_method.losses == plain.losses
    expected = weights(plain.task)
    assert all(torch.equal(expected[name], value) for name, value in weights(with_method.task).items())


@pytest.mark.parametrize(("kind", "states"), [*product(KINDS, ["keep"]), ("descending", "drop"), ("probe", "offload")])
def test_frozen_weights_do_not_move(kind: str, states: str) -> None:
    rig = Rig(**KINDS[kind], total=TOTAL, states=states)
    rig.run()  # asserts at every step that exactly the active blocks move
    assert len(rig.infos) == TOTAL
    if kind == "linear":
        assert [info.m for info in rig.infos] == [1] * 5 + [2] * 4 + [3] * 5 + [4] * 4
        assert rig.infos[0].active == ("blocks.2",) and rig.infos[5].active == ("blocks.0", "blocks.2")
    if kind == "descending":
        assert [info.m for info in rig.infos] == [4] * 6 + [3] * 6 + [1] * 6
        assert len(rig.optimizer_states()) < 3 * len(weights(rig.task)) or states == "keep"


def test_weights_outside_may_be_left_alone() -> None:
    rig = Rig(schedule=linear(2), total=4, outside=False)
    before = weights(rig.task)
    rig.run()
    moved = {n.split(".")[0] for n, value in weights(rig.task).items() if not torch.equal(value, before[n])}
    assert moved == {"blocks"}


def test_stages_share_the_steps_and_each_is_announced_once() -> None:
    rig = Rig(schedule=linear(4), total=10)
    rig.run()
    assert [info.stage for info in rig.infos] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    announced = [(values["stage"], values["m"]) for name, values in rig.events if name == "stage"]
    assert announced == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_a_new_ranking_at_each_stage() -> None:
    orders = iter([Ranking(ORDER.names[::-1]), Ranking(tuple(sorted(ORDER.names)))])
    rig = Rig(schedule=fixed(2, 2, 2), total=9, rerank=lambda: next(orders))
    rig.run()
    assert [set(info.active) for info in rig.infos[::3]] == [
        {"blocks.2", "blocks.0"}, {"blocks.1", "blocks.3"}, {"blocks.0", "blocks.1"},
    ]  # fmt: skip
    assert next(orders, None) is None, "asked once a stage, and not for the first"


STOPS = {"keep": range(TOTAL), "drop": (4, 8, 12, 14), "offload": (3, 7, 11, 15)}
"""After how many steps a run is stopped: everywhere, or within and around searches and stages."""


@pytest.mark.parametrize(
    ("kind", "states"),
    [*product((*UNRANKED, *SIZES), ["keep"]), *product([k for k in KINDS if k not in (*UNRANKED, *SIZES)], STOPS)],
)
def test_a_saved_state_goes_on_exactly(kind: str, states: str, tmp_path: Path) -> None:
    """Stopped after any step, searches included; saved, read into fresh objects, and finished."""
    every = kind in ("supernet", "probe", *SIZES)
    stops = set(STOPS[states]) if every else {2, 6, 12}
    whole, announced = Rig(**KINDS[kind], total=TOTAL, states=states), {}
    for i in range(TOTAL):
        if i in stops:
            state = {
                "model": dict(whole.task.model.state_dict()),
                "method": whole.method.state_dict(),
                "optimizer": optimizer_state(whole.optimizer, whole.task.model),
            }
            save_checkpoint(tmp_path, i, state)
            announced[i] = [name for name, _ in whole.events]
        whole.run(i, i + 1, checked=False)
    expected = weights(whole.task)
    for stop in stops:
        state = load_checkpoint(tmp_path / f"checkpoint-{stop}")
        again = Rig(**KINDS[kind], total=TOTAL, states=states)
        again.task.model.load_state_dict(state["model"])
        again.method.load_state_dict(state["method"])
        load_optimizer_state(again.optimizer, again.task.model, state["optimizer"])
        again.run(stop, checked=False)
        assert again.losses == whole.losses[stop:], f"stopped after step {stop}"
        assert all(torch.equal(expected[name], value) for name, value in weights(again.task).items())
        assert announced[stop] + [name for name, _ in again.events] == [name for name, _ in whole.events]
        if every:
            assert again.method.chosen == whole.method.chosen
            assert again.method.search_flops == whole.method.search_flops


def test_rankings_are_part_of_the_state() -> None:
    def rig() -> Rig:
        return Rig(schedule=fixed(2, 2), total=6, rerank=lambda: Ranking(ORDER.names[::-1]))

    first, second = rig(), rig()
    first.run(0, 3)
    second.method.load_state_dict(first.method.state_dict())
    assert second.method.plan(4).workload.active == first.method.plan(4).workload.active == ("blocks.1", "blocks.3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": linear(5), "total": 4}, r"options\.stages = 5: more stages than the phase has steps \(4\)"),
        ({"schedule": fixed(5), "total": 4}, r"schedule\.options\.m = \[5\.0\]: 5 blocks requested, the phase has 4"),
        (
            {"schedule": adaptive("probe", stages=2, search_steps=6), "total": 12},
            r"schedule\.options\.search_steps = 6: a stage has only 6 steps \(12 steps in 2 stages\)",
        ),
        (
            {"schedule": adaptive("supernet", stages=2, search_steps=6), "total": 20, "holdout": ()},
            "needs holdout draws",
        ),
        ({"schedule": None, "total": 4}, "needs a ranking and a schedule"),
        ({"schedule": linear(1), "total": 4, "ranking": None}, "needs a ranking and a schedule"),
        ({"schedule": linear(1), "total": 4, "states": "forget"}, "states = 'forget': choose from keep"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told_before_training(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rig(**options)


def test_a_schedule_may_name_only_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"stage 0 would train \['blocks.9'\]; choose from the 4 blocks"):
        Rig(schedule=linear(1), total=4, ranking=Ranking(("blocks.9", *ORDER.names)))

    class Odd(Narrowing):
        def choose(self, trials: list[Trial], cost: str) -> tuple[Workload, dict[Workload, float]]:
            return Workload(("blocks.3",)), {}

    rig = Rig(schedule=Odd(), total=30)
    with pytest.raises(ValueError, match="in stage 1, which is not one of its candidates"):
        rig.run(checked=False)


def test_seconds_are_recorded_and_weighed_on_request() -> None:
    rig = Rig(schedule=adaptive("probe", stages=1, search_steps=6), total=8, cost="seconds")
    rig.run()
    choice = next(values for name, values in rig.events if name == "choice")
    for made in rig.method.trials:
        assert made.seconds > 0
        assert choice["efficiency"][str(len(made.workload.active))] == pytest.approx(made.gain / made.seconds)
    assert rig.method.search_seconds > 0


class Narrowing:
    """Two blocks; then a probe of one against all, which one wins; then all."""

    stages, search_steps, estimator = 3, 6, "probe"

    def candidates(
        self, stage: int, ranking: Ranking, shape: Shape | None, last: Workload | None
    ) -> tuple[Workload, ...]:
        return tuple(Workload(ranking.top(m), shape) for m in ((2,), (1, 4), (4,))[stage])

    def choose(self, trials: list[Trial], cost: str) -> tuple[Workload, dict[Workload, float]]:
        return trials[0].workload, {}


@pytest.mark.parametrize("schedule", [load("schedule", "descending", stages=3), Narrowing()])
def test_offloaded_states_train_like_kept_ones(schedule: Any) -> None:
    """Also where a new order freezes what has trained before, and a probe unfreezes it for a while."""
    kept, offloaded = (
        Rig(schedule=schedule, total=30, states=states, rerank=lambda: Ranking(ORDER.names[::-1]))
        for states in ("keep", "offload")
    )
    kept.run(checked=False)
    offloaded.run(checked=False)
    assert kept.losses == offloaded.losses
