"""`entprog train` on the toy task, case after case, as one of several gloo processes or alone.

`train_processes.py RANK WORLD FOLDER CASE...`; a case is a name of CASES, with "+shard" or "+resume" behind it.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from entprog.config.load import read_config
from entprog.train.run import train

STEPS = 16
BASE: dict[str, Any] = {
    "task": '"toy_vectors:Vectors"', "device": '"cpu"', "phases.pose.steps": STEPS, "phases.pose.batch": 8,
    "phases.subject.steps": 0, "phases.video.steps": 0, "phases.pose.learning_rate": 0.01, "train.threads": 1,
    "train.mixed_precision": '"no"', "train.holdout_clips": 6, "ranking.samples": 8, "evaluate.clips": 0,
    "train.checkpointing_steps": 5, "train.checkpoints_total_limit": 0, "distributed.checksum_steps": 3,
}  # fmt: skip
SEARCH = "{ stages = 2, search_steps = 4 }"
CASES: dict[str, dict[str, Any]] = {
    "full": {"method": '"full"'},
    "supernet": {"method": '"progressive"', "schedule.name": '"adaptive"', "schedule.options": SEARCH},
    "probe": {"method": '"progressive"', "schedule.name": '"adaptive"',
              "schedule.options": '{ stages = 2, search_steps = 4, estimator = "probe" }', "train.ema_decay": 0.9},
    "linear": {"method": '"progressive"', "schedule.name": '"linear"', "schedule.options": "{ stages = 3 }",
               "freeze.inputs_every": 2, "train.gradient_accumulation_steps": 2},
    "lora": {"method": '"lora"', "method_options.rank": 2, "train.ema_decay": 0.9, "phases.pose.learning_rate": 3e-4},
    "mixed": {"method": '"mixed"', "method_options.rank": 2, "schedule.name": '"linear"',
              "schedule.options": "{ stages = 2 }", "phases.pose.learning_rate": 1e-3},
    "muon": {"method": '"progressive"', "schedule.name": '"linear"', "schedule.options": "{ stages = 2 }",
             "train.optimizer": '"muon"'},
    "budget": {"method": '"full"', "train.memory_budget": '"1MiB"', "train.gradient_accumulation_steps": 2},
    "bits": {"method": '"progressive"', "schedule.name": '"linear"', "schedule.options": "{ stages = 2 }",
             "train.optimizer": '"adamw8bit"', "task_options.inside": 128, "phases.pose.learning_rate": 1e-3},
}  # fmt: skip


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def run(rank: int, world: int, folder: Path, case: str) -> None:
    name, *how = case.split("+")
    given = {**BASE, **CASES[name], "distributed.shard": "true" if "shard" in how else "false"}
    given["output_dir"] = f'"{folder / case.replace("+resume", "")}"'
    config = read_config(None, {key: str(value) for key, value in given.items()})
    resume = "checkpoint-5" if "resume" in how else None
    if world > 1:  # a group for each case, as each run leaves its own; torchrun's meeting place serves one group only
        dist.init_process_group("gloo", init_method=f"file://{folder}/{case}.meeting", rank=rank, world_size=world)
    config = replace(config, distributed=replace(config.distributed, shard="shard" in how))
    train(config, resume_from_checkpoint=resume)


if __name__ == "__main__":
    for each in sys.argv[4:]:
        run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), each)
