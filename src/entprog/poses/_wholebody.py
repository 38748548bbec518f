"""The 133 keypoints of COCO-WholeBody as entprog stores them: body, hands, face.

Layout: Jin et al., "Whole-Body Human Pose Estimation in the Wild", arXiv 2007.11858.
"""

import numpy as np

from entprog.poses.base import FACE_POINTS, HAND_POINTS, rescaled

BODY = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""COCO's index of each OpenPose-18 keypoint; -1: the neck, the middle of the shoulders."""
SHOULDERS = (5, 6)
FACE = slice(23, 91)
HANDS = slice(91, 133)
POINTS = 18 + HAND_POINTS + FACE_POINTS
SUREST = 6
"""The score of a pose is the mean confidence of so many keypoints of the body: half a body may be outside the frame."""


def from_wholebody(points: np.ndarray, confidence: np.ndarray, threshold: float) -> np.ndarray:
    """Points [133,2] in pixels and their confidence [133] -> [128,3]: 18 of the body, 42 of the hands, 68 of the face.

    The neck is as sure as the less sure shoulder. Confidences are rescaled so that `threshold` becomes 0.5.
    """
    all_points = np.concatenate([points, rescaled(confidence, threshold)[:, None]], 1).astype(np.float32)
    left, right = all_points[SHOULDERS[0]], all_points[SHOULDERS[1]]
    neck = np.append((left + right)[:2] / 2, min(left[2], right[2])).astype(np.float32)
    body = np.stack([neck if number < 0 else all_points[number] for number in BODY])
    return np.concatenate([body, all_points[HANDS], all_points[FACE]])


def pose_score(keypoints: np.ndarray) -> float:
    """How sure a pose [>=18,3] is: the mean confidence of the SUREST keypoints of its body."""
    return float(np.sort(keypoints[:18, 2])[-SUREST:].mean())
