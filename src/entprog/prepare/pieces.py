"""One person's track through a file -> pieces in which it is one and the same person, seen all the time.

A piece ends where the picture is cut or pauses, where the person is lost for longer than a gap that is filled, where
position or scale jump by more than a person can move between two frames, and where, with several people in view, the
colours of the torso change: the tracking then went over to another person.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from entprog.prepare.crop import VISIBLE

NECK, NOSE, SHOULDERS, HIPS = 1, 0, (2, 5), (8, 11)
LONGEST_GAP = 3
"""Frames without a pose that are filled (`crop.fill_gaps`)."""
FASTEST = 12.0
"""Torso lengths a second (about 6 m/s) that the neck may move unforeseen, that is, beyond going on as before."""
LEAST_REACH, MOST_REACH = 0.5, 1.5
"""Bounds of the same between two frames, in torso lengths: the noise of poses, and the distance between two people."""
FORESEEN = 1.8
"""A movement that goes on as before may be larger than an unforeseen one by this factor."""
RATIO = 1.6
"""Factor by which the scale of a person may change between two frames."""
COLOUR_CHANGE = 20.0
"""Change of the torso's mean colour (CIELAB) that makes it another person's."""
MEMORY = 2.0
"""Seconds of colours that a frame is compared with, and for which a second person counts as near."""
LASTING = 0.4
"""Seconds for which the colours must stay changed."""

CUT, PAUSE, LOST, JUMP, COLOURS = "cut", "pause", "lost", "jump", "colours"


@dataclass(frozen=True)
class Span:
    """Frames [start, end) of a file with one person; both ends have a pose.

    Attributes:
        found: [end - start], where there is a pose that can be used; gaps have at most LONGEST_GAP frames.
        after: why the track begins anew here: "" at the file's first, else CUT, PAUSE, LOST, JUMP or COLOURS.
    """

    start: int
    end: int
    found: np.ndarray
    after: str


def split_track(
    keypoints: np.ndarray,
    found: np.ndarray,
    people: np.ndarray,
    colours: np.ndarray,
    fps: float,
    breaks: Mapping[int, str],
) -> list[Span]:
    """The pieces of a track, in order. Frames between them show nobody, or nobody for certain.

    Args:
        keypoints: [F,18,3] in pixels, of one scale throughout.
        found: [F], frames with a pose.
        people: [F], people in the frame, -1 where they were not counted.
        colours: [F,3], mean colour of the torso, NaN where it is unknown.
        breaks: frames that begin a new shot, and why: CUT or PAUSE.
    """
    spans: list[Span] = []
    scales, several = scale_of(keypoints), _near(people >= 2, round(MEMORY * fps))
    edges = [0, *sorted(edge for edge in breaks if 0 < edge < len(found)), len(found)]
    for start, end in pairwise(edges):
        after = breaks.get(start, "")
        for part, why in _continuous(keypoints, scales, np.flatnonzero(found[start:end]) + start, fps):
            for frames, reason in _same_colours(part, colours, several, fps):
                usable = np.zeros(frames[-1] + 1 - frames[0], bool)
                usable[frames - frames[0]] = True
                spans.append(Span(int(frames[0]), int(frames[-1]) + 1, usable, reason or why or after))
    return spans


def scale_of(keypoints: np.ndarray) -> np.ndarray:
    """Length of the torso in each frame [F], of keypoints [F,18,3]; from the shoulders or the head where they say more.

    Those that are visible count, or all where none is. 0 where there is nothing to measure.
    """
    neck = keypoints[:, NECK]
    hips, shoulders = keypoints[:, list(HIPS)], keypoints[:, list(SHOULDERS)]
    lengths = np.stack(
        [
            np.linalg.norm(neck[:, :2] - hips[..., :2].mean(1), axis=1),
            1.2 * np.linalg.norm(shoulders[:, 0, :2] - shoulders[:, 1, :2], axis=1),
            1.6 * np.linalg.norm(neck[:, :2] - keypoints[:, NOSE, :2], axis=1),
        ],
        1,
    )
    sure = np.stack(
        [
            np.minimum(neck[:, 2], hips[..., 2].min(1)),
            shoulders[..., 2].min(1),
            np.minimum(neck[:, 2], keypoints[:, NOSE, 2]),
        ],
        1,
    )
    seen = np.where(sure >= VISIBLE, lengths, 0).max(1)
    return np.where(seen > 0, seen, np.where(sure > 0, lengths, 0).max(1))


def _near(frames: np.ndarray, reach: int) -> np.ndarray:
    """Where one of `frames` [F] is at most `reach` frames away."""
    total = np.concatenate([[0], np.cumsum(frames)])
    place = np.arange(len(frames))
    return (total[np.minimum(place + reach + 1, len(frames))] - total[np.maximum(place - reach, 0)]) > 0


class _Path:
    """The last movement of a person: what the next one is judged by."""

    def __init__(self, keypoints: np.ndarray, scales: np.ndarray, fps: float) -> None:
        self.keypoints, self.scales = keypoints, scales
        self.reach = float(np.clip(FASTEST / fps, LEAST_REACH, MOST_REACH))
        self.recent = max(2, round(fps))

    def joins(self, before: list[int], frame: int) -> bool:
        """Whether the person of the frames `before` can be where the one of `frame` is."""
        last = before[-1]
        usual = float(np.median(self.scales[before[-self.recent :]]))
        sizes = sorted((float(self.scales[last]), float(self.scales[frame])))
        if sizes[1] > RATIO * sizes[0] and sizes[1] - sizes[0] > 0.4 * usual:
            return False
        step = self._movement(last, frame)
        if step is None:
            return True
        gap = frame - last
        bound = self.reach * min(usual, max(float(self.scales[frame]), 0.5 * usual)) * np.sqrt(gap)
        far = float(np.linalg.norm(step))
        if far <= bound:
            return True
        if far > FORESEEN * bound:
            return False
        previous = self._movement(before[-2], last) if len(before) > 1 else None
        if previous is None:
            return True
        return float(np.linalg.norm(step - previous * gap / (last - before[-2]))) <= bound

    def _movement(self, a: int, b: int) -> np.ndarray | None:
        """How far the neck moved, or where it is unknown the middle of what both frames show; None without either."""
        first, second = self.keypoints[a], self.keypoints[b]
        both = np.minimum(first[:, 2], second[:, 2]) > 0
        if not both.any():
            return None
        moved = second[:, :2] - first[:, :2]
        return np.asarray(moved[NECK] if both[NECK] else np.median(moved[both], 0))


def _continuous(
    keypoints: np.ndarray, scales: np.ndarray, frames: np.ndarray, fps: float
) -> list[tuple[np.ndarray, str]]:
    """Frames with a pose [n] in runs without a long gap or a jump, each with why it does not go on from the last."""
    path, runs, reasons = _Path(keypoints, scales, fps), list[list[int]](), list[str]()
    for frame in map(int, frames):
        if not runs:
            reason = ""
        elif frame - runs[-1][-1] > LONGEST_GAP + 1:
            reason = LOST
        elif not path.joins(runs[-1], frame):
            reason = JUMP
        else:
            runs[-1].append(frame)
            continue
        # a pose that was wrong for a few frames: the person is where they were before
        back = next((k for k in _recent(runs, frame) if path.joins(runs[k], frame)), None)
        if back is not None:
            del runs[back + 1 :], reasons[back + 1 :]
            runs[back].append(frame)
            continue
        runs.append([frame])
        reasons.append(reason)
    return [(np.array(run), reason) for run, reason in zip(runs, reasons, strict=True)]


def _recent(runs: list[list[int]], frame: int) -> list[int]:
    """Runs before the last that end so shortly before a frame that the gap would be filled, the latest first."""
    near = []
    for k in range(len(runs) - 2, -1, -1):
        if frame - runs[k][-1] > LONGEST_GAP + 1:
            break
        near.append(k)
    return near


def _same_colours(
    frames: np.ndarray, colours: np.ndarray, several: np.ndarray, fps: float
) -> list[tuple[np.ndarray, str]]:
    """A run's frames in parts in which the torso keeps its colours, where several people are near.

    The frames in between, which look like neither part, are left out.
    """
    known = frames[np.isfinite(colours[frames]).all(1)]
    memory, lasting = max(2, round(MEMORY * fps)), max(2, round(LASTING * fps))
    parts, begin, changed = list[tuple[np.ndarray, str]](), int(frames[0]), list[int]()
    same: list[int] = []
    reason = ""
    for frame in map(int, known):
        if several[frame] and len(same) >= lasting and _apart(colours[frame], colours[same[-memory:]]) > COLOUR_CHANGE:
            changed.append(frame)
            if len(changed) == lasting:
                parts.append((frames[(frames >= begin) & (frames <= same[-1])], reason))
                # the new colours from where they are those that stayed
                new = np.median(colours[changed], 0)
                alike = [f for f in changed if np.linalg.norm(colours[f] - new) <= COLOUR_CHANGE / 2]
                begin, reason = (alike or changed[-1:])[0], COLOURS
                same, changed = [f for f in changed if f >= begin], []
            continue
        changed = []
        same.append(frame)
    # the last frames are another person's, if they are too few to be sure
    rest = frames[frames >= begin] if not changed else frames[(frames >= begin) & (frames <= same[-1])]
    return [*parts, (rest, reason)] if len(rest) else parts


def subjects_of(colours: Sequence[np.ndarray]) -> list[int]:
    """A number for each piece, equal for those whose torso has like colours: they may show one person.

    A piece of unknown colours has a number of its own.

    Args:
        colours: of each piece, [F,3], NaN where it is unknown.
    """
    numbers, usual = list[int](), list[np.ndarray]()
    for some in colours:
        known = some[np.isfinite(some).all(1)]
        here = np.median(known, 0) if len(known) else np.full(3, np.nan)
        near = [float(np.linalg.norm(here - other)) for other in usual]
        best = min(range(len(near)), key=lambda k: near[k] if near[k] <= COLOUR_CHANGE else np.inf, default=len(near))
        if best < len(near) and near[best] <= COLOUR_CHANGE:
            numbers.append(best)
        else:
            numbers.append(len(usual))
            usual.append(here)
    return numbers


def _apart(colour: np.ndarray, usual: np.ndarray) -> float:
    return float(np.linalg.norm(colour - np.median(usual, 0)))
