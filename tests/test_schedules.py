"""Every schedule by its contract, and each one's own numbers."""

import pytest

from entprog.core.types import Trial, Workload
from entprog.plugins import describe, load, names

SEARCHING = [("adaptive", {"estimator": "supernet"}), ("adaptive", {"estimator": "probe", "width": 4})]
EVERY = [*((name, {}) for name in names("schedule")), *SEARCHING]


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_every_schedule_keeps_the_contract(name: str, options: dict[str, object]) -> None:
    schedule = load("schedule", name, **options)
    assert describe("schedule", name).summary
    assert schedule.stages >= 1 and schedule.search_steps >= 0
    assert schedule.estimator in ("none", "supernet", "probe")
    for total in (1, 2, 3, 12, 28):
        for stage in range(schedule.stages):
            for last in range(total + 1):
                candidates = schedule.candidates(stage, total, last)
                assert candidates and list(candidates) == sorted(set(candidates))
                assert all(1 <= m <= total and type(m) is int for m in candidates)
                assert candidates == schedule.candidates(stage, total, last)
                if schedule.estimator == "none":
                    assert len(candidates) == 1
    if schedule.estimator == "none":
        assert schedule.search_steps == 0
        with pytest.raises(ValueError, match="never chooses"):
            schedule.choose([], "flops")


def counts(schedule: object, total: int) -> list[int]:
    found: list[int] = []
    for stage in range(schedule.stages):  # type: ignore[attr-defined]
        found += schedule.candidates(stage, total, found[-1] if found else 0)  # type: ignore[attr-defined]
    return found


def test_linear_and_descending_share_the_blocks_out() -> None:
    assert counts(load("schedule", "linear", stages=4), 12) == [3, 6, 9, 12]
    assert counts(load("schedule", "linear", stages=1), 5) == [5]
    assert counts(load("schedule", "linear", stages=5), 2)[-1] == 2
    assert counts(load("schedule", "descending", stages=4), 12) == [12, 9, 6, 3]
    assert counts(load("schedule", "descending", stages=3), 2)[0] == 2


def test_fixed_takes_counts_and_shares() -> None:
    assert counts(load("schedule", "fixed", m=[3, 0.5, 12, 0.01]), 12) == [3, 6, 12, 1]
    with pytest.raises(ValueError, match=r"schedule\.options\.m = \[5\.0\]: 5 blocks asked for, the phase has 4"):
        load("schedule", "fixed", m=[5]).candidates(0, 4, 0)


def test_adaptive_never_falls_below_its_last_choice() -> None:
    schedule = load("schedule", "adaptive", width=3)
    assert schedule.candidates(0, 12, 0) == (4, 8, 12)
    assert schedule.candidates(1, 12, 8) == (8, 10, 12)
    assert schedule.candidates(2, 12, 11) == (11, 12) and schedule.candidates(3, 12, 12) == (12,)
    assert load("schedule", "adaptive", width=5).candidates(0, 2, 0) == (1, 2)


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
    assert supernet.choose(once, "flops") == (8, {})
    tied = [trial(2, 1, 1.0), trial(4, 1, 1.0), trial(2, 1, 0.9), trial(4, 1, 0.9)]
    m, efficiency = supernet.choose(tied, "flops")
    assert m == 4 and efficiency[2] == efficiency[4] == pytest.approx(0.1)
