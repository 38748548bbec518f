"""The photo: read, its person found, and the part of it that is animated."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from entprog.poses.base import FOUND_THRESHOLD, PoseEstimator
from entprog.prepare.crop import Rectangle, person_box, person_rectangle, resize
from entprog.prepare.image import read_image
from entprog.prepare.sniff import IMAGE_EXTENSIONS, looks_like_video

__all__ = ["Photo", "cut", "place", "plain", "read_photo"]


@dataclass(frozen=True)
class Photo:
    """An image file.

    Attributes:
        name: safe in file names.
        pixels: uint8 [H, W, 3].
        keypoints: [18, 3] in pixels; None where no person is found.
        people: how many the detector finds.
    """

    name: str
    pixels: np.ndarray
    keypoints: np.ndarray | None
    people: int

    @property
    def aspect(self) -> float:
        """Width / height."""
        return self.pixels.shape[1] / self.pixels.shape[0]


def read_photo(path: Path, estimator: PoseEstimator) -> Photo:
    """An image file and the largest person in it.

    Raises:
        ValueError: no image; a video.
    """
    if looks_like_video(path) and path.suffix.lower() not in (*IMAGE_EXTENSIONS, ".gif"):
        raise ValueError(f"reference = {str(path)!r}: a video; save one frame of it as an image, and give that")
    pixels = read_image(path)
    height, width = pixels.shape[:2]
    frame = torch.from_numpy(pixels)[None]
    keypoints, score = estimator.single(frame)
    tracker = estimator.tracker()
    tracker.step(pixels, index=0)
    people = max(0, int(tracker.result().people.max()))
    if float(score[0]) < FOUND_THRESHOLD:
        return Photo(plain(path.stem), pixels, None, people)
    return Photo(plain(path.stem), pixels, keypoints[0].numpy() * np.array([width, height, 1], np.float32), people)


def place(keypoints: np.ndarray | None, width: int, height: int, sides: tuple[int, int], *, square: bool) -> Rectangle:
    """The part of a picture around the poses [F, 18, 3] in pixels, as `entprog prepare` cuts it: x0, y0, width, height.

    Without poses, or where none of them is in the picture, its middle. A square may leave the picture, whose edge is
    then repeated; a rectangle, of the aspect of `sides` (height, width), is inside.
    """
    if square:
        box = None if keypoints is None else person_box(keypoints, width, height)
        side = min(height, width)
        x0, y0, side = box or ((width - side) // 2, (height - side) // 2, side)
        return x0, y0, side, side
    aspect = sides[1] / sides[0]
    found = None if keypoints is None else person_rectangle(keypoints, width, height, aspect)
    wide, high = max(1, round(min(width, height * aspect))), max(1, round(min(height, width / aspect)))
    return found or ((width - wide) // 2, (height - high) // 2, wide, high)


def cut(pixels: np.ndarray, rectangle: Rectangle, sides: tuple[int, int]) -> np.ndarray:
    """The rectangle's pixels at `sides`, uint8 [height, width, 3]; the edge is repeated where it leaves the picture."""
    x0, y0, width, height = rectangle
    rows = np.arange(y0, y0 + height).clip(0, pixels.shape[0] - 1)
    columns = np.arange(x0, x0 + width).clip(0, pixels.shape[1] - 1)
    return resize(torch.from_numpy(np.asarray(pixels[rows[:, None], columns]))[None], sides)[0].numpy()


def plain(name: str) -> str:
    """A name that is safe in file names."""
    return re.sub(r"[^\w.-]+", "_", name)
