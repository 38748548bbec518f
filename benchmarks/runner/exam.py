"""The exam of a finished run: its loss, and the quality of its clips, on held-out people used by nothing else."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from entprog.config.schema import Config, DataConfig, EvaluateConfig
from entprog.core.bands import band_means
from entprog.core.types import Shape
from entprog.data.clips import Clips
from entprog.data.source import open_data
from entprog.evaluate.evaluation import evaluate_task
from entprog.tasks.base import fixed_draws
from entprog.tasks.finished_run import open_run
from entprog.tasks.human_video.task import HumanVideoTask

SEED = 90_000
"""Of the exam's draws: the same for every run, so that clips pair."""


def examine(run: Path, config: Config, data: DataConfig, *, clips: int, repeats: int, quality: bool) -> dict[str, Any]:
    """Loss and quality of a run's final weights; a pure function of the weights and the arguments.

    The loss is that of the run's last phase. Generated clips go to `run`/samples/exam.

    Args:
        config: the run's, whose [evaluate] and [sample] say how quality is measured.
        data: the data set that the held-out people are from.
        repeats: draws of each clip.

    Returns:
        loss, `bands` (its mean in five bands of tau; None where no draw falls), `per_draw` (one loss a sample),
        `clips` (the name of each sample's clip), `tau` (its noise level) and, with `quality`, the metrics of
        `entprog evaluate`.
    """
    _, task = open_run(run)
    assert isinstance(task, HumanVideoTask), "exams are of the human video task"
    shards = open_data(data)
    task.on(shards)
    phase = [phase for phase in config.phases.values() if phase.steps][-1]
    shape = Shape.of(phase.sides, phase.frames, phase.batch)
    held = Clips(shards, "holdout", seed=SEED, frames=phase.frames)
    if len(held) < clips:
        raise ValueError(f"exam.clips = {clips}: only {len(held)} held-out clips have {phase.frames} frames")
    task.enter(phase)
    losses: list[float] = []
    taus: list[float] = []
    shown: list[str] = []
    for repeat in range(repeats):
        # Each repeat is an epoch of its own: every clip once, other frames, times and noise.
        first = repeat * len(held)
        draws = fixed_draws(task, _From(held, first), shape, clips, SEED)  # type: ignore[arg-type]
        more, times = _losses(task, draws)
        losses, taus = losses + more, taus + times
        shown += [held.sample(first + k, phase.frames).row.clip for k in range(clips)]
    if not all(map(math.isfinite, losses)):
        raise ValueError("the exam's loss is not finite")
    bands = [None if math.isnan(loss) else loss for loss in band_means(losses, taus)]
    found: dict[str, Any] = {
        "loss": sum(losses) / len(losses), "bands": bands, "per_draw": losses, "clips": shown, "tau": taus,
    }  # fmt: skip
    if quality:
        task.leave()
        folder = run / "samples" / "exam"
        folder.mkdir(parents=True, exist_ok=True)
        found["quality"] = evaluate_task(task, config, folder, samples=folder)
    return found


class _From:
    """A stream of samples from a place on."""

    def __init__(self, clips: Clips, first: int) -> None:
        self.clips, self.first = clips, first

    def batch(self, position: int, shape: Shape) -> Any:
        return self.clips.batch(self.first + position, shape)


@torch.no_grad()
def _losses(task: HumanVideoTask, draws: list[Any]) -> tuple[list[float], list[float]]:
    losses = [loss for draw in draws for loss in task.losses(draw).tolist()]
    return losses, [time for draw in draws for time in draw.tau.tolist()]


def with_quality(config: Config, recipe: dict[str, Any]) -> Config:
    """A run's configuration with the recipe's own evaluation, which training itself leaves out."""
    clips = recipe.get("evaluate", {}).get("clips", EvaluateConfig().clips)
    return replace(config, evaluate=replace(config.evaluate, clips=clips))


def read_status(run: Path) -> str:
    """What run.json says of a run; "" where there is none."""
    about = run / "run.json"
    return str(json.loads(about.read_text(encoding="utf-8"))["status"]) if about.is_file() else ""
