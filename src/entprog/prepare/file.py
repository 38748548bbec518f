"""One video file -> the clips of one person in it, or the reason why there is none.

The file is read twice, so that memory does not grow with its length: first small, for cuts and poses (`person`), then
at full size for the pixels inside each clip's square. Clips are handed on a few frames at a time.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from entprog.data.shards import SHARD_BYTES
from entprog.poses.base import PoseEstimator
from entprog.prepare.crop import Box, crop, crop_keypoints, fill_gaps, person_box, resize
from entprog.prepare.outcome import EndedEarlyError, Outcome, finished, left_out, parts_of, unreadable
from entprog.prepare.person import NOBODY, Piece, Row, find_person
from entprog.prepare.quality import wrong_length, wrong_size
from entprog.prepare.video import Video, VideoError

Encode = Callable[[Tensor], Tensor]
Tensors = dict[str, Tensor]
Clips = dict[str, Tensors]
Keep = Callable[[str, Tensors], None]
"""Takes the next frames of a clip: its name, and tensors whose first axis is frames."""

ENCODE_FRAMES = 32
"""Frames that are encoded and handed on at once."""


@dataclass(frozen=True)
class Part:
    """Frames [start, end) of a file that become one clip.

    Attributes:
        box: its square at full size.
        points: by the name that is stored, keypoints [n,J,3] in units of the square: x, y, confidence.
    """

    start: int
    end: int
    box: Box
    points: dict[str, np.ndarray]


def prepare_file(
    file: Path, name: str, settings: Row, estimator: PoseEstimator, encode: Encode, keep: Keep | None = None
) -> tuple[Row, Clips]:
    """One file's row for prepare.jsonl and its clips' tensors by clip name.

    Tensors are "latents_SIZE" and "pose", and "hand_keypoints" and "face_keypoints" where the estimator gives them.
    With `keep` they go there instead, at most ENCODE_FRAMES frames of a clip at once and clip by clip, and the
    returned clips are empty; if the row then says "dropped", nothing that was given to `keep` counts.

    Never raises for the file's content: the row then says why it was dropped.
    """
    row, person = find_person(file, name, settings, estimator, settings["min_frames"])
    row |= {"crop": None, "crops": {}}
    if person is None:
        return row, {}
    outcomes = [outcome for piece in person.pieces for outcome in _parts(piece, person.size, settings)]
    parts = parts_of(outcomes, name)
    person.pieces.clear()  # the parts have their own keypoints, in units of their squares
    clips: dict[str, list[Tensors]] = {clip: [] for clip in parts}
    try:
        for clip, tensors in _encode(person.frames or Video(file, fps=settings["fps"]), parts, settings, encode):
            if keep is None:
                clips[clip].append(tensors)
            else:
                keep(clip, tensors)
    except (VideoError, EndedEarlyError) as error:
        return unreadable(row, error), {}
    row["crops"] = {clip: list(part.box) for clip, part in parts.items()}
    row["crop"] = next(iter(row["crops"].values()), None)
    joined = {clip: {key: torch.cat([t[key] for t in some]) for key in some[0]} for clip, some in clips.items() if some}
    return finished(row, outcomes, list(parts), person.remarks), joined


def _parts(piece: Piece, size: tuple[int, int], settings: Row) -> list[Outcome[Part]]:
    """What becomes of a piece: its clips, which are as long as half a shard at most, and what is left out."""
    if piece.reason is not None:
        return [left_out(piece, piece.reason)]
    box = person_box(piece.keypoints[piece.found], *size)
    small = wrong_size(0 if box is None else box[2], max(settings["sizes"]) / 2)
    if box is None or small is not None:
        return [left_out(piece, small or NOBODY)]
    points = {"pose": piece.keypoints, "hand_keypoints": piece.hands, "face_keypoints": piece.face}
    filled = {n: crop_keypoints(fill_gaps(p, piece.found), box) for n, p in points.items() if p is not None}
    frame_bytes = sum(2 * side * side for side in settings["sizes"]) + 18 * 3 * 4
    longest, least = max(settings["min_frames"], SHARD_BYTES // frame_bytes // 2), settings["min_frames"]
    outcomes = []
    for first in range(piece.start, piece.end, longest):
        last = min(first + longest, piece.end)
        own = {name: values[first - piece.start : last - piece.start] for name, values in filled.items()}
        short = wrong_length(last - first, least)
        part = None if short else Part(first, last, box, own)
        outcomes.append(Outcome(first, last, piece.after, short, part, piece.subject))
    return outcomes


def _encode(
    video: Iterable[np.ndarray], parts: dict[str, Part], settings: Row, encode: Encode
) -> Iterator[tuple[str, Tensors]]:
    """The second reading: the frames of each clip in order, at most ENCODE_FRAMES at once.

    Raises:
        EndedEarlyError: while iterating.
    """
    frames = enumerate(video)
    for clip, part in parts.items():
        squares: dict[int, list[Tensor]] = {size: [] for size in settings["sizes"]}
        done = part.start
        for position, frame in frames:
            if position < part.start:
                continue
            square = torch.from_numpy(crop(frame, part.box))[None]
            for size, some in squares.items():
                some.append(resize(square, size))
            count, last = position + 1 - done, position == part.end - 1
            if count == ENCODE_FRAMES or last:
                own = slice(done - part.start, position + 1 - part.start)
                tensors = {f"latents_{s}": _checked(encode(torch.cat(some)), count, s) for s, some in squares.items()}
                yield clip, tensors | {name: torch.from_numpy(values[own]) for name, values in part.points.items()}
                squares, done = {size: [] for size in squares}, position + 1
            if last:
                break
        else:
            raise EndedEarlyError("it has fewer frames at the second reading")


def _checked(latents: Tensor, frames: int, size: int) -> Tensor:
    expected = (frames, 16, size // 4, size // 4)
    if tuple(latents.shape) != expected:
        raise ValueError(f"encode: gave {tuple(latents.shape)} for {frames} frames of {size} px; expected {expected}")
    return latents.to(torch.float16).cpu()
