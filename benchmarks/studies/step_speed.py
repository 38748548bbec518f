"""CPU seconds of a counted FLOP in the steps of each workload, against those of full fine-tuning.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.step_speed                # all arms
    OMP_NUM_THREADS=1 python -m benchmarks.studies.step_speed --phases pose --steps 10 --arms preset lora-16

The suite nano-muon's own arms (nano at 64 px, float32, batches of the suite) and a few more, each in two short runs by
`entprog train`'s own loop: single frames with poses, and clips of 10 frames. All runs take their steps in turns in
one process, in a thread each with one thread of its own, so that what else the machine does slows all alike. Seconds
are the CPU time of that thread, in four parts: forward (the loss), backward (recomputation included), the optimizer's
step with its hooks, and the rest (drawing the batch, looking up caches, clipping, averages, the log). Steps that are
metered and steps that fill the reference cache are left out: they are paid once.

A line for each workload goes to benchmarks/results/step-speed.jsonl, with the operators of one more step by torch's
profiler: their number, and how much of their time is in matrix products, which is all that FLOPs count.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

import torch
from torch.optim import optimizer as optimizers
from torch.profiler import ProfilerActivity, profile

from benchmarks.runner.suite_file import read_suite
from benchmarks.runner.timed_steps import Turns
from entprog.config.load import config_of
from entprog.config.presets import without_others_options
from entprog.config.schema import Config
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.toml.trees import laid_over
from entprog.train.run import train

RECORD = Path(__file__).parent.parent / "results" / "step-speed.jsonl"
SUITE = "nano-muon"
PARTS = ("forward", "backward", "optimizer", "rest")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addbmm")
LEAST_WARM = 2
"""Steps of a workload that are not counted: the first, which is metered, and the next."""

WHOLE = {"phases": {"subject": {"batch": 4}, "pose": {"batch": 4}}}
PLAIN = {"phases": {name: {"gradient_checkpointing": False} for name in ("subject", "pose")}}
LAST_THIRD = {
    "ranking": {"score": "order", "options": {"order": "last"}},
    "schedule": {"name": "fixed", "options": {"m": [0.34]}},
}
CACHED = {"model": {"pose": "blocks"}, "train": {"reference_cache": "device"}}
ROWS = {"train": {"optimizer": "muon", "optimizer_options": {"rows": 32}}}
ARMS: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "full": ("full", ()),
    "full-muon": ("full-muon", ()),
    "lora-16": ("lora-16", ()),
    "preset": ("entprog-echo", ()),
    "preset, batch of full": ("entprog-echo", (WHOLE,)),
    "preset, batch of full, no recomputation": ("entprog-echo", (WHOLE, PLAIN)),
    "bands": ("full", ({"method": "bands"}, CACHED)),
    "bands-muon": ("full", ({"method": "bands"}, CACHED, ROWS)),
    "mixed": ("mixed", (LAST_THIRD,)),
}  # fmt: skip
"""Label -> arm of the suite, and what is laid over it."""

PHASES = ("pose", "video")


class Split:
    """Seconds of the parts of a step, by thread."""

    def __init__(self) -> None:
        self.own = threading.local()
        self.steps: dict[str, list[dict[str, float]]] = {}

    def begin(self, run: str) -> None:
        """A run starts in this thread."""
        self.own.run, self.own.parts, self.own.since = run, dict.fromkeys(PARTS[:3], 0.0), time.thread_time()
        self.steps[run] = []

    def end_step(self) -> None:
        """The time since the last call, or since the run's start, was a step's."""
        parts, whole = self.own.parts, time.thread_time() - self.own.since
        self.steps[self.own.run].append({**parts, "rest": whole - sum(parts.values())})

    def begin_step(self) -> None:
        self.own.parts, self.own.since = dict.fromkeys(PARTS[:3], 0.0), time.thread_time()

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, its time counted for a part."""

        def inside(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self._add(part, time.thread_time() - start)

        return inside

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the parts of every run inside."""
        with ExitStack() as stack:
            stack.enter_context(patch.object(HumanVideoTask, "loss", self.timed("forward", HumanVideoTask.loss)))
            stack.enter_context(patch.object(torch.Tensor, "backward", self.timed("backward", torch.Tensor.backward)))
            stack.callback(optimizers.register_optimizer_step_pre_hook(self._before_step).remove)
            stack.callback(optimizers.register_optimizer_step_post_hook(self._after_step).remove)
            yield

    def _before_step(self, *call: Any) -> None:
        self.own.stepping = time.thread_time()

    def _after_step(self, *call: Any) -> None:
        self._add("optimizer", time.thread_time() - self.own.stepping)

    def _add(self, part: str, seconds: float) -> None:
        if hasattr(self.own, "parts"):
            self.own.parts[part] += seconds


def config(label: str, phase: str, steps: int, folder: Path) -> Config:
    """A short run of an arm in one phase, on so few frames that the reference cache is soon full."""
    suite = read_suite(SUITE)
    arm, over = ARMS[label]
    tree = laid_over(without_others_options(dict(suite.recipe), suite.arms[arm].tree), suite.arms[arm].tree)
    for each in over:
        tree = laid_over(without_others_options(tree, each), each)
    phases = {name: {**values, "steps": steps if name == phase else 0} for name, values in tree["phases"].items()}
    if phases["video"].get("echo", 1) > 1:
        phases["video"]["echo_window"] = 8  # what a step costs does not depend on its length
    tree = laid_over(tree, {
        "output_dir": str(folder / f"{label} {phase}"), "phases": phases, "evaluate": {"clips": 0},
        "data": {"subjects": 4, "clips_per_subject": 1, "holdout": 2, "frames": 10 if phase == "video" else 2},
        "model": {"init": "base", "fresh": ["temporal"]},  # as after the suite's image model
        "train": {"holdout_clips": 2, "validation_steps": 0, "checkpointing_steps": 0, "threads": 1},
    })  # fmt: skip
    return config_of(tree, label, quiet=True)


def run_all(
    labels: list[str], phases: list[str], steps: int, folder: Path, command: str
) -> dict[str, list[dict[str, Any]]]:
    """The log of each run, its rows with the parts of their seconds."""
    turns, split = Turns(), Split()

    def after_step() -> None:
        split.end_step()
        turns.next()
        split.begin_step()

    def job(name: str, own: Config) -> None:
        split.begin(name)
        train(own, command=command, after_step=after_step)

    runs = {}
    for label in labels:
        for phase in phases:
            # Bands and echoes have two workloads, one of which may come less often.
            twice = label.startswith("bands") or (label.startswith("preset") and phase == "video")
            if phase == "video" and label.startswith("preset,"):
                continue  # differs in single frames only
            runs[f"{label} {phase}"] = config(label, phase, steps * (3 if twice else 1) + 12, folder)
    with split.watching():
        turns.run({name: partial(job, name, own) for name, own in runs.items()})
    found = {}
    for name in runs:
        rows = [json.loads(line) for line in (folder / name / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        found[name] = [{**row, "parts": parts} for row, parts in zip(rows, split.steps[name], strict=True)]
    return found


def measured(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The workloads of a run, each with its median seconds and their parts."""
    kinds: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["m"], row["echo"], row["inputs"], row["flops"]), []).append(row)
    for (m, echo, inputs, flops), own in kinds.items():
        steps = [row["parts"] for row in own[LEAST_WARM:] if not row["flops_cache"]]
        if len(steps) < 10:
            continue
        whole = [sum(step.values()) for step in steps]
        low, _, high = quantiles(whole, n=4)
        yield {
            "m": m, "echo": echo, "inputs": inputs, "batch": own[0]["batch"], "flops": flops, "n": len(steps),
            "seconds": median(whole), "quartiles": [low, high],
            "parts": {part: median(step[part] for step in steps) for part in PARTS},
        }  # fmt: skip


