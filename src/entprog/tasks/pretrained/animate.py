"""A picture and a driving video as the conditions of a pretrained model.

Shape legend: F frames, H W height and width in pixels.
"""

import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from entprog.codecs.diffusers import DiffusersCodec
from entprog.config.load import ConfigError
from entprog.data.windows import OF_REFERENCES, WindowRow, Windows, prompt_hash
from entprog.poses.base import FOUND_THRESHOLD
from entprog.poses.loading import default_estimator
from entprog.prepare.crop import cut_out, person_rectangle
from entprog.prepare.window_file import Encoders, reference_tensors
from entprog.tasks.base import Animation, HeldOutClip
from entprog.tasks.pretrained.held_out import TEXT, clip_of, texts
from entprog.tasks.pretrained.prepare_data import image_encoder, prepare_data
from entprog.tasks.pretrained.sizes import size_problem

if TYPE_CHECKING:
    from entprog.tasks.pretrained.task import PretrainedTask

__all__ = ["animation"]

SECONDS = 60
"""How much of a driving video is read."""


def animation(task: "PretrainedTask", wanted: Animation) -> HeldOutClip:
    """The clip to generate: the drive prepared as `entprog prepare` does, with the picture as its reference image."""
    sides = wanted.sides or list(task.config.phases.values())[-1].sides
    frames = int(task.data.about["frames"])
    _check(task, wanted, sides, frames)
    shown = min(wanted.frames or frames, frames)
    if not Path(wanted.drive).is_file():
        clip = clip_of(task, _row(task.data, "drive", wanted.drive, "a video file", sides), 0, shown)
    else:
        with TemporaryDirectory() as folder:
            windows = _prepared(task, wanted.drive, Path(folder), sides, frames)
            clip = clip_of(replace(task, windows=windows), _longest(windows), 0, shown)
    own = clip.conditions
    if wanted.prompt or Path(wanted.drive).is_file():
        own = {**own, **_text(task, wanted.prompt)}
    conditions: dict[str, Tensor] = dict(own)
    reference, found = _reference(task, wanted, sides, frames)
    conditions |= {name: value for name, value in found.items() if name in task.stored}
    return replace(clip, clip=Path(wanted.drive).stem, reference=reference, conditions=conditions)


def _check(task: "PretrainedTask", wanted: Animation, sides: tuple[int, int], frames: int) -> None:
    """Refuse what the model does not take, before any video is read."""
    wrong = []
    if wanted.prompt and not task.family.text_length:
        wrong.append(f"prompt = {wanted.prompt!r}: {task.config.model.pretrained} takes no text; leave it out")
    whole = task.framed(task.led(task.latent(sides, frames)))
    if why := size_problem(task.family, sides, whole, int(task.data.about["codec"]["factor"])):
        wrong.append(f"resolution = {sides[0]}x{sides[1]}: {why}")
    if wrong:
        raise ConfigError(wrong)


def _prepared(task: "PretrainedTask", drive: str, folder: Path, sides: tuple[int, int], frames: int) -> Windows:
    fps = float(task.data.about["fps"])
    try:
        prepare_data(
            [Path(drive)], folder, codec=str(task.folder.path), sizes=[f"{sides[0]}x{sides[1]}"], frames=frames,
            fps=fps, references=1, control="draw" if "control" in task.stored else "", holdout=0.0,
            max_frames=max(frames, int(SECONDS * fps)), say=lambda note: None,
        )  # fmt: skip
    except ValueError as error:
        said = _reason(str(error))
        raise ValueError(
            f"drive = {drive!r}: {said}; give a video of at least {frames / fps:.1f} s in which one person is seen"
        ) from error
    return Windows(folder)


def _reason(said: str) -> str:
    """Why the one file was dropped, without the folder of its data set, which is gone."""
    counted = re.search(r"can be used \(1 x (.*)\); see ", said)
    return counted[1] if counted else said.splitlines()[0]


def _longest(windows: Windows) -> WindowRow:
    """The first window of the clip with the most windows."""
    counts: dict[str, int] = {}
    for row in windows.rows:
        counts[row.clip] = counts.get(row.clip, 0) + 1
    return next(row for row in windows.rows if counts[row.clip] == max(counts.values()))


def _row(windows: Windows, field: str, name: str, give: str, sides: tuple[int, int]) -> WindowRow:
    """A window of this size by "CLIP@START", or the first of "CLIP"."""
    found = [row for row in windows.rows if name in (f"{row.clip}@{row.start}", row.clip)]
    for row in found:
        if (row.height, row.width) == sides:
            return row
    if found:
        raise ValueError(
            f"resolution = {sides[0]}x{sides[1]}: {field} = {name!r} is stored as {found[0].size}; choose that, "
            f"or give {give}"
        )
    some = ", ".join(dict.fromkeys(row.clip for row in windows.rows[:9]))
    raise ValueError(
        f"{field} = {name!r}: no such file, and no such clip in {windows.folder}; give {give} or of {some}"
    )


def _text(task: "PretrainedTask", prompt: str) -> dict[str, Tensor]:
    """The padded text of a prompt that need not be in the data set."""
    if not task.family.text_length:
        return {}
    if not prompt:
        return texts(task, prompt_hash(""))
    from entprog.tasks.pretrained.text import encode_prompts

    encoded = encode_prompts(str(task.folder.path), [prompt]).texts[prompt]
    padded = task.family.padded([{name: value.float() for name, value in encoded.items()}])
    return texts(task, prompt_hash("")) | {f"{TEXT}{name}": value[0] for name, value in padded.items()}


def _reference(
    task: "PretrainedTask", wanted: Animation, sides: tuple[int, int], frames: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The reference image [3, H, W] in 0..1, and what the model takes of it."""
    if wanted.picture is None:
        row = _row(task.data, "reference", wanted.reference, "an image file", sides)
        clip = clip_of(task, row, 0, frames)
        names = set(OF_REFERENCES) & set(task.stored)
        return clip.reference, {name: clip.conditions[name] for name in names}
    image = torch.from_numpy(cut_out(wanted.picture, _rectangle(wanted.picture, sides), sides))
    codec: Any = task.codec
    if not isinstance(codec, DiffusersCodec):
        raise ValueError(f"reference = {wanted.reference!r}: this model has no VAE to encode it with; name a clip")
    with ExitStack() as stack:
        images = None
        if "image_embeds" in task.stored:
            images = image_encoder(str(task.folder.path), str(task.device), "float32", stack)
        encoders = Encoders(codec, images, first="first" in task.stored)
        found = reference_tensors(image[None], frames, encoders)
    one = {name: value[0] if value.dtype == torch.uint8 else value[0].float() for name, value in found.items()}
    return image.movedim(-1, 0).float() / 255, one


def _rectangle(picture: np.ndarray, sides: tuple[int, int]) -> tuple[int, int, int, int]:
    """The rectangle of the clip's aspect around the person, else in the middle of the picture."""
    height, width = picture.shape[:2]
    aspect = sides[1] / sides[0]
    keypoints, score = default_estimator().single(torch.from_numpy(picture)[None])
    if float(score[0]) >= FOUND_THRESHOLD:
        pixels = keypoints.numpy() * np.array([width, height, 1], np.float32)
        found = person_rectangle(pixels, width, height, aspect)
        if found is not None:
            return found
    wide = round(min(width, height * aspect))
    high = round(min(height, width / aspect))
    return (width - wide) // 2, (height - high) // 2, wide, high
