"""Pose files beside videos: where they lie, and what is in them, in the formats of OpenPose, DWPose and MMPose.

OpenPose         VIDEO_keypoints/VIDEO_000000000000_keypoints.json ...: one file a frame, {"people": [...]}
DWPose scripts   VIDEO.json: a list with such an entry for each frame, often with canvas_width and canvas_height
MMPose, rtmlib   VIDEO.json: {"instance_info": [{"frame_id": 1, "instances": [...]}]}, or that list alone
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from entprog.poses._wholebody import POINTS, from_wholebody
from entprog.poses.base import FACE_POINTS, HAND_POINTS, PosesUnusable, rescaled

FOLDERS = ("{}_keypoints", "{}_json", "{}_pose", "{}_poses", "{}")
FILES = ("{}.json", "{}_keypoints.json", "{}_pose.json", "{}_poses.json")
BODY_25 = (*range(8), *range(9, 19))
"""BODY_25's index of each OpenPose-18 keypoint."""
OPENPOSE_THRESHOLD = 0.1
"""Confidence from which a keypoint of OpenPose counts as seen; DWPose's scripts write 0 or 1."""
MMPOSE_THRESHOLD = 0.3
LOOKED_AT = 100
"""Frames with people that decide whether coordinates are pixels or shares of the picture."""
UNIT = 2.0
"""Coordinates that are all below this are shares of the picture: a person of two pixels is none."""


@dataclass(frozen=True)
class FramePoses:
    """The people of one frame, each [128,3] as stored, in the file's coordinates; canvas: width and height."""

    people: list[np.ndarray] = field(default_factory=list)
    canvas: tuple[float, float] | None = None


class Sidecar:
    """The poses of one video by the number of the frame.

    Attributes:
        path: the file, or the folder.
        frames: highest number of a frame, plus one.
        unit: coordinates are shares of the picture, 0..1.
    """

    def __init__(self, path: Path, threshold: float | None = None) -> None:
        self.path, self.threshold = path, threshold
        self._files: dict[int, Path] = {}
        self._entries: dict[int, Any] = {}
        if path.is_dir():
            self._files = _numbered(path)
        else:
            self._entries = _entries(_loaded(path), path)
        numbers = self._files or self._entries
        if not numbers:
            raise PosesUnusable(f"{path.name} has no frames")
        self.frames = max(numbers) + 1
        seen = (frame for frame in map(self.frame, sorted(numbers)) if frame and frame.people)
        tops = [_top(person) for frame in islice(seen, LOOKED_AT) for person in frame.people]
        self.unit = bool(tops) and max(tops) < UNIT

    def frame(self, number: int) -> FramePoses | None:
        """The people of a frame; None where nothing is written about it.

        Raises:
            PosesUnusable: what is written cannot be read.
        """
        if number in self._files:
            file = self._files[number]
            entry = _loaded(file)
            if isinstance(entry, list) and len(entry) == 1 and {"people", "instances"} & set(entry[0] or ()):
                entry = entry[0]  # a list of one frame; else a list of instances
            return _poses(entry, file.name, self.threshold)
        if number in self._entries:
            return _poses(self._entries[number], f"{self.path.name}, frame {number}", self.threshold)
        return None


def find_sidecar(source: Path, folder: Path | None = None) -> Path:
    """The file or folder with the poses of a video: beside it, or in `folder`.

    Raises:
        PosesUnusable: there is none.
    """
    place, stem = folder or source.parent, source.stem if source.is_file() else source.name
    for pattern in FOLDERS:
        path = place / pattern.format(stem)
        if path != source and path.is_dir() and any(path.glob("*.json")):
            return path
    for pattern in FILES:
        path = place / pattern.format(stem)
        if path.is_file():
            return path
    raise PosesUnusable(f"no pose file: neither {stem}_keypoints/ nor {stem}.json in {place.name or place}/")


def _numbered(folder: Path) -> dict[int, Path]:
    """The files of a folder by the number of their frame, from 0.

    Numbers that begin with 1 and have no gap are taken to count from 1, as numbered pictures do.
    """
    found: dict[int, Path] = {}
    for file in sorted(folder.glob("*.json")):
        digits = re.findall(r"\d+", file.stem)
        if not digits:
            raise PosesUnusable(f"{folder.name}/{file.name} has no number of a frame in its name")
        if int(digits[-1]) in found:
            raise PosesUnusable(f"{folder.name} has two files for frame {int(digits[-1])}")
        found[int(digits[-1])] = file
    if found and min(found) == 1 and max(found) == len(found):
        return {number - 1: file for number, file in found.items()}
    return found


