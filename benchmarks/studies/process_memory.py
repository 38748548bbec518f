"""Resident memory of a training process on this CPU: python -m benchmarks.studies.process_memory.

Trains a few steps of each phase of nano-muon's arms, from untrained weights (bytes do not depend on them), each in a
process of its own, and writes the process's largest resident set beside the metered peak to
benchmarks/results/process-memory.jsonl, a line an arm. The resident set holds the interpreter, torch's libraries, the
data and the originals of frozen weights besides; the first line, a process that imports and stops, says how much of it
is there before anything trains.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.runner.suite_file import read_suite
from entprog.config.load import write_config

RECORD = Path(__file__).parent.parent / "results" / "process-memory.jsonl"
ARMS = ("full", "full-video-muon", "full-saving", "entprog-echo", "lora-16", "paper")
FEW = {"subject": 6, "pose": 6, "video": 24}
STEPS = {"entprog-echo": {**FEW, "video": 70}, "paper": {"subject": 24, "pose": 24, "video": 24}}
"""More than FEW: a window of echoes, and the stages of a search."""
CHILD = """
import json, resource, sys
import entprog.train.run
from entprog.config.load import read_config
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
if len(sys.argv) > 1:
    entprog.train.run.train(read_config(sys.argv[1]))
print(json.dumps([before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def measured(arm: str) -> dict[str, object]:
    """Peak resident bytes of a process that trains an arm, and its metered peak; "" only imports."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        arguments, metered = [], 0
        if arm:
            config = read_suite("nano-muon").config(arm, steps=STEPS.get(arm, FEW))
            config = replace(
                config,
                output_dir=str(Path(name) / "run"),
                model=replace(config.model, init="scratch"),
                train=replace(config.train, validation_steps=0, checkpointing_steps=0),
                evaluate=replace(config.evaluate, clips=0),
            )
            (Path(name) / "recipe.toml").write_text(write_config(config), encoding="utf-8")
            arguments = [str(Path(name) / "recipe.toml")]
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, env=environment
        )
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        if arm:
            totals = json.loads((Path(name) / "run" / "totals.json").read_text(encoding="utf-8"))
            metered = totals["bytes_peak"]
    before, peak = json.loads(done.stdout.strip().splitlines()[-1])
    return {"suite": "nano-muon", "arm": arm, "metered": metered, "resident": peak, "imports": before}


def main() -> None:
    """A line for each arm that has none yet."""
    there = RECORD.read_text(encoding="utf-8").splitlines() if RECORD.is_file() else []
    known = {json.loads(line)["arm"] for line in there}
    for arm in ("", *ARMS):
        if arm not in known:
            with RECORD.open("a", encoding="utf-8") as file:
                file.write(json.dumps(measured(arm)) + "\n")
    for line in RECORD.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        mib = {key: row[key] / 2**20 for key in ("metered", "resident", "imports")}
        print(
            f"{row['arm'] or 'imports only':16} " + "  ".join(f"{key} {value:7.1f} MiB" for key, value in mib.items())
        )


if __name__ == "__main__":
    main()
