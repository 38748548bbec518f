"""The first reading of a file: one person's track, in pieces that are judged one by one."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from entprog.poses.base import PoseEstimator, PosesUnusable, Track
from entprog.prepare.crop import VISIBLE, cuts_of
from entprog.prepare.measures import Measures
from entprog.prepare.pieces import CUT, LONGEST_GAP, PAUSE, Span, split_track, subjects_of
from entprog.prepare.quality import (
    MIN_SHARPNESS,
    REPEATS,
    Reason,
    wrong_length,
    wrong_people,
    wrong_picture,
    wrong_pose,
)
from entprog.prepare.video import LONGEST_PAUSE, Video, VideoError

Row = dict[str, Any]

POSE_SHORT_SIDE = 512
KEPT_BYTES = 96 * 2**20
"""The frames of a file are kept for the second reading if they are as small as the first needs them, and fit here."""
NOBODY = Reason("no person found")
UNSURE = Reason("two people cannot be told apart")


@dataclass(frozen=True)
class Piece:
    """Frames [start, end) of a file that show one person, or nobody.

    Attributes:
        keypoints: [n,18,3] in pixels of the full frame, where `found` [n]; empty for nobody.
        hands, face: [n,42,3] and [n,68,3], as `keypoints`; None where the estimator does not give them.
        reason: why it is not used; None if it can be.
        after: why it begins where it does (`pieces.Span`).
        subject: pieces of one number show a torso of like colours, so probably one person.
        skipped: seconds of the file that were cut out before it.
    """

    start: int
    end: int
    keypoints: np.ndarray
    found: np.ndarray
    hands: np.ndarray | None = None
    face: np.ndarray | None = None
    reason: Reason | None = None
    after: str = ""
    subject: int = 0
    skipped: float = 0.0


@dataclass(frozen=True)
class Person:
    """What the first reading found.

    Attributes:
        pieces: in order; each is used but for those with a reason.
        size: (width, height) of the full frame.
        remarks: what is said of the whole file beside the reasons of its pieces.
        frames: all frames at full size where they are few and small, so that the file need not be read again.
    """

    pieces: list[Piece]
    size: tuple[int, int]
    remarks: list[str]
    frames: list[np.ndarray] | None = None


def find_person(
    file: Path, name: str, settings: Row, estimator: PoseEstimator, least: int
) -> tuple[Row, Person | None]:
    """The first reading: a row with what is known of the file, and its person; None where nothing was read.

    `least`: frames of a piece that can be used. Never raises for the file's content.
    """
    pause = settings.get("longest_pause", LONGEST_PAUSE)
    video = Video(file, fps=settings["fps"], short_side=POSE_SHORT_SIDE, longest_pause=pause)
    row: Row = {
        "source": file.resolve().as_posix(),
        "name": name,
        "status": "dropped",
        "reason": None,
        "clips": [],
    }
    row |= {"decoded_frames": 0, "fps": settings["fps"], "size": [0, 0], "rotation": 0}
    row |= {"people_max": 0, "pose_found": 0.0, "notes": [], "pieces": []}
    try:
        track, measures, frames = _read(video, estimator, settings["max_frames"])
    except VideoError as error:
        return row | {"reason": f"unreadable: {error.reason}", "decoded_frames": video.decoded}, None
    except PosesUnusable as error:
        return row | {"reason": f"poses: {error}", "decoded_frames": video.decoded}, None
    row |= {"decoded_frames": video.decoded, "rotation": video.rotation, "size": list(video.full_size)}
    repeats = _repeats(measures, settings["fps"])
    notes = [*video.notes, *track.notes]
    row["notes"] = notes if any("repeat the one before" in note for note in notes) else [*notes, *repeats]
    if not len(track.found):
        return row | {"reason": "no frames"}, None
    counted = track.people[track.people >= 0]
    row |= {"people_max": int(counted.max(initial=0)), "pose_found": round(float(track.found.mean()), 4)}
    remarks = ["most frames repeat the one before"] if repeats else []
    return row, Person(_pieces(track, measures, video, settings, least), video.full_size, remarks, frames)


def _read(
    video: Video, estimator: PoseEstimator, max_frames: int | None
) -> tuple[Track, Measures, list[np.ndarray] | None]:
    """One person's pose in each frame, what else is measured of it, and the frames, if they may be kept."""
    tracker, measures = estimator.tracker(video.path), Measures()
    frames: list[np.ndarray] | None = []
    for frame in video:
        restart = measures.may_be_cut(frame) or len(measures) - 1 in video.breaks[-1:]
        measures.add(frame, tracker.step(frame, index=video.index, restart=restart))
        if frames is not None and video.size == video.full_size and (len(frames) + 1) * frame.nbytes <= KEPT_BYTES:
            frames.append(frame)
        else:
            frames = None
        if len(measures) == max_frames:
            break
    return tracker.result(), measures, frames