def operators(label: str, phase: str, folder: Path) -> list[dict[str, Any]]:
    """What torch's profiler says of a settled step of each workload: number of operators, share of products."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    own = config(label, phase, 34 if phase == "video" else 16, folder / "operators")
    state: dict[str, Any] = {"profiler": None, "events": []}

    def after_step() -> None:
        if state["profiler"] is not None:
            state["profiler"].__exit__(None, None, None)
            state["events"].append(state["profiler"].key_averages())
        state["profiler"] = profile(activities=[ProfilerActivity.CPU])
        state["profiler"].__enter__()

    run = train(own, after_step=after_step)
    state["profiler"].__exit__(None, None, None)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    for row, events in zip(rows[1:], state["events"], strict=True):
        inner = [event for event in events if event.key.startswith("aten::")]
        whole = sum(event.self_cpu_time_total for event in inner)
        products = sum(event.self_cpu_time_total for event in inner if event.key in PRODUCTS)
        if not row["flops_cache"] and whole:
            found[row["m"], row["echo"]] = {
                "m": row["m"], "echo": row["echo"], "operators": sum(event.count for event in inner),
                "products": sum(event.count for event in inner if event.key in PRODUCTS),
                "share_of_products": round(products / whole, 3), "seconds": whole * 1e-6,
            }  # fmt: skip
    return list(found.values())


def shown(row: Mapping[str, Any]) -> str:
    parts = " ".join(f"{row['parts'][part] * 1e3:7.1f}" for part in PARTS)
    return (
        f"{row['arm']:40} {row['phase']:6} m={row['m']:2} {'echo' if row['echo'] else '':4} b={row['batch']} "
        f"{row['flops'] / 1e9:6.2f} GFLOP {row['seconds'] * 1e3:7.1f} ms ({parts}) "
        f"{row['flops'] / row['seconds'] / 1e9:6.1f} GFLOP/s  x{row['of_full']:.2f}  n={row['n']}"
    )


def runs_of(labels: list[str], phases: list[str], found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Arm and phase of each run that was made."""
    return [(label, phase) for label in labels for phase in phases if f"{label} {phase}" in found]


