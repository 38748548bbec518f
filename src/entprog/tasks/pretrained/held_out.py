"""Held-out windows with their conditions, and whether a data set suffices for a run.

Shape legend: F pixel frames, H W height and width in pixels.
"""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from entprog.config.load import ConfigError, ConfigWarning
from entprog.config.schema import Config, EvaluateConfig
from entprog.data.windows import WindowRow, Windows, WindowSamples, prompt_hash
from entprog.prepare.window_file import reference_frames
from entprog.tasks.base import HeldOutClip
from entprog.tasks.pretrained.model_checks import check_codec, of_data

if TYPE_CHECKING:
    from entprog.tasks.pretrained.task import PretrainedTask

TEXT, NOTHING = "text.", "nothing."
"""Prefixes of the tensors of a clip's text and of the empty text among its conditions."""


def batches(task: "PretrainedTask", settings: EvaluateConfig) -> Iterator[list[HeldOutClip]]:
    """The first windows of different clips, then further ones, one at a time: clips of this size are large.

    Raises:
        ValueError: no window of that size is held out; said at the call, before a clip is read.
    """
    rows = _spread(windows_of(task, "holdout", settings).rows)[: settings.clips]
    return ([clip_of(task, row, key, settings.frames)] for key, row in enumerate(rows))


def _spread(rows: list[WindowRow]) -> list[WindowRow]:
    """The rows with the first window of each clip first."""
    counts: dict[str, int] = {}
    turns = []
    for row in rows:
        counts[row.clip] = counts.get(row.clip, -1) + 1
        turns.append(counts[row.clip])
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: (turns[i], i))]


def clip_of(task: "PretrainedTask", row: WindowRow, key: int, frames: int) -> HeldOutClip:
    """A window with a reference image; `truth` are its decoded latents, cut to `frames` frames.

    Of the stored references the first that shows none of these frames, else the first.
    """
    windows = task.data
    places = _reference_places(windows, row) if task.stored else ()
    pick = next((k for k, place in enumerate(places) if not 0 <= place < frames), 0)
    stored = windows.read(row, dict.fromkeys(("latents", "pose", *task.stored)), pick=pick if task.stored else None)
    truth = task.decoded(stored["latents"])[:frames]
    conditions = {**stored, **texts(task, row.prompt)}
    reference, shown = truth[0], "none (the first frame is displayed)"
    unjudged: tuple[int, ...] = ()
    if places:
        shown = "another frame of the clip"
        if 0 <= places[pick] < frames:
            shown, unjudged = "a frame of the window", (places[pick],)
    if "reference" in stored:
        reference = task.decoded(stored["reference"])[0]
    conditions["frames"] = torch.tensor(len(truth))
    fps = float(windows.about["fps"])
    return HeldOutClip(
        f"{row.clip}@{row.start}",
        row.subject,
        truth,
        reference,
        stored["pose"][:frames].numpy(),
        fps,
        conditions,
        key,
        shown,
        unjudged,
    )


def _reference_places(windows: Windows, row: WindowRow) -> tuple[int, ...]:
    """Frames of the reference images of a window that prepare stored, counted from its first frame."""
    count = windows.references(row)
    starts = tuple(sorted({other.start for other in windows.rows if other.clip == row.clip}))
    return tuple(frame - row.start for frame in reference_frames(starts, row.frames, count))


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
            needs and the data set lacks, or a batch larger than the data set; all that is wrong, a line each.
    """
    if wrong := list(of_data(task, config)):
        raise ConfigError(wrong)
    check_codec(task)
    for note in task.family.notes():
        warnings.warn(note, ConfigWarning, stacklevel=2)
