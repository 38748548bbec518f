"""Records: added, never edited, stored in one file a suite; and what they keep of a run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench_suites import record_of, suite
from benchmarks.runner.results_file import (
    add_record,
    add_reference,
    details_file,
    is_stored,
    only_runner,
    read_records,
)
from benchmarks.runner.run_plan import plan
from benchmarks.runner.run_record import Record, of_run
from fake_run import make_run

ROOT = Path(__file__).parents[2]


def record_with_lists(arm: str = "full") -> Record:
    run = next(run for run in plan(suite(), {}).missing if run.arm == arm)
    exam = {"loss": 2.0, "per_draw": [1.0, 3.0], "clips": ["a", "b"], "tau": [0.25, 0.75]}
    return {**record_of(run), "exam": exam, "odd": (1, 2), "small": 1e-300, "separators": "a\u2028b"}


def test_a_record_is_added_once_and_comes_back_whole(tmp_path: Path) -> None:
    file, record = tmp_path / "results" / "small.jsonl", record_with_lists()
    added = add_record(file, record)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="never edited"):
        add_record(file, {**record, "arm": "other"})
    assert file.read_bytes() == before and before.count(b"\n") == 1
    assert b"per_draw" not in before and b"curve" not in before  # long lists lie with the details
    other = add_record(file, record_with_lists("last"))
    found = read_records(file)
    assert found == {record["address"]: added, other["address"]: other}
    assert added["odd"] == [1, 2] and added["exam"] == record["exam"] and added["curve"] == record["curve"]
    assert not is_stored(file, "none") and is_stored(file, other["address"])
    assert read_records(tmp_path / "nowhere.jsonl") == {}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"arm":"full"', '"arm":"edited"', r"small\.jsonl:1: the run or its details were edited"),
        ('"arm":"full"', '"arm":"fu', r"small\.jsonl:1: not readable as JSON"),
        ('"format":1', '"format":7', r"small\.jsonl:1: no record of the benchmark in format 1"),
        ('{"format":1', '[] \n{"format":1', r"small\.jsonl:1: no record of a run; delete the line"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    file = tmp_path / "small.jsonl"
    for arm in ("full", "last"):
        add_record(file, record_with_lists(arm))
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=words):
        read_records(file)


def test_a_line_that_is_there_twice_is_named(tmp_path: Path) -> None:
    file = tmp_path / "small.jsonl"
    add_record(file, record_with_lists())
    file.write_text(2 * file.read_text())
    with pytest.raises(ValueError, match=r"small\.jsonl:2: run [0-9a-f]{16} is there twice"):
        read_records(file)


def test_details_belong_to_the_record(tmp_path: Path) -> None:
    file = tmp_path / "small.jsonl"
    add_record(file, record_with_lists())
    packed = details_file(file).read_bytes()
    details_file(file).write_bytes(packed[:-9])
    with pytest.raises(ValueError, match=r"small-details\.jsonl\.gz: not readable"):
        read_records(file)
    details_file(file).unlink()
    with pytest.raises(ValueError, match=r"small\.jsonl:1: the run or its details were edited"):
        read_records(file)


def test_the_same_records_make_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / name / "small.jsonl" for name in ("a", "b")]
    for file in files:
        add_record(file, record_with_lists())
    assert files[0].read_bytes() == files[1].read_bytes()
    assert details_file(files[0]).read_bytes() == details_file(files[1]).read_bytes()


def test_a_run_of_two_suites_is_stored_once(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    added = add_record(first, record_with_lists())
    (tmp_path / "a-study.jsonl").write_text(json.dumps({"address": added["address"]}) + "\n")
    assert add_reference(second, "none") is None and not second.exists()
    assert add_reference(second, added["address"]) == added
    assert json.loads(second.read_text()) == {
        "address": added["address"], "digest": added["digest"], "stored_in": "first",
    }  # fmt: skip
    assert read_records(second) == {added["address"]: added}
    with pytest.raises(ValueError, match="has run"):
        add_record(second, record_with_lists())
    first.unlink()
    with pytest.raises(ValueError, match=r"second\.jsonl:1: run [0-9a-f]{16} is not in first\.jsonl as it was"):
        read_records(second)


@pytest.mark.parametrize("stop", range(6))
def test_stopped_at_any_write_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    """Whichever write, flush or rename is the last one that happens."""
    file = tmp_path / "small.jsonl"
    first = add_record(file, record_with_lists())
    done = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            nonlocal done
            if done == stop:
                raise SystemExit(143)
            done += 1
            return call(*args, **more)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", counted(os.fsync))
        patch.setattr(Path, "replace", counted(Path.replace))
        try:
            add_record(file, record_with_lists("last"))
        except SystemExit:
            assert stop < 4
    found = read_records(file)
    assert found[first["address"]] == first
    if len(found) == 1:  # goes on as if nothing had been
        add_record(file, record_with_lists("last"))
    assert [record["arm"] for record in read_records(file).values()] == ["full", "last"]


def test_one_process_at_a_time_works_on_a_suite(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from benchmarks.runner.results_file import only_runner\n"
        "with only_runner('small', Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert other.stdout is not None and other.stdout.readline() == "locked\n"
    words = r"small: another process runs this suite in .*; wait until it ends"
    with pytest.raises(ValueError, match=words), only_runner("small", tmp_path):
        pass
    other.communicate("")
    with only_runner("small", tmp_path):
        pass


def test_a_record_keeps_costs_by_stage_and_the_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", clips=())
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    spent = 0.0
    written = []
    for event in events:  # what a reading of the holdout also holds
        if event["event"] == "holdout":
            spent = sum(row["flops"] for row in rows[: event["step"]]) + 1000.0 * len(written)
            event |= {"flops": spent, "seconds": 1.0}
            written.append(event)
        if event["event"] == "trial":
            event |= {"m": event["workload"]["m"], "candidate": "x", "gain_stderr": 0.0}
        if event["event"] == "choice":
            event["candidate"] = "x"
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    record = of_run(run, {"address": "a", "status": "finished"}, None)
    assert [point["flops"] for point in record["curve"]] == [event["flops"] for event in written]
    assert list(record["phases"]) == ["subject", "pose", "video"]
    assert sum(phase["flops"] for phase in record["phases"].values()) == pytest.approx(spent)
    for name, phase in record["phases"].items():
        own = [row for row in rows if row["phase"].endswith(name)]
        assert phase["steps"] == len(own) == sum(load["steps"] for load in phase["workloads"])
        assert phase["flops_steps"] == pytest.approx(sum(row["flops"] for row in own))
        stages = phase["stages"]
        assert [stage["steps"] for stage in stages] == [len([r for r in own if r["stage"] == k]) for k in range(3)]
        for stage in stages:
            plain = stage["steps"] - stage["searching"]
            assert stage["searching"] > 0 and plain > 0
        whole = sum(stage["flops_searching"] + (s["steps"] - s["searching"]) * s["flops_step"]
                    for s in stages for stage in [s])  # fmt: skip
        assert whole == pytest.approx(phase["flops_steps"])
    assert record["trials"] and record["choices"] and record["run"]["device"] and record["totals"]["steps"] == len(rows)
