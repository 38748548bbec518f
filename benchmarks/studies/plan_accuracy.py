"""What `entprog plan` says against steps that run: bytes by the meter, seconds by the clock, on this machine.

    python -m benchmarks.studies.plan_accuracy                       # the demo's three phases: full, a suffix, a spread
    python -m benchmarks.studies.plan_accuracy --smallest            # one case, few steps
    python -m benchmarks.studies.plan_accuracy --out benchmarks/results/plan-accuracy.json

A measured step is what the loop repeats once its batch is drawn: loss, backward, clipping and the update. It is
timed after two steps of warm-up; the median counts. Run it on an otherwise idle machine.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from entprog.config.schema import Config, PhaseConfig
from entprog.core.blocks import discover_blocks
from entprog.core.freeze import param_groups
from entprog.core.types import Draw, Ranking
from entprog.plan.calibration import calibrate
from entprog.plan.estimate import Planner
from entprog.plan.orders import spread, suffix
from entprog.plan.planning import demo_recipe
from entprog.profiling.hardware import find_device
from entprog.profiling.meter import Meter
from entprog.profiling.subject import Case
from entprog.tasks.human_video.build import build_model
from entprog.tasks.human_video.plan_subject import HumanVideoSubject
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.train.log import describe_run


def measured(planner: Planner, case: Case, active: tuple[str, ...], steps: int) -> dict[str, Any]:
    """Peak bytes, FLOPs and median seconds of steps that train `active`."""
    subject = planner.subject
    assert isinstance(subject, HumanVideoSubject)
    torch.manual_seed(0)
    model = build_model(planner.config.model)
    model.temporal_off, model.gradient_checkpointing = case.temporal_off, case.checkpointing
    owned = {id(p) for block in discover_blocks(model) for p in block.parameters()}
    chosen = {id(p) for name in active for p in model.get_submodule(name).parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen or (case.outside and id(parameter) not in owned))
    optimizer = torch.optim.AdamW(param_groups(model, discover_blocks(model)), lr=1e-5, fused=True)
    task = HumanVideoTask(model, subject.objective, autocast=case.precision)
    shape = case.shape
    side = shape.resolution // 4
    clip = (shape.batch, shape.frames, 16, side, side)

    def step(meter: Meter | None = None) -> None:
        pixels = torch.zeros(*clip[:2], 3, shape.resolution, shape.resolution, dtype=torch.uint8)
        batch = [torch.randn(clip), torch.randn(clip[0], *clip[2:]), pixels]
        condition = {"reference": torch.randn(clip[0], *clip[2:])}
        if case.pose:
            condition["pose"] = pixels.float()
        draw = Draw(torch.randn(clip), torch.rand(clip[0]), torch.randn(clip), condition)
        started = time.perf_counter()
        task.loss(draw).backward()
        if meter is None:
            nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
            optimizer.step()
            times.append(time.perf_counter() - started)
        optimizer.zero_grad(set_to_none=True)
        batch.clear()

    times: list[float] = []
    for _ in range(steps + 2):
        step()
    with Meter(model, optimizer) as meter:
        step(meter)
    cost = meter.cost()
    return {"peak": cost.peak, "flops": cost.flops, "seconds": statistics.median(times[2:])}


def cases(config: Config, planner: Planner) -> list[tuple[str, PhaseConfig, tuple[str, ...]]]:
    """Each phase in full, and with a third of its blocks from the end and spread."""
    found = []
    for name, settings in config.phases.items():
        blocks = planner.subject.family(settings.blocks)
        third = max(1, len(blocks) // 3)
        orders: dict[str, Ranking] = {"suffix": suffix(blocks), "spread": spread(blocks)}
        found.append((f"{name}, full", settings, blocks))
        found += [(f"{name}, {title} m = {third}", settings, order.top(third)) for title, order in orders.items()]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smallest", action="store_true", help="one case, three steps")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = demo_recipe()
    planner = Planner(config, find_device("cpu"))
    chosen = cases(config, planner)
    if options.smallest:
        chosen, options.steps = chosen[-2:-1], 3
    steps = [(title, planner.case(settings), active) for title, settings, active in chosen]
    for _, case, active in steps:
        planner.operations.update(planner.step(case, active).operations)
    with tempfile.TemporaryDirectory() as fresh:
        planner.clock = calibrate(planner.clock, planner.operations, Path(fresh))
    rows = []
    for title, case, active in steps:
        said, real = planner.step(case, active), measured(planner, case, active, options.steps)
        seconds = planner.clock.seconds(said)
        row = {
            "case": title,
            "plan": {"peak": said.peak, "flops": said.flops, "seconds": seconds},
            "measured": real,
            "error": {"peak": said.peak / real["peak"] - 1, "seconds": seconds / real["seconds"] - 1},
            "flops_equal": said.flops == real["flops"],
        }
        rows.append(row)
        error = row["error"]
        print(
            f"{title:<26} peak {said.peak / 2**20:8.1f} MiB ({error['peak']:+.2%})  "
            f"{seconds * 1000:8.1f} ms ({error['seconds']:+.1%}, measured {real['seconds'] * 1000:.1f} ms)  "
            f"FLOPs {'equal' if row['flops_equal'] else 'DIFFER'}"
        )
    worst = {key: max(abs(row["error"][key]) for row in rows) for key in ("peak", "seconds")}
    print(f"largest error: bytes {worst['peak']:.2%} (at most 3 %), seconds {worst['seconds']:.1%} (at most 25 %)")
    if options.out:
        hardware = asdict(planner.hardware)
        run = describe_run(config, torch.device("cpu"), " ".join(["python", *sys.argv]))
        about = {key: run[key] for key in ("command", "commit", "versions", "device", "capability")}
        about |= {"threads": options.threads, "steps": options.steps, "hardware": hardware}
        options.out.write_text(json.dumps({"about": about, "worst": worst, "cases": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