def _loaded(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise PosesUnusable(f"{file.name} cannot be read as JSON ({error})") from error


def _entries(content: Any, path: Path) -> dict[int, Any]:
    """What a file of the whole video says of each frame."""
    if isinstance(content, dict):
        content = content.get("instance_info", content.get("frames", content))
    if isinstance(content, dict) and "people" not in content:
        content = [{**entry, "frame_id": int(key)} for key, entry in _numbered_keys(content, path)]
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not all(isinstance(entry, dict | list | None) for entry in content):
        raise PosesUnusable(f"{path.name} is in no known format: neither a list of frames nor instance_info")
    given = [entry.get("frame_id") if isinstance(entry, dict) else None for entry in content]
    numbers = [number for number in given if isinstance(number, int)]
    if content and len(numbers) == len(content):
        least = min(numbers)
        first = 1 if least == 1 and max(numbers) == len(numbers) else 0
        return {number - first: entry for number, entry in zip(numbers, content, strict=True)}
    return dict(enumerate(content))


def _numbered_keys(content: dict[str, Any], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """{"0": {...}, "1": {...}}: frames by number."""
    for key, entry in content.items():
        if not (key.isascii() and key.isdigit() and isinstance(entry, dict)):
            raise PosesUnusable(f"{path.name} is in no known format: {key!r} is neither people nor a frame's number")
        yield key, entry


def _poses(entry: Any, where: str, threshold: float | None) -> FramePoses:
    """The people of one frame's entry."""
    if entry is None:
        return FramePoses()
    try:
        if isinstance(entry, list) or "instances" in entry:
            instances = entry if isinstance(entry, list) else entry["instances"]
            people = [_of_mmpose(one, MMPOSE_THRESHOLD if threshold is None else threshold) for one in instances]
            return FramePoses(people)
        people = [_of_openpose(one, OPENPOSE_THRESHOLD if threshold is None else threshold) for one in entry["people"]]
        sides = entry.get("canvas_width"), entry.get("canvas_height")
        canvas = (float(sides[0]), float(sides[1])) if all(sides) else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise PosesUnusable(f"{where}: not as OpenPose, DWPose or MMPose write it ({reason})") from error
    return FramePoses(people, canvas)


def _of_openpose(person: dict[str, Any], threshold: float) -> np.ndarray:
    """One of "people" as [128,3]; hands and face are zero where they are missing."""
    body = _triples(person["pose_keypoints_2d"], (18, 25), "pose_keypoints_2d")
    found = np.zeros((POINTS, 3), np.float32)
    found[:18] = body[list(BODY_25)] if len(body) == 25 else body
    for start, side in ((18, "left"), (18 + HAND_POINTS // 2, "right")):
        name = f"hand_{side}_keypoints_2d"
        if person.get(name):
            found[start : start + HAND_POINTS // 2] = _triples(person[name], (HAND_POINTS // 2,), name)
    if person.get("face_keypoints_2d"):
        face = _triples(person["face_keypoints_2d"], (FACE_POINTS, FACE_POINTS + 2), "face_keypoints_2d")
        found[18 + HAND_POINTS :] = face[:FACE_POINTS]  # OpenPose adds the pupils
    return _clean(found, rescaled(found[:, 2], threshold))


def _of_mmpose(person: dict[str, Any], threshold: float) -> np.ndarray:
    """One of "instances", of 17 or 133 keypoints, as [128,3]."""
    points = np.asarray(person["keypoints"], np.float32)
    if points.ndim != 2 or points.shape[0] not in (17, 133) or points.shape[1] not in (2, 3):
        raise ValueError(f"keypoints {list(points.shape)}; known are 17 (COCO) and 133 (COCO-WholeBody)")
    given = person["keypoint_scores"] if points.shape[1] == 2 else points[:, 2]
    confidence = np.asarray(given, np.float32).reshape(-1)
    if len(confidence) != len(points):
        raise ValueError(f"{len(points)} keypoints, but {len(confidence)} scores")
    whole, sure = np.zeros((133, 2), np.float32), np.zeros(133, np.float32)
    whole[: len(points)], sure[: len(points)] = points[:, :2], confidence
    found = from_wholebody(whole, sure, threshold)
    return _clean(found, found[:, 2])


def _triples(values: Any, counts: tuple[int, ...], name: str) -> np.ndarray:
    """A flat list x y confidence ... as [P,3]; None for a keypoint's numbers means that it was not found."""
    flat = np.asarray([0.0 if value is None else value for value in values], np.float32)
    if flat.ndim != 1 or len(flat) % 3 or len(flat) // 3 not in counts:
        known = " or ".join(str(3 * count) for count in counts)
        raise ValueError(f"{name} has {flat.size} numbers, not {known}")
    return flat.reshape(-1, 3)


def _clean(points: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Keypoints without a finite place have no confidence, and lie at 0."""
    finite = np.isfinite(points[:, :2]).all(1) & (confidence > 0)
    places = np.where(finite[:, None], points[:, :2], 0)
    return np.concatenate([places, np.where(finite, confidence, 0)[:, None]], 1).astype(np.float32)


def _top(person: np.ndarray) -> float:
    """The largest coordinate of the keypoints that were found, by its size; 0 where there is none."""
    seen = person[person[:, 2] > 0, :2]
    return float(np.abs(seen).max()) if len(seen) else 0.0
