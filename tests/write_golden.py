"""Write tests/golden/*.json again, after a change that is meant to move the numbers: python tests/write_golden.py."""

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from entprog.train.run import train
from tiny import lines, synthetic_data, tiny_config

GOLDEN = Path(__file__).parent / "golden"
KINDS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "linear": {"ranking__score": "cei", "schedule__options__stages": 5},
    "supernet": {
        "ranking__score": "cei",
        "schedule__name": "adaptive", "schedule__options__stages": 1, "schedule__options__search_steps": 7,
    },
    "probe": {
        "ranking__score": "cei",
        "schedule__name": "adaptive", "schedule__options__stages": 1, "schedule__options__search_steps": 6,
        "schedule__options__estimator": "probe",
    },
    "lisa": {"method": "benchmarks.rivals.lisa:Lisa", "method_options__every": 3},
    "badam": {"method": "benchmarks.rivals.badam:Badam", "method_options__every": 3},
    "galore": {
        "method": "full", "train__optimizer": "benchmarks.rivals.galore:Galore",
        "train__optimizer_options__rank": 32, "train__optimizer_options__update_proj_gap": 4,
    },
}  # fmt: skip


def machine() -> dict[str, Any]:
    """What has to be equal for equal bits."""
    cpuinfo = Path("/proc/cpuinfo")
    named = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.is_file()
        else []
    )
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": named[0].split(":", 1)[1].strip() if named else platform.processor(),
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def measure(kind: str, folder: Path) -> dict[str, Any]:
    """Ten steps in float32 from scratch on synthetic latents: losses, gradient norms and block counts."""
    data = folder / "data"
    if not data.exists():
        synthetic_data(data)
    run = train(
        tiny_config(
            folder / kind, data, phases__subject__steps=0, phases__video__steps=0, phases__pose__steps=10,
            phases__pose__blocks="all", phases__pose__frames=2, train__seed=3, **KINDS[kind],
        )
    )  # fmt: skip
    rows = lines(run / "log.jsonl")
    totals = json.loads((run / "totals.json").read_text())
    return {
        "loss": [row["loss"] for row in rows],
        "grad_norm": [row["grad_norm"] for row in rows],
        "m": [row["m"] for row in rows],
        "flops": totals["flops"],
        "holdout_loss": totals["holdout_loss"],
    }


def main() -> None:
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for kind in sys.argv[1:] or KINDS:
            content = {"machine": machine(), **measure(kind, Path(folder))}
            (GOLDEN / f"{kind}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            print(kind, content["loss"][-1])


if __name__ == "__main__":
    main()
