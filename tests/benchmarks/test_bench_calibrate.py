"""Calibrated seconds: jobs in turns, and what a run's steps come to."""

import math

import pytest

from bench_suites import FLOPS, record_of, suite
from benchmarks.runner.run_plan import plan
from benchmarks.runner.timed_steps import Turns, latest, run_seconds, step_seconds


def test_jobs_work_one_at_a_time_in_turns() -> None:
    turns, order = Turns(), []

    def job(name: str, steps: int):
        def work() -> None:
            for i in range(steps):
                order.append(f"{name}{i}")
                turns.next()

        return work

    turns.run({"a": job("a", 3), "b": job("b", 1), "c": job("c", 2)})
    assert order == ["a0", "b0", "c0", "a1", "c1", "a2"]
    turns.run({})


def test_a_job_that_fails_stops_the_others() -> None:
    turns, order = Turns(), []

    def fails() -> None:
        turns.next()
        raise ValueError("no")

    def works() -> None:
        for i in range(5):
            order.append(i)
            turns.next()

    with pytest.raises(ValueError, match="no"):
        turns.run({"a": works, "b": fails, "c": works})
    assert order == [0, 0, 1]


LOADS = [
    {"resolution": 16, "frames": 1, "batch": 2, "tokens": 1.0, "inputs": True, "flops": 100, "seconds": 0.30},
    {"resolution": 16, "frames": 2, "batch": 2, "tokens": 1.0, "inputs": True, "flops": 200, "seconds": 0.50},
]


def test_seconds_of_a_step() -> None:
    assert step_seconds(LOADS[0], LOADS) == 0.30
    assert step_seconds({"flops": 150}, LOADS) == pytest.approx(0.40)  # on the line between
    assert step_seconds({"flops": 300}, LOADS) == pytest.approx(0.70)
    assert step_seconds({"flops": 50}, LOADS[:1]) == pytest.approx(0.15)
    falling = [{**LOADS[0]}, {**LOADS[1], "seconds": 0.2}]  # noise: more work never takes less
    assert step_seconds({"flops": 150}, falling) == pytest.approx(0.25)
    assert math.isnan(step_seconds({"flops": 1}, []))


def test_seconds_of_a_run_hold_scoring_and_search() -> None:
    run = plan(suite(), {}).missing[1]
    assert run.arm == "linear"
    record = record_of(run)
    record["rankings"] = [{"phase": "pose", "flops": 50.0}, {"phase": "pose", "flops": 25.0}]
    record["phases"]["pose"]["stages"][0]["searching"] = 3
    pose, video = FLOPS["linear"]
    timed = {
        "pose": {"workloads": [{**LOADS[0], "flops": pose}], "search_step": 0.1,
                 "scoring": {"seconds": 2.0, "flops": 50.0}},
        "video": {"workloads": [{**LOADS[1], "flops": video}], "search_step": 0.0, "scoring": None},
    }  # fmt: skip
    calibration = {"kind": "calibration", "made": "2026-01-02", "arms": {"linear": timed}}
    video_step = step_seconds({"flops": video}, timed["video"]["workloads"])
    wanted = run.steps["pose"] * 0.30 + 3 * 0.1 + 3.0 + run.steps["video"] * video_step
    assert run_seconds(record, calibration) == pytest.approx(wanted)
    timed["video"]["cache"] = 0.5  # seconds of a FLOP of the reference cache
    record["totals"]["flops_cache"] = 8.0
    assert run_seconds(record, calibration) == pytest.approx(wanted + 4.0)
    timed["pose"]["cache"] = 7.0  # a phase that caches next to nothing, at a bad rate: one of its 8 FLOPs
    for name, cached in (("pose", 1.0), ("video", 7.0)):
        ranked = 75.0 if name == "pose" else 0.0
        record["phases"][name] |= {"flops": 1000.0 + ranked + cached, "flops_steps": 1000.0}
    assert run_seconds(record, calibration) == pytest.approx(wanted + 7.0 + 3.5)
    assert math.isnan(run_seconds({**record, "arm": "full"}, calibration))
    older = {**calibration, "made": "2026-01-01", "arms": {"linear": timed, "full": timed}}
    both = {"a": calibration, "b": older, "c": record}
    assert latest(both, ["linear"]) is calibration
    assert latest(both, ["full", "linear"]) is older and latest(both, ["last"]) is None
    assert latest(both, ["full", "last", "linear"]) is older  # the arm that was not timed has no seconds
