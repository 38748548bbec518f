"""A tiny suite run for real: records, resuming, what diverges or fails, and what arms share."""

import json
import math
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from benchmarks.__main__ import main
from benchmarks.runner.results_file import read_records
from benchmarks.runner.run_plan import plan
from benchmarks.runner.run_record import Record
from benchmarks.runner.suite import Suite
from benchmarks.runner.suite_file import suite_of
from benchmarks.runner.suite_loop import run_suite
from entprog.core.bands import band_means
from entprog.nets.dit import SIZES
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.toml.trees import laid_over
from entprog.train.log import RunLog
from entprog.train.run import train
from tiny import synthetic_data

SHIPPED = dict(SIZES["nano"])


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "nano", {"depth": 4, "width": 32, "heads": 2})
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_data(tmp_path_factory.mktemp("latents") / "data", clips=8, sizes=(16,))


def tree(data: Path, **over: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "smoke": True, "arms": ["full", "probe"], "seeds": [0], "rates": [1.0], "budgets": [1.0], "readings": 5,
        "equal_steps": 0.0, "exam": {"clips": 2, "repeats": 2}, "tuning": {"pilot": 0.5},
        "define": {
            "full": {"method": "full"},
            "probe": {
                "method": "progressive", "ranking": {"score": "gradient", "samples": 2},
                "schedule": {"options": {"stages": 1, "width": 2, "search_steps": 4, "estimator": "probe"}},
            },
        },
        "recipe": {
            "device": "cpu", "model": {"init": "scratch"}, "data": {"path": str(data)},
            "phases": {
                "pose": {"steps": 24, "batch": 2, "resolution": 16, "learning_rate": 1e-3},
                "video": {"steps": 24, "frames": 2, "batch": 2, "resolution": 16, "learning_rate": 1e-3},
            },
            "train": {
                "lr_scheduler": "cosine", "mixed_precision": "no", "holdout_clips": 2, "threads": 1,
                "checkpointing_steps": 9,
            },
            "evaluate": {"clips": 2, "frames": 2, "resolution": 16, "videos": 1, "metrics": ["l1"]},
            "sample": {"num_inference_steps": 1},
        },
    }  # fmt: skip
    return laid_over(usual, over)


SHORT: dict[str, Any] = {"recipe": {"phases": {"pose": {"steps": 8}, "video": {"steps": 8}}}}
"""For tests in which nothing but the runs' records counts."""


def suite(data: Path, **over: Any) -> Suite:
    return suite_of(tree(data, **over), "tiny")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite, run from the command line without a stop; `results` and `runs` lie in the folder."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "tiny.toml").write_text(tomli_w.dumps(tree(data)))
    command(folder)
    return folder


def command(folder: Path, *more: str) -> None:
    main(
        [
            str(folder / "tiny.toml"),
            "--results",
            str(folder / "results"),
            "--runs",
            str(folder / "runs"),
            *more,
        ]
    )


def without_times(record: Record) -> Record:
    """What must not depend on when and how often a run was stopped."""
    text = json.dumps({key: value for key, value in record.items() if key not in ("run", "made", "digest")})
    timed = ("seconds", "seconds_scoring", "seconds_search", "seconds_steps", "bytes_mean")
    return json.loads(text, object_hook=lambda found: {k: v for k, v in found.items() if k not in timed})


