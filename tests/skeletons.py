"""Skeletons of known lengths that move: keypoints in OpenPose-18 order, in pixels."""

import numpy as np

from entprog.sample.retarget import LIMBS

STANDING = np.array(
    [
        (0, -60), (0, -40), (-20, -40), (-30, -10), (-32, 20), (20, -40), (30, -10), (32, 20), (-10, 20),
        (-12, 60), (-12, 100), (10, 20), (12, 60), (12, 100), (-4, -64), (4, -64), (-9, -62), (9, -62),
    ],
    np.float32,
)  # fmt: skip
FRAMES = 24


def turned(points: np.ndarray, start: int, ends: tuple[int, ...], angle: float) -> None:
    """Turn the joints `ends` about `start`, in place."""
    cos, sin = np.cos(angle), np.sin(angle)
    moved = points[list(ends)] - points[start]
    points[list(ends)] = points[start] + moved @ np.array([[cos, sin], [-sin, cos]])


def person(**ratios: float) -> np.ndarray:
    """The standing skeleton with limbs of other lengths."""
    old, new = STANDING.astype(np.float64), STANDING.astype(np.float64).copy()
    middle = (old[8] + old[11]) / 2
    for hip in (8, 11):
        new[hip] = old[1] + ratios.get("torso", 1) * (middle - old[1]) + ratios.get("hips", 1) * (old[hip] - middle)
    for name in ("shoulders", "upper arms", "forearms", "thighs", "shins", "neck", "face"):
        for start, end in LIMBS[name]:
            new[end] = new[start] + ratios.get(name.replace(" ", "_"), 1) * (old[end] - old[start])
    return new


def clip(body: np.ndarray, *, scale: float = 1.0, at: tuple[float, float] = (200, 200)) -> np.ndarray:
    """A body that waves its arms and steps to the side: keypoints [F, 18, 3]."""
    frames = []
    for i in range(FRAMES):
        points = body.copy()
        turned(points, 2, (3, 4), 1.2 * np.sin(i / 4))
        turned(points, 6, (7,), 0.9 * np.sin(i / 3))
        points = points * scale + np.array(at) + np.array([i * scale, 0])
        frames.append(np.concatenate([points, np.ones((18, 1))], 1))
    return np.stack(frames).astype(np.float32)
