"""What a few minutes of fine-tuning make of the shipped base, by figures that copying can't reach.

python -m benchmarks.studies.demo_figures RUN... [base]: finished runs of `entprog demo`
(runs/demo/full runs/demo/paper), and
the base without any fine-tuning, on 64 held-out clips (32 people) of the demo's domain, 10 frames each. The demo
itself shows 16 of them. L1 against copying the reference and the mean frame, the share of clips nearer to their own
truth than to another person's, and the pose error by the offline estimator against the same clips with shuffled
poses. Writes benchmarks/results/demo-figures.json.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from entprog.config.schema import Config
from entprog.data.source import open_data
from entprog.evaluate.evaluation import evaluate_task
from entprog.tasks.finished_run import build_task, open_run
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.train.log import describe_run

OUT = Path(__file__).parent.parent / "results" / "demo-figures.json"
CLIPS, FRAMES = 64, 10


def main() -> None:
    runs = [Path(name) for name in sys.argv[1:] if name != "base"]
    if not runs:
        raise SystemExit("demo_figures.py: give the run folders of a finished demo, runs/demo/full runs/demo/paper")
    config, _, _ = open_run(runs[0])
    base = build_task(replace(config, model=replace(config.model, init="base")))
    base.model.eval()
    figures = {"base": _figures(config, base)} if "base" in sys.argv[1:] else {}
    for run in runs:
        config, task, _ = open_run(run)
        figures[run.name] = _figures(config, task)
    about = describe_run(config, base.device, f"python -m benchmarks.studies.demo_figures {' '.join(sys.argv[1:])}")
    record = {
        "command": about["command"],
        "data": {"domain": config.data.domain, "holdout_subjects": CLIPS // 2, "seed": config.data.seed},
        **{key: about[key] for key in ("commit", "versions", "device", "capability")},
        "threads": torch.get_num_threads(),
        "figures": figures,
    }
    OUT.write_text(json.dumps(record, indent=2) + "\n")
    for name, each in figures.items():
        print(name, json.dumps({key: each[key] for key in ("metrics", "baselines")}, indent=2))


def _figures(config: Config, task: HumanVideoTask) -> dict[str, Any]:
    data = replace(config.data, holdout=CLIPS // 2)
    evaluation = replace(
        config.evaluate, metrics=("l1", "psnr", "ssim", "pose_error"), clips=CLIPS, frames=FRAMES, videos=4
    )
    folder = Path("runs") / "demo-figures"
    folder.mkdir(parents=True, exist_ok=True)
    result = evaluate_task(task, open_data(data), replace(config, data=data, evaluate=evaluation), folder)
    return {key: result[key] for key in ("protocol", "metrics", "baselines")}


if __name__ == "__main__":
    main()