def against_full(rows: list[dict[str, Any]]) -> None:
    """Note each workload's seconds of a FLOP as a multiple of full fine-tuning's in the same phase."""
    full = {row["phase"]: row["seconds"] / row["flops"] for row in rows if row["arm"] == "full"}
    for row in rows:
        row["of_full"] = row["seconds"] / row["flops"] / full[row["phase"]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(ARMS)
    parser.add_argument("--arms", nargs="+", choices=known, default=known, metavar="ARM", help="; ".join(known))
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--steps", type=int, default=24, help="counted steps of each workload, about")
    parser.add_argument("--label", default="", help="kept with each line, such as the name of a change")
    parser.add_argument("--operators", action="store_true", help="the operators of one step of each workload too")
    parser.add_argument("--out", type=Path, default=RECORD)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(1)
    labels = ["full", *(label for label in given.arms if label != "full")]
    asked = {"phases": given.phases, "steps": given.steps, "arms": labels, "label": given.label}
    command, load = "python -m benchmarks.studies.step_speed", os.getloadavg()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = run_all(labels, given.phases, given.steps, folder, command)
        about = json.loads((folder / f"full {given.phases[0]}" / "run.json").read_text(encoding="utf-8"))
        runs = runs_of(labels, given.phases, found)
        rows = [{"arm": a, "phase": phase, **row} for a, phase in runs for row in measured(found[f"{a} {phase}"])]
        counted = {run: operators(*run, folder) if given.operators else [] for run in runs}
    against_full(rows)
    kept = {key: about[key] for key in ("commit", "versions", "device", "capability", "threads", "started")}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("a", encoding="utf-8") as file:
        for row in rows:
            same = [each for each in counted[row["arm"], row["phase"]] if all(each[k] == row[k] for k in ("m", "echo"))]
            line = {**row, "operators": same[0] if same else None, **kept, "load": load[0], "asked": asked}
            file.write(json.dumps({**line, "command": command}) + "\n")
            print(shown(row))


if __name__ == "__main__":
    main()