def test_a_suite_from_its_command_to_its_page(whole: Path, data: Path) -> None:
    records = read_records(whole / "results" / "tiny.jsonl")
    kinds = sorted((record["kind"], record["arm"]) for record in records.values())
    assert kinds == [("final", "full"), ("final", "probe"), ("pilot", "full"), ("pilot", "probe")]
    planned = plan(suite(data), records)
    assert not planned.missing
    full, probe = (records[planned.finals[arm, 1.0, 0].address] for arm in ("full", "probe"))
    assert probe["totals"]["flops"] <= full["totals"]["flops"]  # scoring, search and readings are inside
    assert probe["totals"]["flops"] > 0.8 * full["totals"]["flops"]
    assert sum(phase["flops"] for phase in probe["phases"].values()) == pytest.approx(probe["totals"]["flops"])
    for record in (full, probe):
        exam = record["exam"]
        assert len(exam["per_draw"]) == len(exam["clips"]) == 4 and len(set(exam["clips"])) == 2
        assert exam["bands"] == [None if math.isnan(x) else x for x in band_means(exam["per_draw"], exam["tau"])]
        assert exam["loss"] == pytest.approx(sum(exam["per_draw"]) / 4) and "l1" in exam["quality"]["metrics"]
        assert record["run"]["command"].startswith("python -m benchmarks") and record["run"]["versions"]["torch"]
        assert record["curve"][-1]["phase"] == "video" and len(record["curve"]) >= 3
        assert [point["flops"] for point in record["curve"]] == sorted(point["flops"] for point in record["curve"])
    assert full["exam"]["tau"] == probe["exam"]["tau"] and full["exam"]["loss"] != probe["exam"]["loss"]
    assert len(set(full["exam"]["tau"])) == 4  # each repeat has times of its own
    assert probe["trials"] and probe["rankings"] and not full["trials"]
    page = (whole / "runs" / "tiny" / "report.html").read_text()
    assert "SMOKE TEST" in page and "data:video/mp4" in page


