"""The contract of pose estimators: frames of people to keypoints, for single pictures and through a video.

A plugin of the kind "pose" is a dataclass whose fields are its options, with `open(device) -> PoseEstimator`.

Shape legend: N pictures, F frames of a video, H W height and width in pixels. Keypoints are in OpenPose-18 order.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "FACE_POINTS",
    "FOUND_THRESHOLD",
    "HAND_POINTS",
    "PoseEstimator",
    "PosePlugin",
    "PosesUnusable",
    "Track",
    "Tracker",
]

FOUND_THRESHOLD = 0.5
"""Smallest score of a pose that counts as found; every estimator scales its score to this."""
HAND_POINTS = 42
"""21 of the person's left hand, then 21 of the right, each in OpenPose's order: the wrist, then thumb to little finger,
from the palm to the tip."""
FACE_POINTS = 68
"""The points of the iBUG 300-W markup: jaw, brows, nose, eyes, mouth."""


class PosesUnusable(ValueError):
    """The poses of one video cannot be had, for a reason that lies in its own files; the video is left out."""


@dataclass(frozen=True)
class Track:
    """One person through a video.

    Attributes:
        keypoints: float32 [F,18,3], x and y in pixels, confidence 0..1; all zero in frames without a pose.
        score: float32 [F], 0..1; `found` where it is at least FOUND_THRESHOLD.
        people: int [F], how many people are in the frame; -1 where they were not counted.
        hands: float32 [F,42,3] as `keypoints`, or None where the estimator gives none.
        face: float32 [F,68,3], likewise.
        notes: what a user should know of how they were found, a short sentence each.
    """

    keypoints: np.ndarray
    score: np.ndarray
    people: np.ndarray
    hands: np.ndarray | None = None
    face: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> np.ndarray:
        return np.asarray(self.score >= FOUND_THRESHOLD)


class Tracker(Protocol):
    """Follows one person through one video: the largest at first, after a loss whoever is nearest to the last place."""

    def step(self, frame: np.ndarray, *, index: int, restart: bool = False) -> np.ndarray:
        """Take the next frame.

        Args:
            frame: uint8 [H,W,3]; all frames of a video have one size.
            index: number of the frame in the file, from 0; frames may be left out between two steps.
            restart: a new shot begins here, with no connection to the frame before.

        Returns:
            The body's keypoints [18,3] in this frame, as in `Track`.
        """

    def result(self) -> Track:
        """What was found in the frames taken so far; pixels are those of the frames given.

        Raises:
            PosesUnusable: as for `PoseEstimator.tracker`.
        """


class PoseEstimator(Protocol):
    """Finds one person's pose."""

    def single(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Poses of frames that have nothing to do with each other: the largest person of each.

        Args:
            frames: uint8 [N,H,W,3].

        Returns:
            Keypoints float32 [N,18,3] (x over the width, y over the height, confidence 0..1) and score float32 [N]
            on the CPU; below FOUND_THRESHOLD there is no credible pose.

        Raises:
            ValueError: `frames` is of another kind, or the estimator reads no single pictures.
        """

    def tracker(self, source: Path | None = None) -> Tracker:
        """A tracker for one video; `source` is its file or folder.

        Raises:
            PosesUnusable: the video's poses cannot be had; the message says why. `step` and `result` may raise it.
        """


class PosePlugin(Protocol):
    """What a plugin of the kind "pose" is."""

    def open(self, device: str = "cpu") -> PoseEstimator:
        """Load the networks.

        Raises:
            ValueError: a package or a file is missing or unusable; the message says which, and what to do.
        """


def checked(frames: Tensor) -> Tensor:
    """`frames`, which must be uint8 [N,H,W,3].

    Raises:
        ValueError: they are not.
    """
    if frames.dim() != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(f"frames: {frames.dtype} {tuple(frames.shape)}; give uint8 [N,H,W,3]")
    return frames


def rescaled(confidence: np.ndarray, threshold: float) -> np.ndarray:
    """Confidences on one scale for all estimators: `threshold` becomes 0.5, from which a keypoint is drawn and used."""
    given = np.nan_to_num(np.asarray(confidence, np.float32), nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    above = 0.5 + 0.5 * (given - threshold) / max(1 - threshold, 1e-6)
    return np.where(given >= threshold, above, 0.5 * given / max(threshold, 1e-6)).astype(np.float32)


def gathered(rows: list[tuple[np.ndarray, float, int]], points: int = 18) -> Track:
    """A track from (keypoints [P,3], score, people) of each frame; of P > 18, hands and face follow the body."""
    keypoints = np.stack([row[0] for row in rows]) if rows else np.zeros((0, points, 3), np.float32)
    score, people = np.array([row[1] for row in rows], np.float32), np.array([row[2] for row in rows], np.int64)
    if keypoints.shape[1] == 18:
        return Track(keypoints, score, people)
    hands, face = keypoints[:, 18 : 18 + HAND_POINTS], keypoints[:, 18 + HAND_POINTS :]
    return Track(keypoints[:, :18], score, people, hands, face)
