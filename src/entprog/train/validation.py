"""Holdout readings and samples during training."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from entprog.core.bands import band_means, mean_log
from entprog.core.processes import first, shared
from entprog.core.types import Draw
from entprog.evaluate.evaluation import evaluate_task
from entprog.tasks.base import Task
from entprog.train.loop import Phase
from entprog.train.state import Session

__all__ = ["holdout_loss", "validate"]


@torch.no_grad()
def validate(session: Session, phase: Phase) -> None:
    """Holdout loss, its mean and by noise band, with the final weights (EMA where kept).

    Samples are written where `train.validation_clips` asks for them.
    """
    config, task = session.config, session.task
    with phase.method.freezer.whole(), session.ema.applied(task.model):
        found = holdout_loss(task, phase.setup.holdout)
        session.holdout_loss, session.holdout_bands = found["loss"], found["bands"]
        session.log.event("holdout", {**found, **session.totals.so_far()})
        wanted = config.train.validation_clips and phase.config.pose and task.generates
        if wanted and (first() or config.distributed.shard):  # a sharded network samples in all processes
            _sample(session, phase)


@torch.no_grad()
def holdout_loss(task: Task, holdout: Sequence[Draw]) -> dict[str, Any]:
    """The loss on fixed draws: "loss", the mean; "bands", that of five bands of tau; "log_loss", their `mean_log`.

    "per_draw" has the loss of each draw.
    """
    losses: list[float] = []
    by_sample: list[float] = []
    taus: list[float] = []
    for (loss, each), draw in zip(shared(holdout, task.reading), holdout, strict=True):
        losses.append(loss)
        by_sample += each
        taus += draw.tau.tolist()
    bands = [None if math.isnan(value) else value for value in band_means(by_sample, taus)]
    return {"loss": sum(losses) / len(losses), "log_loss": mean_log(bands), "bands": bands, "per_draw": losses}


def _sample(session: Session, phase: Phase) -> None:
    config = session.config
    few = replace(
        config.evaluate,
        clips=config.train.validation_clips,
        videos=config.train.validation_clips,
        frames=min(config.evaluate.frames, phase.config.frames),
        resolution=phase.config.resolution,
    )
    weights = "ema" if session.ema.weights else "model"
    settings = replace(config, evaluate=few)
    with ExitStack() as kept:
        folder = session.run / "samples" / f"{phase.folder.name}-{session.step}"
        if not first():
            folder = Path(kept.enter_context(TemporaryDirectory()))
        result = evaluate_task(session.task, settings, folder, samples=folder, weights=weights, progress=False)
    background = result["metrics"].get("background_l1")
    if background is not None:
        phase.watch.background_error(background)
    session.log.event("sample", {"metrics": result["metrics"]})
