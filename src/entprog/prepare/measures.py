"""What the first reading of a file measures of each frame beside the pose: colours, change, and sharpness.

All of it is a few numbers a frame, so that memory hardly grows with a file's length.
"""

from array import array

import numpy as np
import torch
import torch.nn.functional as F

from entprog.prepare.crop import VISIBLE, histogram_of, is_cut, thumbnail

SHOULDERS, HIPS, NOSE, NECK = (2, 5), (8, 11), 0, 1
SHARP_SIDE = 128
"""Sharpness is measured of the person reduced to this many pixels (longer side), whatever the video's resolution."""
SHARP_EVERY = 6
"""Sharpness is measured in every so many frames."""
BLUR = 9
"""Pixels of the mean that sharpness compares the picture with."""
GRID = 12
"""The colour of the torso is the mean of so many points each way."""


class Measures:
    """Collects the measures; the properties are arrays with a value for each frame that was added."""

    def __init__(self) -> None:
        self._histogram: np.ndarray | None = None
        self._thumbnail: np.ndarray | None = None
        self._changes, self._motion, self._sharpness = array("d"), array("d"), array("d")
        self._colours = array("f")

    def may_be_cut(self, frame: np.ndarray) -> bool:
        """Begin the next frame; whether its colours differ so much from those of the frame before that it may be a cut.

        `add` completes it.
        """
        small = thumbnail(frame)
        colours = histogram_of(small)
        change = motion = 0.0
        if self._histogram is not None and self._thumbnail is not None:
            change = float(np.abs(colours - self._histogram).sum() / 2)
            motion = float(np.abs(small - self._thumbnail).mean())
        jump = self._histogram is not None and is_cut(change)
        self._histogram, self._thumbnail = colours, small
        self._changes.append(change)
        self._motion.append(motion)
        return jump

    def add(self, frame: np.ndarray, keypoints: np.ndarray | None) -> None:
        """Complete the frame with the keypoints [18,3] of the person in it, in pixels; None where they are unknown."""
        known = keypoints is not None and bool((keypoints[:, 2] > 0).any())
        person = keypoints if keypoints is not None and known else None
        unknown = np.full(3, np.nan, np.float32)
        self._colours.extend(unknown if person is None else torso_colour(frame, person))
        wanted = person is not None and (len(self._sharpness) % SHARP_EVERY == 0)
        self._sharpness.append(sharpness_of(frame, person) if wanted and person is not None else np.nan)

    def __len__(self) -> int:
        return len(self._changes)

    @property
    def changes(self) -> np.ndarray:
        """[F-1], distance of the colours of each frame from those of the frame before, 0..1 (`histogram`)."""
        return np.array(self._changes[1:])

    @property
    def motion(self) -> np.ndarray:
        """[F], mean difference from the frame before at 64 x 64 pixels, in levels of 255; 0 for the first."""
        return np.array(self._motion)

    @property
    def colours(self) -> np.ndarray:
        """[F,3], mean colour of the torso in CIELAB; NaN where it is unknown."""
        return np.array(self._colours, np.float32).reshape(-1, 3)

    @property
    def sharpness(self) -> np.ndarray:
        """[F], sharpness of the person, 0..1; NaN in frames where it was not measured."""
        return np.array(self._sharpness)


def torso_colour(frame: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Mean colour (CIELAB, float32 [3]) between shoulders and hips; NaN where the frame does not show them.

    The area is at least as wide as 0.4 of the torso's length, as shoulders lie behind one another in a side view.
    """
    if (keypoints[list(SHOULDERS), 2] <= 0).any() or (keypoints[list(HIPS), 2] <= 0).any():
        return np.full(3, np.nan, np.float32)
    right, left = (keypoints[[s, h], :2].astype(np.float64) for s, h in zip(SHOULDERS, HIPS, strict=True))
    middle, half = (right + left) / 2, (left - right) / 2
    axis = middle[1] - middle[0]
    across = np.array([-axis[1], axis[0]])
    across = across if (half.sum(0) @ across) >= 0 else -across
    narrow = np.linalg.norm(half, axis=1) < 0.2 * np.linalg.norm(axis)
    half[narrow] = 0.2 * across
    down, along = np.linspace(0.1, 0.8, GRID), np.linspace(-0.7, 0.7, GRID)
    points = (middle[0] + down[:, None] * axis)[:, None] + along[:, None] * (
        half[0] + down[:, None] * (half[1] - half[0])
    )[:, None]
    columns, rows = np.floor(points[..., 0]).astype(int), np.floor(points[..., 1]).astype(int)
    inside = (columns >= 0) & (columns < frame.shape[1]) & (rows >= 0) & (rows < frame.shape[0])
    if inside.sum() < GRID * GRID // 4:
        return np.full(3, np.nan, np.float32)
    return cielab(frame[rows[inside], columns[inside]].mean(0))


def cielab(colour: np.ndarray) -> np.ndarray:
    """One sRGB colour (0..255) in CIELAB under D65, float32 [3]."""
    share = colour / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    relative = matrix @ linear / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(relative > 216 / 24389, np.cbrt(relative), relative * 841 / 108 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)], np.float32)


def sharpness_of(frame: np.ndarray, keypoints: np.ndarray) -> float:
    """Sharpness of the person in a frame; NaN where fewer than 8 pixels of a side show them."""
    seen = keypoints[keypoints[:, 2] >= VISIBLE, :2]
    if not len(seen):
        return float("nan")
    size = np.array([frame.shape[1], frame.shape[0]])
    (x0, y0), (x1, y1) = np.floor(seen.min(0)).clip(0, size).astype(int), np.ceil(seen.max(0)).clip(0, size).astype(int)
    return sharpness(frame[y0:y1, x0:x1])


def sharpness(picture: np.ndarray) -> float:
    """How much of a picture's local contrast (uint8 [H,W,3]) is lost by a mean over 9 pixels: 0 blurred, 1 sharp.

    The measure of Crete et al. ("The blur effect", 2007), counted from sharp. A picture with a side above 128 pixels is
    reduced to 128 first, so that the number does not depend on the resolution of the video. Contrast and brightness do
    not change it. NaN for a picture with a side below 8 pixels, 0 for one of a single colour.
    """
    if min(picture.shape[:2]) < 8:
        return float("nan")
    longest = max(picture.shape[:2])
    grey = torch.from_numpy(np.ascontiguousarray(picture)).float() @ torch.tensor([0.299, 0.587, 0.114])
    if longest > SHARP_SIDE:
        sides = (max(8, round(n * SHARP_SIDE / longest)) for n in picture.shape[:2])
        grey = F.interpolate(grey[None, None], size=tuple(sides), mode="area")[0, 0]
    lost = []
    for values in (grey, grey.T):
        blurred = F.avg_pool2d(values[None], (BLUR, 1), 1, (BLUR // 2, 0), count_include_pad=False)[0]
        own, other = values.diff(dim=0).abs(), blurred.diff(dim=0).abs()
        total = float(own.sum())
        lost.append(float((own - other).clamp_min(0).sum()) / total if total > 1 else 0.0)
    return min(lost)
