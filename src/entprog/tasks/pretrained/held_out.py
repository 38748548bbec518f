"""Held-out windows with their conditions, and whether a data set suffices for a run.

Shape legend: F pixel frames, H W height and width in pixels.
"""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from entprog.config.load import ConfigWarning
from entprog.config.schema import Config, EvaluateConfig
from entprog.data.windows import WindowRow, WindowSamples, prompt_hash
from entprog.tasks.base import HeldOutClip
from entprog.tasks.pretrained.sizes import size_problem

if TYPE_CHECKING:
    from entprog.tasks.pretrained.task import PretrainedTask

TEXT, NOTHING = "text.", "nothing."
"""Prefixes of the tensors of a clip's text and of the empty text among its conditions."""


def batches(task: "PretrainedTask", settings: EvaluateConfig) -> Iterator[list[HeldOutClip]]:
    """The first windows of different clips, then further ones, one at a time: clips of this size are large."""
    samples = windows_of(task, "holdout", settings)
    for key, row in enumerate(_spread(samples.rows)[: settings.clips]):
        yield [clip_of(task, row, key, settings.frames)]


def _spread(rows: list[WindowRow]) -> list[WindowRow]:
    """The rows with the first window of each clip first."""
    counts: dict[str, int] = {}
    turns = []
    for row in rows:
        counts[row.clip] = counts.get(row.clip, -1) + 1
        turns.append(counts[row.clip])
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: (turns[i], i))]


def clip_of(task: "PretrainedTask", row: WindowRow, key: int, frames: int) -> HeldOutClip:
    """A window with its first reference image; `truth` are its decoded latents, cut to `frames` frames."""
    windows, codec = task.data, task.codec
    stored = windows.read(row, dict.fromkeys(("latents", "pose", *task.stored)), pick=0 if task.stored else None)
    truth = codec.decode(stored["latents"].to(task.device)).cpu()[:frames]
    conditions = {**stored, **texts(task, row.prompt)}
    reference = truth[0]
    if "reference" in stored:
        reference = codec.decode(stored["reference"].to(task.device)).cpu()[0]
    conditions["frames"] = torch.tensor(len(truth))
    fps = float(windows.about["fps"])
    return HeldOutClip(
        f"{row.clip}@{row.start}", row.subject, truth, reference, stored["pose"][:frames].numpy(), fps, conditions, key
    )


def texts(task: "PretrainedTask", prompt: str) -> dict[str, torch.Tensor]:
    """The text of a prompt (by its hash) and of the empty one, padded to one length so that clips can be stacked."""
    if not task.family.text_length or task.data.about["text"] is None:
        return {}
    found: dict[str, torch.Tensor] = {}
    for name, which in ((TEXT, prompt), (NOTHING, prompt_hash(""))):
        padded = task.family.padded([task.data.text(which)])
        found |= {f"{name}{key}": value[0] for key, value in padded.items()}
    return found


def windows_of(task: "PretrainedTask", split: str, settings: EvaluateConfig) -> WindowSamples:
    """The windows of the evaluation's size."""
    height, width = settings.sides
    return WindowSamples(task.data, split, size=f"{height}x{width}")


def check_data(task: "PretrainedTask", config: Config) -> None:
    """Refuse, before any work, phases that the data set does not suffice for, or that the model can't take.

    Raises:
        ValueError: other latents than the model's, a size or frame count that is not stored, tensors that the model
            needs and the data set lacks, or a batch larger than the data set.
    """
    windows, family = task.data, task.family
    about: dict[str, Any] = windows.about["codec"]
    if int(about["channels"]) != family.channels:
        raise windows.wrong(
            f"its latents have {about['channels']} channels ({about.get('class', about.get('name'))}), but "
            f"{config.model.pretrained} takes {family.channels}; prepare it with --codec {config.model.pretrained}"
        )
    if about["hash"] != task.codec.hash:
        raise windows.wrong(
            f"its latents are of another VAE (hash {about['hash']}) than that of {config.model.pretrained} "
            f"({task.codec.hash}); prepare it with --codec {config.model.pretrained}"
        )
    if lacking := [name for name in task.stored if name not in windows.stored]:
        raise windows.wrong(
            f"stores no {', '.join(lacking)}, which model.pose = {config.model.pose!r} and model.reference = "
            f"{config.model.reference!r} of this model need; {remedy(lacking)}"
        )
    if family.text_length and windows.about["text"] is None:
        raise windows.wrong(f"has no text, but the model takes text; prepare it with --text {config.model.pretrained}")
    for name, phase in config.phases.items():
        if phase.steps:
            task.enter(phase)
            _check_size(task, f"phases.{name}.resolution = {phase.resolution!r}", phase.sides, phase.frames)
            count = len(task.samples("train", phase.frames, 0))
            task.samples("holdout", phase.frames, 0)
            if phase.batch > count:
                raise ValueError(
                    f"phases.{name}.batch = {phase.batch}: larger than the data set's {count} training windows; lower "
                    "it, or use train.gradient_accumulation_steps"
                )
    for note in family.notes():
        warnings.warn(note, ConfigWarning, stacklevel=2)
    if config.evaluate.clips:
        windows_of(task, "holdout", config.evaluate)


def remedy(lacking: list[str]) -> str:
    """How to prepare what a data set lacks."""
    if "control" in lacking:
        return "prepare it again with --control draw, or --control COLUMN of its metadata"
    return "prepare it again with --references 1 or more"


def _check_size(task: "PretrainedTask", said: str, sides: tuple[int, int], frames: int) -> None:
    whole = task.framed(task.led(task.latent(sides, frames)))
    if why := size_problem(task.family, sides, whole, int(task.data.about["codec"]["factor"])):
        raise ValueError(f"{said}: {why}")
