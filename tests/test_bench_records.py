"""Records: added, never edited; and what they keep of a run."""

import json
from pathlib import Path

import pytest

from bench_suites import record_of, suite
from benchmarks.runner.run_plan import plan
from benchmarks.runner.run_record import add_record, of_run, read_records
from fake_run import make_run


def test_a_record_is_added_once_and_never_edited(tmp_path: Path) -> None:
    cell = plan(suite(), {}).missing[0]
    record = {**record_of(cell), "odd": (1, 2), "small": 1e-300}
    path = add_record(tmp_path / "records", record)
    assert path.name == f"{cell.address}.json"
    before = path.read_bytes()
    with pytest.raises(ValueError, match="never edited"):
        add_record(tmp_path / "records", {**record, "arm": "other"})
    assert path.read_bytes() == before
    found = read_records(tmp_path / "records")
    assert found[cell.address]["odd"] == [1, 2] and found[cell.address]["arm"] == cell.arm
    path.write_text(path.read_text().replace(f'"arm": "{cell.arm}"', '"arm": "mine"'))
    with pytest.raises(ValueError, match="was edited"):
        read_records(tmp_path / "records")
    path.write_text("{")
    with pytest.raises(ValueError, match="not readable"):
        read_records(tmp_path / "records")
    path.write_text("[]")
    with pytest.raises(ValueError, match="no record"):
        read_records(tmp_path / "records")
    assert read_records(tmp_path / "nowhere") == {}


def test_a_record_keeps_costs_by_stage_and_the_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", clips=())
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    spent = 0.0
    written = []
    for event in events:  # what a run of today also tells at a reading
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
        mine = [row for row in rows if row["phase"].endswith(name)]
        assert phase["steps"] == len(mine) == sum(load["steps"] for load in phase["workloads"])
        assert phase["flops_steps"] == pytest.approx(sum(row["flops"] for row in mine))
        stages = phase["stages"]
        assert [stage["steps"] for stage in stages] == [len([r for r in mine if r["stage"] == k]) for k in range(3)]
        for stage in stages:
            plain = stage["steps"] - stage["searching"]
            assert stage["searching"] > 0 and plain > 0
        whole = sum(stage["flops_searching"] + (s["steps"] - s["searching"]) * s["flops_step"]
                    for s in stages for stage in [s])  # fmt: skip
        assert whole == pytest.approx(phase["flops_steps"])
    assert record["trials"] and record["choices"] and record["run"]["device"] and record["totals"]["steps"] == len(rows)
