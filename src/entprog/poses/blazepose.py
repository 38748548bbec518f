"""The pose of the people in frames, offline: BlazePose's two networks, tracked through a video.

Pipeline as published (Bazarevsky et al., arXiv 2006.10204): a detector proposes a person as a circle (centre
of the hips, radius, lean); the landmark network reads the square around it, turned upright; its two auxiliary
points give the next frame's circle, so that the detector runs only at the start and after a loss.

Coordinates are continuous pixels: the frame covers [0, W] x [0, H]. Keypoints are in OpenPose-18 order.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from entprog.plugins import not_installed
from entprog.poses._networks import DETECTOR_SIDE, LANDMARK_SIDE, BlazeGraph
from entprog.poses._onnx import PACKAGES, OnnxGraph
from entprog.poses._people import Person, again, circle_of
from entprog.poses._people import people_of as _people
from entprog.poses._people import smooth as _smooth
from entprog.poses.base import FOUND_THRESHOLD, Track, checked, gathered

__all__ = ["BlazePose"]

DETECTOR_THRESHOLD = 0.5
"""Smallest detector score of a person (the published value)."""
OPENPOSE_18 = (0, -1, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
"""BlazePose's index of each OpenPose-18 keypoint; -1: the neck, the middle of the shoulders."""
SHOULDERS = (11, 12)
HEATMAP_SIDE = 64
COUNT_EVERY = 8
"""While a person is tracked, the detector counts the people every so many frames."""
NOTHING = np.zeros((18, 3), np.float32)
NETWORKS = ("pose_detector", "pose_landmarks")
Runtime = Literal["torch", "onnx"]
"""What computes the networks: torch, or onnxruntime."""
Network = Callable[[Tensor], dict[str, Tensor]]
LONGEST_SIDE = 4096
"""Small pictures are not enlarged beyond this: one of a single row would take gigabytes."""
BATCH = 32
"""Frames in one batch of `single`, which limits its memory."""