def test_nothing_is_run_twice_and_little_is_kept(whole: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted((whole / "results").glob("tiny*"))
    before = {path: path.stat().st_mtime_ns for path in files}
    command(whole)
    assert [path.name for path in files] == ["tiny-details.jsonl.gz", "tiny.jsonl"]
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert "### At 1 x the cost" in capsys.readouterr().out
    assert not list((whole / "runs").rglob("*.safetensors")) and not list((whole / "runs").rglob("checkpoint-*"))
    assert len(list((whole / "runs").rglob("*.mp4"))) == 2
    command(whole, "--only-report", "--arms", "full")


def test_what_another_suite_has_run_is_not_run_again(whole: Path, data: Path) -> None:
    (whole / "other.toml").write_text(tomli_w.dumps({**tree(data), "arms": ["full"]}))
    folders = [str(whole / name) for name in ("results", "runs")]
    main([str(whole / "other.toml"), "--results", folders[0], "--runs", folders[1]])
    own, others = (read_records(whole / "results" / f"{name}.jsonl") for name in ("other", "tiny"))
    assert len(own) == 2 and all(others[address] == record for address, record in own.items())
    assert (whole / "results" / "other.jsonl").read_text().count('"stored_in":"tiny"') == 2
    assert not list((whole / "runs" / "other").glob("*/log.jsonl"))


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_record(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, count = RunLog.line, 0

    def stopping(self: RunLog, row: dict[str, Any]) -> None:
        nonlocal count
        line(self, row)
        count += 1
        if count in (5, 20, 60, 115):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunLog, "line", stopping)
    for _ in range(10):
        try:
            assert run_suite(suite(data), tmp_path / "results", tmp_path / "runs", command="python -m benchmarks tiny")
            break
        except SystemExit as stopped:
            assert stopped.code == 143
    assert count > 115
    found, known = read_records(tmp_path / "results" / "tiny.jsonl"), read_records(whole / "results" / "tiny.jsonl")
    assert found.keys() == known.keys()
    for name, record in known.items():
        assert without_times(found[name]) == without_times(record)


def test_time_that_is_up(data: Path, tmp_path: Path) -> None:
    """A call of any length leaves the folder so that the next one goes on."""
    only = suite(data, arms=["full"], **SHORT)
    assert not run_suite(only, tmp_path / "results", tmp_path / "runs", minutes=1e-6)
    assert run_suite(only, tmp_path / "results", tmp_path / "runs", minutes=60)
    assert len(read_records(tmp_path / "results" / "tiny.jsonl")) == 2


def test_what_diverges_has_a_record_and_what_fails_has_none(data: Path, tmp_path: Path) -> None:
    over = {
        "arms": ["full", "wild", "tight"],
        "define": {
            "wild": {"method": "full", "lr_factor": 1e30},
            "tight": {"method": "full", "phases": {"pose": {"batch": 64}}},
        },
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"pilot tight, seed 1000: .*larger than the data set"):
        run_suite(suite(data, **over, **SHORT), tmp_path / "results", tmp_path / "runs")
    records = list(read_records(tmp_path / "results" / "tiny.jsonl").values())
    assert sorted((record["arm"], record["kind"], record["status"]) for record in records) == [
        ("full", "final", "finished"), ("full", "pilot", "finished"), ("wild", "pilot", "diverged"),
    ]  # fmt: skip


def test_arms_share_data_times_and_noise_at_each_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = HumanVideoTask.draw
    seen: list[tuple[torch.Tensor, ...]] = []

    def noting(self: HumanVideoTask, batch: Any, shape: Any, seed: int, *, dropout: float | None = None) -> Any:
        made = draw(self, batch, shape, seed, dropout=dropout)
        if dropout is None:  # a training step's
            seen.append((made.x, made.tau, made.target, *(made.condition[name] for name in sorted(made.condition))))
        return made

    monkeypatch.setattr(HumanVideoTask, "draw", noting)
    define = {
        "linear": {"method": "progressive", "ranking": {"score": "gradient", "samples": 2}, "lr_factor": 3.0,
                   "schedule": {"name": "linear", "options": {"stages": 2}}},
    }  # fmt: skip
    made = suite(data, arms=["full", "linear"], define=define)
    by_arm = {}
    for arm in ("full", "linear"):
        config = made.config(arm, steps={"pose": 8, "video": 8}, seed=5, factor=made.arms[arm].lr_factor)
        train(replace(config, output_dir=str(tmp_path / arm)))
        by_arm[arm], seen[:] = list(seen), []
    assert len(by_arm["full"]) == len(by_arm["linear"]) == 16
    for one, other in zip(by_arm["full"], by_arm["linear"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_suite_that_makes_its_own_weights(data: Path, tmp_path: Path) -> None:
    base = {"phases": {"large": {"steps": 2, "batch": 2, "resolution": 16}}, "train": {"ema_decay": 0.5}}
    own = suite(data, arms=["full"], base=base, **SHORT)
    assert [run.kind for run in plan(own, {}).missing] == ["base"]
    results, runs = tmp_path / "results", tmp_path / "runs"
    assert run_suite(own, results, runs / "own")
    records = read_records(results / "tiny.jsonl")
    made = next(record for record in records.values() if record["kind"] == "base")
    final = next(record for record in records.values() if record["kind"] == "final")
    assert final["base"] == made["weights"] and len(records) == 3
    assert (runs / "own" / made["address"] / "final" / "ema.safetensors").is_file()
    assert not plan(own, records).missing
    other = {**records, made["address"]: {**made, "weights": "0" * 64}}  # as another machine may have made them
    assert [run.kind for run in plan(own, other).missing] == ["pilot"]
    like = suite_of({**tree(data, base=base, **SHORT), "arms": ["full"], "seeds": [1]}, "like")
    run_suite(like, results, runs / "like")  # from the same weights, where they lie
    assert len(read_records(results / "like.jsonl")) == 3
    assert not (runs / "like" / made["address"]).exists()
    shutil.rmtree(runs)  # a fresh clone has records only
    lines = (results / "tiny.jsonl").read_text().splitlines(keepends=True)
    (results / "tiny.jsonl").write_text("".join(line for line in lines if final["address"] not in line))
    assert run_suite(own, results, runs / "own")
    assert read_records(results / "tiny.jsonl")[final["address"]]["base"] == made["weights"]


@pytest.mark.slow
def test_arms_are_timed_in_turns(whole: Path, data: Path) -> None:
    command(whole, "--calibrate")
    records = read_records(whole / "results" / "tiny.jsonl")
    (calibration,) = (record for record in records.values() if record["kind"] == "calibration")
    assert list(calibration["arms"]) == ["full", "probe"]
    for phases in calibration["arms"].values():
        for timed in phases.values():
            assert all(load["n"] >= 5 and load["seconds"] > 0 for load in timed["workloads"])
    assert calibration["arms"]["probe"]["pose"]["scoring"]["seconds"] > 0
    assert "calibrated s" in (whole / "runs" / "tiny" / "tables.md").read_text()
    assert not list((whole / "runs").rglob("calibration"))


@pytest.mark.slow
def test_the_smoke_suite(tmp_path: Path) -> None:
    """As shipped, with its sweeps; in its own size of model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "nano", SHIPPED)
        main(["smoke", "--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")])
    records = list(read_records(tmp_path / "results" / "smoke.jsonl").values())
    assert {record["arm"] for record in records if record["kind"] == "final"} == {"full", "probe"}
    assert all(record["status"] == "finished" for record in records)
