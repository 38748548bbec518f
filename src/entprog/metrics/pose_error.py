"""Distance of the generated person's pose from the driving pose."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from entprog.poses.base import FOUND_THRESHOLD
from entprog.poses.loading import default_estimator

__all__ = ["PoseError"]

NECK, HIPS = 1, (8, 11)
VISIBLE = 0.5
BATCH = 16
KNOWN = 1024
"""Calls of `estimate` that are cached."""

_KNOWN: OrderedDict[tuple[torch.Size, bytes], tuple[Tensor, Tensor]] = OrderedDict()


@dataclass(frozen=True)
class PoseError:
    """Distance of keypoints in torsos (0..1, capped), and the share that is near (PCK).

    A pose estimator for photographs reads the generated frames (enlarged to its input). A frame in which
    it finds nobody counts as a miss of every keypoint, at distance 1.

    Attributes:
        near: distance in torsos (neck to the middle of the hips) within which a keypoint counts for PCK.
    """

    pooling: ClassVar[str] = (
        "BlazePose on frames enlarged to 256 px, keypoints that the driving pose shows, distance in torsos "
        "(at most 1), mean over keypoints of all frames and clips"
    )
    near: float = 0.2
    _distances: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)
    _found: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def update(self, fake: Tensor, real: Tensor) -> None:
        """Take clips, both [B, F, 3, H, W] in 0..1; true keypoints are estimated on `real`.

        Frames of `real` in which nobody is found are left out.
        """
        keypoints, score = estimate(real)
        keypoints[..., 2] *= (score >= FOUND_THRESHOLD)[..., None]
        self.update_keypoints(fake, keypoints)

    def update_keypoints(self, fake: Tensor, keypoints: Tensor) -> None:
        """Take clips [B, F, 3, H, W] with the keypoints [B, F, 18, 3] that drove them."""
        found, score = estimate(fake)
        torso = (keypoints[..., NECK, :2] - keypoints[..., HIPS, :2].mean(-2)).norm(dim=-1)
        # a torso seen from above or end-on would make every distance look large
        torso = torso.clamp_min(0.05)
        distance = (found[..., :2] - keypoints[..., :2]).norm(dim=-1) / torso[..., None]
        distance = distance.clamp_max(1).masked_fill((score < FOUND_THRESHOLD)[..., None], 1)
        inside = ((keypoints[..., :2] >= 0) & (keypoints[..., :2] <= 1)).all(-1)
        self._distances.append(distance[inside & (keypoints[..., 2] >= VISIBLE)])
        self._found.append((score >= FOUND_THRESHOLD).flatten())

    def compute(self) -> dict[str, float]:
        """{"pose_error": mean distance, "pck": share near, "pose_found": share of frames with a person}."""
        distances = torch.cat(self._distances)
        if not len(distances):
            raise ValueError("metric pose_error: no visible keypoint in any driving pose; leave the metric out")
        return {
            "pose_error": distances.mean().item(),
            "pck": (distances <= self.near).float().mean().item(),
            "pose_found": torch.cat(self._found).float().mean().item(),
        }


def estimate(clips: Tensor) -> tuple[Tensor, Tensor]:
    """Keypoints [B, F, 18, 3] and score [B, F] of clips [B, F, 3, H, W] in 0..1.

    Recent clips are cached: an evaluation measures each alone, with all others, and against the poses of the
    next clip.
    """
    frames = (clips.flatten(0, 1).clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).cpu().contiguous()
    key = frames.shape, hashlib.sha256(frames.numpy().tobytes()).digest()
    if key in _KNOWN:
        _KNOWN.move_to_end(key)
    else:
        _KNOWN[key] = _estimated(frames)
        if len(_KNOWN) > KNOWN:
            _KNOWN.popitem(last=False)
    keypoints, score = _KNOWN[key]
    return keypoints.view(*clips.shape[:2], 18, 3).clone(), score.view(clips.shape[:2]).clone()


def _estimated(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Keypoints [N, 18, 3] and score [N] of frames [N, H, W, 3] uint8."""
    parts = [default_estimator().single(frames[start : start + BATCH]) for start in range(0, len(frames), BATCH)]
    keypoints, score = (torch.cat(values) for values in zip(*parts, strict=True))
    return keypoints, score
