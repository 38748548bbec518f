"""What the shipped base can do before any fine-tuning, by figures that copying can't reach.

python -m benchmarks.studies.base_figures [WEIGHTS]: 64 held-out clips (32 people) of the base's own domain,
8 frames each.
L1 against copying the reference and the mean frame, the share of clips nearer to their own truth than to another
person's, and the pose error by the offline estimator against the same clips with shuffled poses. Writes
benchmarks/results/base-figures.json.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from entprog.config.schema import Config, DataConfig, EvaluateConfig, ModelConfig
from entprog.data.source import open_data
from entprog.evaluate.evaluation import evaluate_task
from entprog.tasks.finished_run import build_task
from entprog.train.log import describe_run

OUT = Path(__file__).parent.parent / "results" / "base-figures.json"
CLIPS = 64


def main() -> None:
    init = sys.argv[1] if len(sys.argv) > 1 else "base"
    data = DataConfig(domain="source", subjects=64, holdout=32, frames=12, seed=7)
    evaluation = EvaluateConfig(metrics=("l1", "psnr", "ssim", "pose_error"), clips=CLIPS, frames=8, videos=4)
    config = replace(Config(), data=data, model=ModelConfig(init=init), evaluate=evaluation)
    task = build_task(config)
    task.model.eval()
    folder = Path("runs") / "base-figures"
    folder.mkdir(parents=True, exist_ok=True)
    result = evaluate_task(task, open_data(data), config, folder)
    about = describe_run(config, task.device, "python -m benchmarks.studies.base_figures")
    record = {
        "command": about["command"],
        "data": {"domain": "source", "holdout_subjects": 32, "seed": 7, "clips": CLIPS},
        **{key: result[key] for key in ("protocol", "metrics", "baselines")},
        **{key: about[key] for key in ("commit", "versions", "device", "capability")},
        "threads": torch.get_num_threads(),
    }
    OUT.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps({key: record[key] for key in ("metrics", "baselines")}, indent=2))


if __name__ == "__main__":
    main()
