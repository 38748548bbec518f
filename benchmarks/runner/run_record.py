"""The record of a run: what was run, what it took, and what its weights are worth."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""Plain values, as the results file has them; `of_run` lists its fields."""


def of_run(run: Path, head: Mapping[str, Any], exam: Mapping[str, Any] | None) -> Record:
    """The record of a finished or diverged run.

    Args:
        head: what was run: address, suite, kind, arm, seed, factor, steps, config, ...
        exam: what its final weights are worth; None where it has none.

    Returns:
        head, with `run` (command, commit, versions, device, threads, times), `totals` (as totals.json), `curve`
        (readings of the run's own holdout with all that was spent until then), `phases` (steps and costs by stage,
        workloads with their number of steps), `trials`, `choices` and `rankings`, and `exam`.
    """
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    totals = run / "totals.json"
    rows, events = _lines(run / "log.jsonl"), _lines(run / "events.jsonl")
    readings = [event for event in events if event["event"] == "holdout"]
    configs = {_phase(event): event.get("config", {}) for event in events if event["event"] == "phase"}
    return {
        **head,
        "run": {key: about.get(key) for key in (
            "command", "commit", "versions", "device", "capability", "threads", "started", "finished",
        )},
        "totals": json.loads(totals.read_text(encoding="utf-8")) if totals.is_file() else None,
        "curve": [
            {"phase": _phase(event), **{key: event[key] for key in ("step", "loss", "flops", "seconds")}}
            for event in readings
        ],
        "phases": _phases(rows, readings, configs),
        "trials": [_trial(event) for event in events if event["event"] == "trial"],
        "choices": [
            {"phase": _phase(event), **{key: event[key] for key in ("stage", "m", "candidate", "efficiency")}}
            for event in events if event["event"] == "choice"
        ],
        "rankings": [
            {"phase": _phase(event), "step": event["step"], "order": event["order"], "flops": event["flops"]}
            for event in events if event["event"] == "rank"
        ],
        "warnings": [event["message"] for event in events if event["event"] == "warning"],
        "exam": exam,
    }  # fmt: skip


def _phases(rows: list[Record], readings: list[Record], configs: Mapping[str, Any]) -> dict[str, Any]:
    """What each phase cost, stage by stage; `flops` holds scoring and readings, too.

    "echo", in a phase with echoes only: steps that train on a sample, and steps that take new ones in a row.
    """
    found: dict[str, Any] = {}
    before = 0.0
    for name in dict.fromkeys(_phase(row) for row in rows):
        own = [row for row in rows if _phase(row) == name]
        spent = [event["flops"] for event in readings if _phase(event) == name]
        steps = sum(row["flops"] for row in own)
        total = spent[-1] - before if spent else steps
        before += total
        found[name] = {
            "steps": len(own),
            "flops": total,
            "flops_steps": steps,
            "seconds_steps": sum(row["seconds"] for row in own),
            "stages": [_stage([row for row in own if row["stage"] == stage]) for stage in _stages(own)],
            "workloads": _workloads(own),
        }
        config = configs.get(name, {})
        if config.get("echo", 1) > 1:
            found[name]["echo"] = [config["echo"], config["echo_window"]]
    return found


def _stages(rows: Iterable[Record]) -> list[int]:
    return sorted({row["stage"] for row in rows})


def _stage(rows: list[Record]) -> dict[str, Any]:
    plain = [row["flops"] for row in rows if not row["searching"] and not row.get("echo")]
    searched = [row["flops"] for row in rows if row["searching"]]
    echoes = [row["flops"] for row in rows if row.get("echo")]
    each = plain or searched or echoes
    return {
        "steps": len(rows),
        "searching": len(searched),
        "flops_searching": sum(searched),
        "flops_step": sum(each) / len(each),
        **({"flops_echo": sum(echoes) / len(echoes)} if echoes else {}),
    }


def _workloads(rows: list[Record]) -> list[dict[str, Any]]:
    """Distinct workloads, the most frequent first."""
    keys = ("resolution", "frames", "batch", "tokens", "inputs", "flops", "bytes_peak")
    counts: Counter[tuple[tuple[Any, ...], tuple[int, ...]]] = Counter()
    for row in rows:
        counts[tuple(row.get(key) for key in keys), tuple(row["active"])] += 1
    return [
        {**dict(zip(keys, values, strict=True)), "active": list(active), "steps": count}
        for (values, active), count in counts.most_common()
    ]


def _trial(event: Record) -> dict[str, Any]:
    keys = ("stage", "step", "m", "candidate", "seconds", "flops", "loss_before", "loss_after", "gain", "gain_stderr")
    return {"phase": _phase(event), **{key: event[key] for key in keys}}


def _phase(row: Record) -> str:
    """The phase's name, from that of its folder ("2-pose")."""
    return str(row["phase"]).partition("-")[2]


def _lines(path: Path) -> list[Record]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
