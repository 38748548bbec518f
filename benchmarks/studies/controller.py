"""What the method itself adds to a step that is not searching: python -m benchmarks.studies.controller.

Times `workload`, `replays` and an empty `with method.step(i)` of the bound progressive method on the nano model, and a
whole training step beside it (batch 8 at 64 px), interleaved. Writes benchmarks/results/controller.json.
"""

import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from entprog.config.schema import Config, ModelConfig
from entprog.core.blocks import discover_blocks
from entprog.core.freeze import param_groups
from entprog.core.types import Draw, MethodContext, Ranking
from entprog.methods.progressive import Progressive
from entprog.schedules.linear import Linear
from entprog.tasks.finished_run import build_task
from entprog.train.log import describe_run

OUT = Path(__file__).parent.parent / "results" / "controller.json"
REPEATS = 20


def main() -> None:
    torch.set_num_threads(1)
    config = replace(Config(), model=ModelConfig())
    task = build_task(config)
    blocks = discover_blocks(task.model)
    optimizer = torch.optim.AdamW(param_groups(task.model, blocks, lr=1e-6), fused=True)
    setting = MethodContext(
        task=task, blocks=blocks, optimizer=optimizer, total_steps=10_000, ranking=Ranking(blocks.names),
        schedule=Linear(stages=1),
    )  # fmt: skip
    method = Progressive().bind(setting)
    x = torch.randn(8, 1, 16, 16, 16)
    condition = {"reference": torch.randn(8, 16, 16, 16), "pose": torch.rand(8, 1, 3, 64, 64)}
    draw = Draw(x, torch.rand(8), torch.randn_like(x), condition)

    def controller(i: int) -> float:
        start = time.process_time()
        for k in range(50):
            method.plan(i + k)
            with method.step(i + k):
                pass
        return (time.process_time() - start) / 50

    def step() -> float:
        start = time.process_time()
        task.loss(draw).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.process_time() - start

    step()
    pairs = [(controller(50 * n), step()) for n in range(REPEATS)]
    ratios = sorted(own / whole for own, whole in pairs)
    about = describe_run(config, task.device, "python -m benchmarks.studies.controller")
    record = {
        "controller_seconds": statistics.median(own for own, _ in pairs),
        "step_seconds": statistics.median(whole for _, whole in pairs),
        "ratio": {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1], "n": REPEATS},
        "clock": "process CPU time, one thread",
        **{key: about[key] for key in ("command", "commit", "versions", "device", "capability")},
    }
    OUT.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record["ratio"]))


if __name__ == "__main__":
    main()
