"""One video file -> the clips of one person in it, or the reason why there is none.

The file is read twice, so that memory does not grow with its length: first small, for cuts and poses, then at
full size for the pixels inside each clip's square.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entprog.data.shards import SHARD_BYTES
from entprog.poses.base import PoseEstimator, PosesUnusable, Track
from entprog.prepare.crop import (
    Box,
    crop,
    crop_keypoints,
    fill_gaps,
    find_cuts,
    histogram,
    is_jump,
    person_box,
    resize,
)
from entprog.prepare.video import Video, VideoError

Encode = Callable[[Tensor], Tensor]
Row = dict[str, Any]
Clips = dict[str, dict[str, Tensor]]

POSE_SHORT_SIDE = 512
LEAST_FOUND = 0.9
OFTEN = 0.2
"""With people = "drop", a file is dropped if a second person is in this share of the checked frames."""
ENCODE_FRAMES = 32


@dataclass(frozen=True)
class Part:
    """Frames [start, end) of a file that become one clip, and its square at full size."""

    start: int
    end: int
    box: Box
    keypoints: np.ndarray


@dataclass(frozen=True)
class Shot:
    """Frames [start, end) of a file without a cut; keypoints [n,18,3] in pixels of the full frame, where `found`."""

    start: int
    end: int
    keypoints: np.ndarray
    found: np.ndarray


@dataclass(frozen=True)
class Person:
    """The first reading of a file: one person's shots that are long and sure enough, and why others are not."""

    shots: list[Shot]
    reasons: list[str]
    size: tuple[int, int]


def prepare_file(file: Path, name: str, settings: Row, estimator: PoseEstimator, encode: Encode) -> tuple[Row, Clips]:
    """One file's row for prepare.jsonl and its clips' tensors ("latents_SIZE" and "pose") by clip name.

    Never raises for the file's content: the row then says why it was dropped.
    """
    row, person = find_person(file, name, settings, estimator, settings["min_frames"])
    row |= {"crop": None, "crops": {}}
    clips: Clips = {}
    if person is None:
        return row, clips
    parts, reasons = _parts(person, settings)
    for i, tensors in enumerate(_encode(file, parts, settings, encode)):
        clips[name if len(parts) == 1 else f"{name}-{i + 1}"] = tensors
    row["crops"] = {clip: list(part.box) for clip, part in zip(clips, parts, strict=True)}
    row["crop"] = next(iter(row["crops"].values()), None)
    return finished(row, list(clips), reasons), clips


def finished(row: Row, clips: list[str], reasons: list[str]) -> Row:
    """The row of a file with its clips, and why parts of it were left out."""
    reason = "; ".join(dict.fromkeys(reasons)) or None
    return row | {"clips": clips, "status": "kept" if clips else "dropped", "reason": reason}


def find_person(
    file: Path, name: str, settings: Row, estimator: PoseEstimator, least: int
) -> tuple[Row, Person | None]:
    """The first reading: a row with what is known of the file, and its person; None where there is none.

    `least`: frames of a shot that can be used. Never raises for the file's content.
    """
    video = Video(file, fps=settings["fps"], short_side=POSE_SHORT_SIDE)
    row: Row = {
        "source": file.resolve().as_posix(),
        "name": name,
        "status": "dropped",
        "reason": None,
        "clips": [],
    }
    row |= {"decoded_frames": 0, "fps": settings["fps"], "size": [0, 0], "rotation": 0}
    row |= {"people_max": 0, "pose_found": 0.0}
    try:
        track, cuts = _find_poses(video, estimator, settings["max_frames"])
    except VideoError as error:
        return row | {"reason": f"unreadable: {error.reason}", "decoded_frames": video.decoded}, None
    except PosesUnusable as error:
        return row | {"reason": f"poses: {error}", "decoded_frames": video.decoded}, None
    row |= {"decoded_frames": video.decoded, "rotation": video.rotation, "size": list(video.full_size)}
    if not len(track.found):
        return row | {"reason": "no frames"}, None
    looked = track.people[track.people >= 0]
    row |= {"people_max": int(looked.max()), "pose_found": round(float(track.found.mean()), 4)}
    if settings["people"] == "drop" and (looked > 1).mean() > OFTEN:
        return row | {"reason": "several people"}, None
    return row, Person(*_shots(track, cuts, video, least), video.full_size)