class PoseEstimator:
    """BlazePose ("full") from the packaged weights. Deterministic; docs/poses.md has the time a frame.

    `runtime` "onnx" needs the packages onnx and onnxruntime, and the device "cpu".
    """

    def __init__(self, device: str | torch.device = "cpu", runtime: Runtime = "torch") -> None:
        self.device = torch.device(device)
        self.detector, self.landmarks = (_network(name, self.device, runtime) for name in NETWORKS)
        self.anchors = _anchors().to(self.device)

    def detect(self, frames: Tensor) -> list[list[Person]]:
        """People of each frame (uint8 [N,H,W,3]), the largest first; an empty list where there is none."""
        images, (height, width) = self._images(frames), frames.shape[1:3]
        side = max(height, width)
        whole = torch.tensor([[width / 2, height / 2, side / 2, 0.0]], device=self.device).expand(len(frames), 4)
        outputs = self.detector(_cut_out(images, whole, DETECTOR_SIDE) / 127.5 - 1)
        score = outputs["scores"][..., 0].clamp(-80, 80).sigmoid()
        values = outputs["boxes"].unflatten(-1, (6, 2)) / DETECTOR_SIDE
        points = values + self.anchors[:, None]
        points[:, :, 1] = values[:, :, 1]  # width and height, no position
        points = points * side
        offset = torch.tensor([(width - side) / 2, (height - side) / 2], device=self.device)
        points[:, :, [0, 2, 3, 4, 5]] += offset
        people = []
        for frame_points, frame_score in zip(points, score, strict=True):
            likely = frame_score >= DETECTOR_THRESHOLD
            people.append(_people(frame_points[likely].cpu().numpy(), frame_score[likely].cpu().numpy()))
        return people

    def single(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Poses of independent frames: one detection and one landmark pass each, batched.

        Args:
            frames: uint8 [N,H,W,3]; sides under 256 are enlarged first (the networks were trained on photographs).

        Returns:
            Keypoints float32 [N,18,3] (x over the width, y over the height, visibility 0..1) and score
            float32 [N]: below FOUND_THRESHOLD there is no credible pose. Both on the CPU. The largest person
            is used; where the detector finds none, the landmark network reads the whole frame.
        """
        if len(frames) > BATCH:
            parts = [self.single(part) for part in torch.split(frames, BATCH)]
            return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        height, width = frames.shape[1:3]
        short = min(height, width)
        if short < LANDMARK_SIDE:
            factor = max(1.0, min(LANDMARK_SIDE / short, LONGEST_SIDE / max(height, width)))
            size = (max(1, round(height * factor)), max(1, round(width * factor)))
            large = F.interpolate(self._images(frames), size=size, mode="bicubic", antialias=True)
            frames = large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
            height, width = size
        nobody = Person((width / 2, height / 2), max(height, width) / 2, 0.0, 0.0)
        circles = [people[0] if people else nobody for people in self.detect(frames)]
        points, visibility, score = self.read(frames, circles)
        keypoints = to_openpose(points, visibility).cpu()
        keypoints[..., 0] /= width
        keypoints[..., 1] /= height
        return keypoints, score.cpu()

    def read(self, frames: Tensor, circles: list[Person]) -> tuple[Tensor, Tensor, Tensor]:
        """Landmarks inside one circle for each frame: points [N,39,2] in pixels, visibility [N,39], score [N].

        Points 33 and 34 are auxiliary: the centre of the next circle and a point on its rim (before the
        margin).
        """
        rows = [[*circle.centre, circle.radius, circle.angle] for circle in circles]
        region = torch.tensor(rows, dtype=torch.float32, device=self.device)
        outputs = self.landmarks(_cut_out(self._images(frames), region, LANDMARK_SIDE) / 255)
        values = outputs["points"].reshape(-1, 39, 5)
        local = _refine(values[..., :2], outputs["heatmap"]) / (LANDMARK_SIDE / 2) - 1
        # outside the picture a keypoint may have a high "visibility", but never a high "presence"
        visibility = values[..., 3:5].sigmoid().amin(-1)
        points = region[:, None, :2] + region[:, None, 2:3] * _turn(local, region[:, 3])
        return points, visibility, outputs["score"].reshape(-1)

    def track(self, frames: Iterable[np.ndarray], *, restart: Iterable[int] = ()) -> Track:
        """One person through the frames (uint8 [H,W,3] each): the largest where the tracking begins.

        Args:
            frames: read one by one; any length in constant memory.
            restart: indices of frames (the first after a cut) at which the person is detected again.
        """
        tracker, again = Tracker(self), set(restart)
        for i, frame in enumerate(frames):
            tracker.step(frame, index=i, restart=i in again)
        return tracker.result()

    def tracker(self, source: Path | None = None) -> "Tracker":
        """A tracker for one video; `source` is not needed."""
        return Tracker(self)

    def _images(self, frames: Tensor) -> Tensor:
        return checked(frames).to(self.device).permute(0, 3, 1, 2).float()


class Tracker:
    """The state of tracking one person: `step` takes the next frame, `result` returns what was found."""

    def __init__(self, estimator: PoseEstimator) -> None:
        self.estimator = estimator
        self.circle: Person | None = None
        self.last: Person | None = None
        self.lost = 0
        self.rows: list[tuple[np.ndarray, float, int]] = []

    def step(self, frame: np.ndarray, *, index: int = -1, restart: bool = False) -> np.ndarray:
        batch = torch.from_numpy(np.ascontiguousarray(frame))[None]
        if restart:
            self.circle = self.last = None
        keypoints, score, count = NOTHING, 0.0, -1
        if self.circle is not None:
            keypoints, score = self._follow(batch, self.circle)
        if score < FOUND_THRESHOLD or len(self.rows) % COUNT_EVERY == 0:
            people = self.estimator.detect(batch)[0]
            count = len(people)
            if score < FOUND_THRESHOLD:
                self.circle = None
                person = again(people, self.last, self.lost)
                if person is not None:
                    keypoints, score = self._follow(batch, person)
        self.lost = 0 if score >= FOUND_THRESHOLD else self.lost + 1
        self.rows.append((keypoints, score, count))
        return keypoints

    def result(self) -> Track:
        return gathered(self.rows)

    def _follow(self, batch: Tensor, circle: Person) -> tuple[np.ndarray, float]:
        points, visibility, scores = self.estimator.read(batch, [circle])
        score = float(scores[0])
        if score < FOUND_THRESHOLD:
            return NOTHING, 0.0
        centre, rim = points[0, 33].tolist(), points[0, 34].tolist()
        self.circle = self.last = _smooth(self.circle, circle_of(centre, rim, score))
        return to_openpose(points, visibility)[0].cpu().numpy(), score


@dataclass(frozen=True)
class BlazePose:
    """BlazePose "full", packaged with entprog: no download, 18 keypoints of the body, no hands and no face.

    Attributes:
        runtime: what computes the networks. "onnx": onnxruntime, on a CPU twice as fast as torch; the keypoints are
            the same up to rounding.
    """

    runtime: Runtime = "torch"

    def missing(self) -> list[str]:
        """What it cannot be opened without, a line each."""
        absent = not_installed(PACKAGES) if self.runtime == "onnx" else ""
        return [f"runtime = 'onnx': {absent}"] if absent else []

    def open(self, device: str = "cpu") -> PoseEstimator:
        wrong = self.missing()
        if self.runtime == "onnx" and torch.device(device).type != "cpu":
            wrong.append(f"runtime = 'onnx': runs on the CPU, not on {device!r}; use device cpu, or runtime=torch")
        if wrong:
            raise ValueError("\n".join(f"pose = 'blazepose': {text}" for text in wrong))
        return PoseEstimator(device, self.runtime)


def _network(name: str, device: torch.device, runtime: Runtime) -> Network:
    return OnnxGraph(name) if runtime == "onnx" else BlazeGraph(name).to(device)


def to_openpose(points: Tensor, visibility: Tensor) -> Tensor:
    """BlazePose points [N,>=33,2] and visibility [N,>=33] -> keypoints [N,18,3].

    The neck is as visible as the less visible shoulder.
    """
    blaze = torch.cat([points, visibility[..., None]], -1)
    right, left = blaze[:, SHOULDERS[1]], blaze[:, SHOULDERS[0]]
    neck = torch.cat([(right + left)[:, :2] / 2, torch.minimum(right, left)[:, 2:]], -1)
    return torch.cat([blaze, neck[:, None]], 1)[:, list(OPENPOSE_18)]  # -1 is the neck, which is the last


def _anchors() -> Tensor:
    """Centres [2254,2] of the detector's anchors, 0..1: 2 a cell at strides 8 and 16, 6 at stride 32."""
    rows = []
    for stride, copies in ((8, 2), (16, 2), (32, 6)):
        n = DETECTOR_SIDE // stride
        line = (torch.arange(n) + 0.5) / n
        y, x = torch.meshgrid(line, line, indexing="ij")
        rows.append(torch.stack([x, y], -1).reshape(-1, 2).repeat_interleave(copies, 0))
    return torch.cat(rows)


def _turn(points: Tensor, angle: Tensor) -> Tensor:
    """Points [N,...,2] turned by angle [N]."""
    shape = (-1,) + (1,) * (points.dim() - 2)
    cos, sin = angle.cos().reshape(shape), angle.sin().reshape(shape)
    x, y = points.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1)


