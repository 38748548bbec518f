"""Every schedule by its contract, and each one's own numbers."""

from typing import Any

import pytest

from entprog.core.types import Ranking, Shape, Trial, Workload
from entprog.plugins import describe, load, names

SEARCHING = [("adaptive", {"estimator": "supernet"}), ("adaptive", {"estimator": "probe", "width": 4})]
EVERY = [*((name, {}) for name in names("schedule")), *SEARCHING]
SHAPE = Shape(32, 4, 2)


def ranking(total: int) -> Ranking:
    return Ranking(tuple(f"b{i}" for i in range(total)))


def candidates(schedule: Any, stage: int, total: int, last: int) -> tuple[int, ...]:
    """Block counts of a stage's candidates when `last` blocks trained before (0: none)."""
    order = ranking(total)
    before = Workload(order.top(last), SHAPE) if last else None
    found = schedule.candidates(stage, order, SHAPE, before)
    assert found == schedule.candidates(stage, order, SHAPE, before)
    assert all(workload == Workload(order.top(len(workload.active)), SHAPE) for workload in found)
    return tuple(len(workload.active) for workload in found)


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_every_schedule_keeps_the_contract(name: str, options: dict[str, object]) -> None:
    schedule = load("schedule", name, **options)
    assert describe("schedule", name).summary
    assert schedule.stages >= 1 and schedule.search_steps >= 0
    assert schedule.estimator in ("none", "supernet", "probe")
    for total in (1, 2, 3, 12, 28):
        for stage in range(schedule.stages):
            for last in range(total + 1):
                found = candidates(schedule, stage, total, last)
                assert found and list(found) == sorted(set(found)) and found[0] >= 1 and found[-1] <= total
                if schedule.estimator == "none":
                    assert len(found) == 1
    if schedule.estimator == "none":
        assert schedule.search_steps == 0
        with pytest.raises(ValueError, match="never chooses"):
            schedule.choose([], "flops")


def counts(schedule: Any, total: int) -> list[int]:
    found: list[int] = []
    for stage in range(schedule.stages):
        found += candidates(schedule, stage, total, found[-1] if found else 0)
    return found


def test_linear_and_descending_share_the_blocks_out() -> None:
    assert counts(load("schedule", "linear", stages=4), 12) == [3, 6, 9, 12]
    assert counts(load("schedule", "linear", stages=1), 5) == [5]
    assert counts(load("schedule", "linear", stages=5), 2)[-1] == 2
    assert counts(load("schedule", "descending", stages=4), 12) == [12, 9, 6, 3]
    assert counts(load("schedule", "descending", stages=3), 2)[0] == 2


def test_fixed_takes_counts_and_shares() -> None:
    assert counts(load("schedule", "fixed", m=[3, 0.5, 12, 0.01]), 12) == [3, 6, 12, 1]
    with pytest.raises(ValueError, match=r"schedule\.options\.m = \[5\.0\]: 5 blocks requested, the phase has 4"):
        load("schedule", "fixed", m=[5]).candidates(0, ranking(4), None, None)


def test_adaptive_never_falls_below_its_last_choice() -> None:
    schedule = load("schedule", "adaptive", width=3)
    assert candidates(schedule, 0, 12, 0) == (4, 8, 12)
    assert candidates(schedule, 1, 12, 8) == (8, 10, 12)
    assert candidates(schedule, 2, 12, 11) == (11, 12) and candidates(schedule, 3, 12, 12) == (12,)
    assert candidates(load("schedule", "adaptive", width=5), 0, 2, 0) == (1, 2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear", {"stages": 0}, r"schedule\.options\.stages = 0"),
        ("descending", {"stages": 0}, r"schedule\.options\.stages = 0"),
        ("fixed", {"m": []}, r"schedule\.options\.m = \[\]"),
        ("fixed", {"m": [2, 0]}, r"schedule\.options\.m"),
        ("fixed", {"m": [2.5]}, r"schedule\.options\.m"),
        ("adaptive", {"stages": 0}, r"schedule\.options\.stages = 0"),
        ("adaptive", {"width": 1}, r"schedule\.options\.width = 1"),
        ("adaptive", {"search_steps": 3}, r"schedule\.options\.search_steps = 3"),
        ("adaptive", {"estimator": "none"}, "must be 'supernet' | 'probe'"),
    ],
)
def test_options_that_cannot_be(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("schedule", name, **options)


def trial(m: int, before: float, after: float, flops: float = 1.0, error: float = 0.0) -> Trial:
    return Trial(0, 0, Workload(tuple("abcdefgh"[:m])), 1.0, flops, before, after, error)


def test_a_tie_or_an_unmeasured_search_goes_to_the_larger() -> None:
    supernet = load("schedule", "adaptive", estimator="supernet")
    once = [trial(2, 1, 1), trial(8, 1, 0.9), trial(4, 1, 0.8)]
    assert supernet.choose(once, "flops") == (once[1].workload, {})
    tied = [trial(2, 1, 1.0), trial(4, 1, 1.0), trial(2, 1, 0.9), trial(4, 1, 0.9)]
    chosen, efficiency = supernet.choose(tied, "flops")
    assert chosen == tied[1].workload and list(efficiency) == [tied[0].workload, tied[1].workload]
    assert list(efficiency.values()) == [pytest.approx(0.1)] * 2