def _find_poses(video: Video, estimator: PoseEstimator, max_frames: int | None) -> tuple[Track, list[int]]:
    """The first reading: one person's pose in each frame, and the frames that begin a new shot."""
    tracker, histograms = estimator.tracker(video.path), []
    for frame in video:
        histograms.append(histogram(frame))
        tracker.step(frame, index=video.index, restart=len(histograms) > 1 and is_jump(histograms[-2], histograms[-1]))
        if len(histograms) == max_frames:
            break
    return tracker.result(), find_cuts(histograms)


def _shots(track: Track, cuts: list[int], video: Video, least: int) -> tuple[list[Shot], list[str]]:
    """The shots of a file that can be used, and why others cannot."""
    scale = video.full_size[0] / video.size[0]
    keypoints = track.keypoints * np.array([scale, scale, 1], np.float32)
    shots, reasons = [], []
    for start, end in pairwise([0, *cuts, len(track.found)]):
        known = np.flatnonzero(track.found[start:end])
        if not len(known):
            reasons.append("no person found")
            continue
        # frames before the first and after the last pose are of no use
        start, end = start + int(known[0]), start + int(known[-1]) + 1
        found = track.found[start:end]
        if end - start < least:
            reasons.append(f"shorter than {least} frames")
            continue
        if found.mean() < LEAST_FOUND:
            reasons.append(f"pose found in fewer than {LEAST_FOUND:.0%} of the frames")
            continue
        shots.append(Shot(start, end, keypoints[start:end], found))
    return shots, reasons


def _parts(person: Person, settings: Row) -> tuple[list[Part], list[str]]:
    """The clips of a file, and why shots were left out."""
    sizes, least = settings["sizes"], settings["min_frames"]
    frame_bytes = sum(2 * size * size for size in sizes) + 18 * 3 * 4
    longest = max(least, SHARD_BYTES // frame_bytes // 2)
    parts, reasons = [], list(person.reasons)
    for shot in person.shots:
        box = person_box(shot.keypoints[shot.found], *person.size)
        if box is None or box[2] < max(sizes) / 2:
            reasons.append("person too small")
            continue
        filled = crop_keypoints(fill_gaps(shot.keypoints, shot.found), box)
        for first in range(shot.start, shot.end, longest):
            last = min(first + longest, shot.end)
            if last - first >= least:
                parts.append(Part(first, last, box, filled[first - shot.start : last - shot.start]))
    return parts, reasons


def _encode(file: Path, parts: list[Part], settings: Row, encode: Encode) -> Iterator[dict[str, Tensor]]:
    """The second reading: each part's tensors, in order."""
    if not parts:
        return
    frames, position = iter(Video(file, fps=settings["fps"])), -1
    for part in parts:
        latents: dict[int, list[Tensor]] = {size: [] for size in settings["sizes"]}
        squares: list[np.ndarray] = []
        while position < part.end - 1:
            frame, position = next(frames), position + 1
            if position >= part.start:
                squares.append(crop(frame, part.box))
            if squares and (len(squares) == ENCODE_FRAMES or position == part.end - 1):
                batch = torch.from_numpy(np.stack(squares))
                for size, encoded in latents.items():
                    encoded.append(_checked(encode(resize(batch, size)), len(batch), size))
                squares = []
        tensors = {f"latents_{size}": torch.cat(encoded) for size, encoded in latents.items()}
        yield tensors | {"pose": torch.from_numpy(part.keypoints)}


def _checked(latents: Tensor, frames: int, size: int) -> Tensor:
    expected = (frames, 16, size // 4, size // 4)
    if tuple(latents.shape) != expected:
        raise ValueError(f"encode: gave {tuple(latents.shape)} for {frames} frames of {size} px; expected {expected}")
    return latents.to(torch.float16).cpu()
