"""People as circles: from the detector's boxes, followed from frame to frame."""

import math
from dataclasses import dataclass

import numpy as np

MARGIN = 1.25
REACH = 1.5
"""Farthest distance (see `again`) at which someone is the same person right after a loss."""
PATIENCE = 6
"""Frames after a loss before someone beyond REACH is followed: half a second at 12 frames a second."""


@dataclass(frozen=True)
class Person:
    """Position of a person: a circle around the body, in pixels; `angle` is the lean in radians, 0 upright."""

    centre: tuple[float, float]
    radius: float
    angle: float
    score: float


def circle_of(centre: list[float], rim: list[float], score: float) -> Person:
    dx, dy = rim[0] - centre[0], rim[1] - centre[1]
    return Person((centre[0], centre[1]), MARGIN * math.hypot(dx, dy), math.atan2(dy, dx) + math.pi / 2, score)


def smooth(last: Person | None, new: Person) -> Person:
    """The next circle, smoothed: slow changes are damped, fast ones are not.

    The crop decides the landmarks and the landmarks the next crop: without smoothing, differences of a pixel grow
    along the video.
    """
    if last is None:
        return new
    turn = math.remainder(new.angle - last.angle, 2 * math.pi)
    shift = math.dist(new.centre, last.centre) + abs(new.radius - last.radius)
    follow = min(1.0, 0.3 + 2 * (shift / last.radius + abs(turn)))
    centre = tuple(a + follow * (b - a) for a, b in zip(last.centre, new.centre, strict=True))
    radius = last.radius + follow * (new.radius - last.radius)
    return Person((centre[0], centre[1]), radius, last.angle + follow * turn, new.score)


def people_of(points: np.ndarray, score: np.ndarray) -> list[Person]:
    """Candidates [C,6,2] (box centre, box size, four keypoints) -> people.

    Boxes overlapping by 0.3 are averaged, weighted by score.
    """
    people: list[Person] = []
    left = np.argsort(-score, kind="stable")
    while len(left):
        best = left[0]
        near = _overlap(points[best], points[left]) >= 0.3
        near[0] = True
        group, left = left[near], left[~near]
        weight = score[group] / score[group].sum()
        centre, rim = (points[group, 2:4] * weight[:, None, None]).sum(0).tolist()
        person = circle_of(centre, rim, float(score[best]))
        # two boxes of one body: their hips coincide
        if person.radius > 0 and all(math.dist(centre, p.centre) > 0.5 * max(person.radius, p.radius) for p in people):
            people.append(person)
    return sorted(people, key=lambda person: -person.radius)


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box [>=2,2] (centre, size) with others [C,>=2,2]."""
    low = np.maximum(box[0] - box[1] / 2, others[:, 0] - others[:, 1] / 2)
    high = np.minimum(box[0] + box[1] / 2, others[:, 0] + others[:, 1] / 2)
    shared = np.clip(high - low, 0, None).prod(1)
    union = np.maximum(box[1].prod() + others[:, 1].prod(1) - shared, 1e-9)
    return np.asarray(shared / union)


def again(people: list[Person], last: Person | None, lost: int = PATIENCE) -> Person | None:
    """Whom to follow: the largest at the start, later whoever is nearest to the last circle in place and size.

    The distance is in radii of the last circle, plus the logarithm of the ratio of the sizes: someone of half the
    size in the same place is as far away as someone of the same size 0.7 radii aside.

    Args:
        people: in this frame, the largest first.
        last: where the person was last seen; None where the tracking begins.
        lost: frames since then. In the first PATIENCE of them nobody beyond REACH is taken: a person who is missed
            for a moment comes back, and should not be exchanged for another.
    """
    if not people or last is None:
        return people[0] if people else None
    best = min(people, key=lambda person: distance(person, last))
    return best if lost >= PATIENCE or distance(best, last) <= REACH else None


def distance(person: Person, last: Person) -> float:
    """Of two circles, as `again` measures it."""
    radius = max(last.radius, 1e-6)
    return math.dist(person.centre, last.centre) / radius + abs(math.log(max(person.radius, 1e-6) / radius))
