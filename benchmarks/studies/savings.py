"""What each switch of the engine saves in one training step:
python -m benchmarks.studies.savings [--rounds 3 --size s ...].

Each arm is a short run of `entprog train` on rendered people: spatial blocks, reference and pose, untrained weights.
Arms are interleaved, `--rounds` times. FLOPs and peak bytes are the meter's, of one step, exact; seconds are the median
of wall times over all steps but each run's first, their spread the middle half. Adds a line an arm to
benchmarks/results/savings.jsonl, and prints the table of docs/memory.md. Run it on an otherwise idle machine.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from entprog.config.load import read_config
from entprog.train.run import train

OUT = Path(__file__).parent.parent / "results" / "savings.jsonl"

THIRD = {"method": "progressive", "schedule.name": "fixed", "schedule.options.m": "[0.34]", "ranking.score": "order"}
SUFFIX = {**THIRD, "ranking.options.order": "last", "model.pose": "blocks", "freeze.inputs_every": "0"}
CACHED = {**SUFFIX, "train.reference_cache": "device"}
RECOMPUTED = {"train.gradient_checkpointing": "true"}
IN_BACKWARD = {"train.optimizer_in_backward": "true", "train.max_grad_norm": "0"}
EIGHT = {"train.optimizer": "adamw8bit"}

ARMS: dict[str, dict[str, str]] = {
    "full": {"method": "full"},
    "full, 8-bit states": {"method": "full", **EIGHT},
    "full, Adafactor": {"method": "full", "train.optimizer": "adafactor"},
    "full, optimizer in backward": {"method": "full", **IN_BACKWARD},
    "full, checkpointing": {"method": "full", **RECOMPUTED},
    "full, checkpointing, in backward": {"method": "full", **RECOMPUTED, **IN_BACKWARD},
    "full, checkpointing, 8-bit states": {"method": "full", **RECOMPUTED, **EIGHT},
    "full, compiled blocks": {"method": "full", "train.compile": "blocks"},
    "full, reference without gradient": {"method": "full", "model.reference_gradient": "false"},
    "full, 1 frame": {"method": "full", "method_options.frames": "[1]"},
    "full, half the side": {"method": "full", "method_options.resolution": "[HALF]"},
    "full, half the tokens": {"method": "full", "method_options.tokens": "[0.5]"},
    "third, spread, inputs train": {**THIRD, "ranking.options.order": "file", "ranking.options.path": "SPREAD"},
    "third, last, inputs train": {**THIRD, "ranking.options.order": "last"},
    "third, last": SUFFIX,
    "third, last, cached": CACHED,
    "third, last, cached, checkpointing": {**CACHED, **RECOMPUTED},
    "third, last, cached, int8": {**CACHED, "freeze.storage": "int8"},
    "third, last, cached, NF4": {**CACHED, "freeze.storage": "nf4"},
    "third, last, cached, offload": {**CACHED, "freeze.storage": "offload"},
    "LoRA rank 16": {"method": "lora", "method_options.rank": "16"},
    "mixed: third in full, LoRA below": {**THIRD, "method": "mixed", "ranking.options.order": "last"},
}
"""Overrides of an arm. SPREAD and HALF are filled in."""

SHARED = {
    "data.subjects": "4",
    "data.clips_per_subject": "1",
    "data.holdout": "1",
    "data.frames": "8",
    "model.init": "scratch",
    "ranking.samples": "1",
    "train.holdout_clips": "1",
    "train.checkpointing_steps": "0",
    "evaluate.clips": "0",
}


def main() -> None:
    settings = arguments()
    half = settings.pixels // 2
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in settings.arms}
    about: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        spread = Path(folder) / "spread.txt"
        spread.write_text("\n".join(f"blocks.{i}" for step in range(3) for i in range(step, 12, 3)) + "\n")
        recipe = Path(folder) / "recipe.toml"
        recipe.write_text(
            f"[data]\nsizes = [{half}, {settings.pixels}]\n[phases.pose]\nsteps = {settings.steps}\n"
            f"frames = {settings.frames}\nresolution = {settings.pixels}\nbatch = {settings.batch}\n"
        )
        for turn in range(settings.rounds):
            for place, name in enumerate(settings.arms):
                run = Path(folder) / f"{turn}-{place}"
                filled = {
                    key: value.replace("SPREAD", json.dumps(str(spread))).replace("HALF", str(half))
                    for key, value in {**SHARED, **ARMS[name], "model.size": settings.size}.items()
                }
                train(read_config(recipe, {**filled, "output_dir": json.dumps(str(run))}))
                rows[name] += [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
                about = json.loads((run / "run.json").read_text())
    first = records(rows, settings, about)
    with OUT.open("a") as stream:
        for record in first:
            stream.write(json.dumps(record) + "\n")
    print(table(first))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="s")
    for name, value in (("pixels", 128), ("frames", 4), ("batch", 1), ("steps", 5), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    return parser.parse_args()


def records(
    rows: dict[str, list[dict[str, Any]]], settings: argparse.Namespace, about: dict[str, Any]
) -> list[dict[str, Any]]:
    """A record an arm; a step's figures are those of the last, when references are known and states are made."""
    found = []
    for name, lines in rows.items():
        seconds = [line["seconds"] for line in lines if line["phase_step"] > 0]
        quarters = statistics.quantiles(seconds, n=4)
        found.append(
            {
                "arm": name,
                "flops": lines[-1]["flops"],
                "bytes_peak": lines[-1]["bytes_peak"],
                "bytes_live": lines[-1]["bytes_live"],
                "seconds": statistics.median(seconds),
                "seconds_quarters": [quarters[0], quarters[2]],
                "n": len(seconds),
                "rounds": settings.rounds,
                "overrides": ARMS[name],
                "shape": {key: getattr(settings, key) for key in ("size", "pixels", "frames", "batch")},
                "command": " ".join(["python", *sys.argv]),
                "threads": torch.get_num_threads(),
                **{key: about[key] for key in ("commit", "versions", "device", "capability")},
            }
        )
    return found


def table(found: list[dict[str, Any]]) -> str:
    """The records beside the first of them, in Markdown."""
    one = found[0]
    lines = ["| arm | FLOPs | time | peak | weights | gradients | states | activations |", "|---|" + "---:|" * 7]
    for record in found:
        live = record["bytes_live"]
        ratios = [f"{record[key] / one[key]:.2f}" for key in ("flops", "seconds", "bytes_peak")]
        parts = [f"{live.get(key, 0) / 2**20:.0f}" for key in ("weights", "gradients", "optimizer", "activations")]
        lines.append(f"| {record['arm']} | " + " | ".join(ratios + parts) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
