"""A stand-in for pose estimators: people are painted into the frames, and a script says whose pose is found where."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entprog.poses.blazepose import Track

BODY = np.array(
    [
        [0, -0.35], [0, 0], [-0.3, 0], [-0.4, 0.5], [-0.4, 0.9], [0.3, 0], [0.4, 0.5], [0.4, 0.9], [-0.2, 1],
        [-0.2, 1.8], [-0.2, 2.6], [0.2, 1], [0.2, 1.8], [0.2, 2.6], [-0.1, -0.45], [0.1, -0.45], [-0.2, -0.4],
        [0.2, -0.4],
    ],
    np.float32,
)  # fmt: skip
"""Keypoints of an upright person around the neck; the torso has length 1."""

Place = tuple[float, float, float]
"""x and y of the neck, and the length of the torso, in pixels."""


def keypoints_at(place: Place, confidence: float = 1.0) -> np.ndarray:
    x, y, torso = place
    points = np.full((18, 3), confidence, np.float32)
    points[:, :2] = BODY * torso + [x, y]
    return points


def painted(
    count: int, size: tuple[int, int], people: Callable[[int], Sequence[tuple[Place, tuple[int, int, int]]]]
) -> np.ndarray:
    """Frames [count,height,width,3] with people as coloured boxes in front of a wall with stripes and some noise."""
    height, width = size
    noise = np.random.default_rng(0)
    frames = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        frames[i] = 90 + 60 * ((np.arange(width) // 4) % 2)[:, None]
        for (x, y, torso), colour in people(i):
            left, right = max(0, round(x - 0.4 * torso)), max(0, round(x + 0.4 * torso))
            top, bottom = max(0, round(y - 0.5 * torso)), max(0, round(y + 2.7 * torso))
            frames[i, top:bottom, left:right] = colour
        frames[i] += noise.integers(0, 6, (height, width, 1), dtype=np.uint8)
    return frames


class StandIn:
    """Tracks what the script says: for each frame the place of the person (None: not found) and how many there are."""

    def __init__(self, script: Callable[[int], tuple[Place | None, int]], *, hands: bool = False) -> None:
        self.script, self.hands = script, hands
        self.restarts: list[int] = []

    def tracker(self, source: Path | None = None) -> "_Tracker":
        return _Tracker(self)


class _Tracker:
    def __init__(self, owner: StandIn) -> None:
        self.owner = owner
        self.rows: list[tuple[np.ndarray, int]] = []

    def step(self, frame: np.ndarray, *, restart: bool = False, **_: Any) -> np.ndarray:
        if restart:
            self.owner.restarts.append(len(self.rows))
        place, people = self.owner.script(len(self.rows))
        points = np.zeros((18, 3), np.float32) if place is None else keypoints_at(place)
        self.rows.append((points, people))
        return points

    def result(self) -> Track:
        points = np.array([row[0] for row in self.rows], np.float32).reshape(-1, 18, 3)
        score = points[:, :, 2].max(1, initial=0)
        people = np.array([row[1] for row in self.rows], np.int64)
        if not self.owner.hands:
            return Track(points, score, people)
        hands = np.repeat(points[:, [4]], 42, 1)
        return Track(points, score, people, hands, np.repeat(points[:, [0]], 68, 1))
