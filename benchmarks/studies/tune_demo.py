"""Learning rates of the demo's arms, tuned alike: python -m benchmarks.studies.tune_demo ARM FACTOR...

Trains the demo's recipe on a tuning set (data.seed = 1: other people, motions and scenes than the demo shows) with all
of an arm's learning rates multiplied by FACTOR, and appends a record a run to benchmarks/results/demo-rates.jsonl.
"""

import json
import platform
import sys
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import torch

from entprog.config.load import read_config
from entprog.demo import ARMS
from entprog.train.run import train

BASE = {"subject": 3e-4, "pose": 3e-4, "video": 1e-3}
OUT = Path(__file__).parent.parent / "results" / "demo-rates.jsonl"


def main() -> None:
    arm, factors = sys.argv[1], [float(value) for value in sys.argv[2:]]
    for factor in factors:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            overrides = {"output_dir": json.dumps(str(run)), "data.seed": "1", "evaluate.clips": "0", **ARMS[arm]}
            overrides.update({f"phases.{phase}.learning_rate": repr(rate * factor) for phase, rate in BASE.items()})
            with as_file(files("entprog") / "assets" / "demo.toml") as recipe:
                train(read_config(recipe, overrides))
            about = json.loads((run / "run.json").read_text())
            totals = json.loads((run / "totals.json").read_text())
            events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
            readings = {event["phase"]: event["loss"] for event in events if event["event"] == "holdout"}
        record = {
            "command": f"python -m benchmarks.studies.tune_demo {arm} {factor:g}",
            "arm": arm,
            "factor": factor,
            "steps": totals["steps"],
            "rates": {phase: rate * factor for phase, rate in BASE.items()},
            "holdout": readings,
            "flops": totals["flops"],
            "seconds": totals["seconds"],
            "commit": about["commit"],
            "versions": about["versions"],
            "device": about["device"],
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        }
        with OUT.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        print(arm, factor, readings)


if __name__ == "__main__":
    main()