def _repeats(measures: Measures, fps: float) -> list[str]:
    """A sentence if most frames only repeat the one before, as with a video of fewer frames a second."""
    repeated = int((measures.motion[1:] == 0).sum())
    if len(measures) < 2 or repeated <= REPEATS * (len(measures) - 1):
        return []
    rate = fps * (len(measures) - repeated) / len(measures)
    return [f"{repeated} of {len(measures)} frames repeat the one before ({rate:.3g} different ones a second)"]


def _pieces(track: Track, measures: Measures, video: Video, settings: Row, least: int) -> list[Piece]:
    """All frames of the file in pieces, with the stretches that show nobody."""
    breaks = {edge: PAUSE for edge in video.breaks} | {edge: CUT for edge in cuts_of(measures.changes)}
    found = track.found & ~_outside(track.keypoints, *video.size)
    spans = split_track(track.keypoints, found, track.people, measures.colours, settings["fps"], breaks)
    scale = np.array([video.full_size[0] / video.size[0]] * 2 + [1], np.float32)
    subjects = subjects_of([measures.colours[span.start : span.end] for span in spans])
    pieces, shots = [], sorted({0, *(edge for edge in breaks if edge < len(track.found)), len(track.found)})
    for span, subject in zip(spans, subjects, strict=True):
        chosen = slice(span.start, span.end)
        hands, face = (None if points is None else points[chosen] * scale for points in (track.hands, track.face))
        reason = (
            wrong_length(span.end - span.start, least)
            or wrong_pose(span.found)
            or wrong_people(track.people[chosen], settings["people"])
            or wrong_picture(
                measures.motion[span.start + 1 : span.end],
                measures.sharpness[chosen],
                settings.get("min_sharpness", MIN_SHARPNESS),
            )
        )
        keypoints = track.keypoints[chosen] * scale
        pieces.append(
            Piece(
                span.start, span.end, keypoints, span.found, hands, face, reason, span.after, subject,
                video.skipped(span.start),
            )
        )  # fmt: skip
    return sorted([*pieces, *_between(spans, shots, found)], key=lambda piece: piece.start)


def _outside(keypoints: np.ndarray, width: int, height: int) -> np.ndarray:
    """The frames [F] in which all that is visible of the person [F,18,3] lies outside the picture."""
    seen = keypoints[..., 2] >= VISIBLE
    inside = ((keypoints[..., :2] >= 0) & (keypoints[..., :2] <= [width, height])).all(2)
    return np.asarray(seen.any(1) & ~(seen & inside).any(1))


def _between(spans: list[Span], shots: list[int], found: np.ndarray) -> list[Piece]:
    """The stretches that no piece has: whole shots, and parts of one that are longer than a gap that is filled."""
    nothing = np.zeros((0, 18, 3), np.float32), np.zeros(0, bool)
    edges = sorted({*shots, *(span.start for span in spans), *(span.end for span in spans)})
    taken, whole = {span.start for span in spans}, set(pairwise(shots))
    return [
        Piece(
            start,
            end,
            *nothing,
            reason=UNSURE if found[start:end].any() else replace(NOBODY, told=(start, end) in whole),
        )
        for start, end in pairwise(edges)
        if start not in taken and (end - start > LONGEST_GAP or (start, end) in whole)
    ]