def _cut_out(images: Tensor, region: Tensor, side: int) -> Tensor:
    """The rotated squares around circles (region [N,4]: x y radius angle) as [N,3,side,side]; black outside."""
    height, width = images.shape[2:]
    x, y, radius, angle = region.unbind(1)
    across, down = radius * angle.cos(), radius * angle.sin()
    rows = torch.stack([torch.stack([across, -down, x], 1), torch.stack([down, across, y], 1)], 1)
    rows = rows / torch.tensor([[width / 2], [height / 2]], device=images.device)
    rows[:, :, 2] -= 1
    grid = F.affine_grid(rows, [len(images), 3, side, side], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _refine(points: Tensor, heatmap: Tensor) -> Tensor:
    """Points [N,39,2] moved to the mean of their heatmap in 7x7 cells where it is confident."""
    n, count = points.shape[:2]
    stride = LANDMARK_SIDE // HEATMAP_SIDE
    cell = (points / stride).floor().long()
    inside = ((cell >= 0) & (cell < HEATMAP_SIDE)).all(-1)
    reach = torch.arange(-3, 4, device=points.device)
    columns = cell[..., 0, None, None] + reach
    rows = cell[..., 1, None, None] + reach[:, None]
    on_map = (columns >= 0) & (columns < HEATMAP_SIDE) & (rows >= 0) & (rows < HEATMAP_SIDE)
    index = (rows.clamp(0, HEATMAP_SIDE - 1) * HEATMAP_SIDE + columns.clamp(0, HEATMAP_SIDE - 1)).reshape(n, count, 49)
    weight = heatmap.transpose(1, 2).gather(2, index).sigmoid().reshape(n, count, 7, 7) * on_map
    total = weight.sum((2, 3)).clamp_min(1e-9)
    mean = torch.stack([(weight * columns).sum((2, 3)) / total, (weight * rows).sum((2, 3)) / total], -1)
    confident = inside & (weight.amax((2, 3)) >= 0.5)
    return torch.where(confident[..., None], mean * stride, points)
