"""Seconds of whole runs of a suite's arms, in turns, nothing beside them: what calibrated seconds are held against.

    python -m benchmarks.studies.whole_runs nano-muon full:1 entprog-echo:0.25
    python -m benchmarks.studies.whole_runs nano-many full:1 entprog-echo:0.35 --rounds 2

Trains the suite's final runs of the first arm and of the others once more, each at the given budget and in a process of
its own, and again in the reverse order in the next round. A run that needs other FLOPs than its record ends the
program: it would be another run. Only the readings that draw a curve are left out. A line for each run goes to
benchmarks/results/whole-runs.jsonl as it ends; what is there already is not made again, unless --rounds asks for more.
`seconds` are the training's own, scoring and filled caches included; `process` is from start to exit, imports and
rendering of the clips included.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.runner.results_file import read_records, results_file
from benchmarks.runner.run_plan import PlannedRun, plan
from benchmarks.runner.start_weights import base_weights, started_from
from benchmarks.runner.suite_file import read_suite
from entprog.config.load import write_config

RESULTS = Path(__file__).parent.parent / "results"
RECORD = RESULTS / "whole-runs.jsonl"


def timed(run: PlannedRun, base: Path | None, flops: float) -> dict[str, Any]:
    """Train a run in a new process.

    Raises:
        SystemExit: it failed, or took other FLOPs than its record says.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = started_from(replace(run.config, output_dir=str(folder / "run")), base)
        config = replace(config, train=replace(config.train, validation_steps=0, checkpointing_steps=0))
        (folder / "config.toml").write_text(write_config(config), encoding="utf-8")
        before, load = time.perf_counter(), os.getloadavg()
        done = subprocess.run(
            [sys.executable, "-m", "entprog", "train", str(folder / "config.toml")], capture_output=True, text=True
        )
        process = time.perf_counter() - before
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        totals = json.loads((folder / "run" / "totals.json").read_text(encoding="utf-8"))
        about = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    about["command"] = shlex.join(
        ["python", "-m", "benchmarks.studies.whole_runs", *sys.argv[1:]]
    )  # not the passing folder's
    if totals["flops"] != flops:
        sys.exit(f"{run.arm}, seed {run.seed}: {totals['flops']:g} FLOPs, its record says {flops:g}")
    return {"seconds": totals["seconds"], "process": process, "flops": flops, "load": load[0], "run": about}


def wanted(text: str) -> tuple[str, float]:
    """ARM:BUDGET, which argparse refuses where the budget is no number."""
    arm, _, budget = text.partition(":")
    return arm, float(budget)


def print_ratios(lines: Sequence[dict[str, Any]], suite: str, pairs: Sequence[tuple[str, float]]) -> None:
    """Print the ratios of the first arm's seconds to each other's: each seed's medians over rounds."""
    found: dict[tuple[str, float, int], list[dict[str, Any]]] = {}
    for line in lines:
        if line["suite"] == suite:
            found.setdefault((line["arm"], line["budget"], line["seed"]), []).append(line)
    for other in pairs[1:]:
        seeds = sorted(seed for arm, budget, seed in found if (arm, budget) == other and (*pairs[0], seed) in found)
        for key in ("flops", "seconds", "process"):
            ratios = [
                median(line[key] for line in found[*pairs[0], seed]) / median(line[key] for line in found[*other, seed])
                for seed in seeds
            ]
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"{suite}: {pairs[0]} / {other}: {key} x{median(ratios):.2f} (by seed {each})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("runs", nargs="+", type=wanted, metavar="ARM:BUDGET")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    try:
        suite = read_suite(given.suite)
    except ValueError as error:
        parser.error(str(error))
    records = read_records(results_file(RESULTS, suite.name))
    finals = plan(suite, records).finals
    for arm, budget in given.runs:
        for seed in suite.settings.seeds:
            if (arm, budget, seed) not in finals or finals[arm, budget, seed].address not in records:
                parser.error(
                    f"{arm}:{budget:g}: {suite.name} has no record of it for seed {seed}; "
                    f"make it by python -m benchmarks {suite.name}"
                )
    base = base_weights(suite, Path("runs/bench") / suite.name)
    lines = [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()] if RECORD.exists() else []
    there = {(line["suite"], line["arm"], line["budget"], line["seed"], line["round"]) for line in lines}
    for turn in range(given.rounds):
        for seed in suite.settings.seeds:
            for arm, budget in given.runs[:: -1 if (turn + seed) % 2 else 1]:
                if (suite.name, arm, budget, seed, turn) in there:
                    continue
                run = finals[arm, budget, seed]
                head = {"suite": suite.name, "arm": arm, "budget": budget, "seed": seed, "round": turn}
                line = {**head, **timed(run, base, records[run.address]["totals"]["flops"])}
                lines.append(line)
                with RECORD.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(
                    f"{arm} {budget:g}x seed {seed}: {line['seconds']:.1f} s, process {line['process']:.1f} s",
                    flush=True,
                )
    print_ratios(lines, suite.name, given.runs)


if __name__ == "__main__":
    main()
