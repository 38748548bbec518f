"""The pose of the people in frames, offline: BlazePose's two networks, tracked through a video.

Pipeline as published (Bazarevsky et al., arXiv 2006.10204): a detector proposes a person as a circle (centre
of the hips, radius, lean); the landmark network reads the square around it, turned upright; its two auxiliary
points give the next frame's circle, so that the detector runs only at the start and after a loss.

Coordinates are continuous pixels: the frame covers [0, W] x [0, H]. Keypoints are in OpenPose-18 order.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from entprog.poses._networks import DETECTOR_SIDE, LANDMARK_SIDE, BlazeGraph

DETECTOR_THRESHOLD = 0.5
"""Smallest detector score of a person (the published value)."""
FOUND_THRESHOLD = 0.5
"""Smallest landmark score of a pose that counts as found (the published value)."""
OPENPOSE_18 = (0, -1, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
"""BlazePose's index of each OpenPose-18 keypoint; -1: the neck, the middle of the shoulders."""
SHOULDERS = (11, 12)
MARGIN = 1.25
HEATMAP_SIDE = 64
COUNT_EVERY = 8
"""While a person is tracked, the detector counts the people every so many frames."""
BATCH = 32
"""Frames in one batch of `single`, which limits its memory."""


@dataclass(frozen=True)
class Person:
    """Position of a person: a circle around the body, in pixels; `angle` is the lean in radians, 0 upright."""

    centre: tuple[float, float]
    radius: float
    angle: float
    score: float


@dataclass(frozen=True)
class Track:
    """One person through a video.

    keypoints: float32 [F,18,3], x and y in pixels, visibility 0..1; all zero in frames without a pose.
    score: float32 [F], 0..1; `found` where it is at least FOUND_THRESHOLD.
    people: int [F], people found by the detector in the frames where it ran, -1 elsewhere.
    hands: float32 [F,42,3], the left hand's keypoints before the right one's, as `keypoints`; None: not given.
    face: float32 [F,68,3], likewise.
    """

    keypoints: np.ndarray
    score: np.ndarray
    people: np.ndarray
    hands: np.ndarray | None = None
    face: np.ndarray | None = None

    @property
    def found(self) -> np.ndarray:
        return self.score >= FOUND_THRESHOLD


class PoseEstimator:
    """BlazePose ("full") from the packaged weights. Deterministic; 20-30 ms a frame on one CPU core."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.detector = BlazeGraph("pose_detector").to(self.device)
        self.landmarks = BlazeGraph("pose_landmarks").to(self.device)
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
            factor = LANDMARK_SIDE / short
            size = (round(height * factor), round(width * factor))
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
            tracker.step(frame, restart=i in again)
        return tracker.result()

    def tracker(self, source: Path | None = None) -> "Tracker":
        """A tracker for one video; `source` is not needed."""
        return Tracker(self)

    def _images(self, frames: Tensor) -> Tensor:
        if frames.dim() != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
            raise ValueError(f"frames: {frames.dtype} {tuple(frames.shape)}; give uint8 [N,H,W,3]")
        return frames.to(self.device).permute(0, 3, 1, 2).float()


class Tracker:
    """The state of tracking one person: `step` takes the next frame, `result` returns what was found."""

    def __init__(self, estimator: PoseEstimator) -> None:
        self.estimator = estimator
        self.circle: Person | None = None
        self.last: Person | None = None
        self.rows: list[tuple[np.ndarray, float, int]] = []

    def step(self, frame: np.ndarray, *, index: int = -1, restart: bool = False) -> np.ndarray:
        """Keypoints [18,3] of the next frame; all zero without a pose. `index`: its number in the file."""
        batch = torch.from_numpy(np.ascontiguousarray(frame))[None]
        if restart:
            self.circle = self.last = None
        keypoints, score, count = np.zeros((18, 3), np.float32), 0.0, -1
        if self.circle is not None:
            keypoints, score = self._follow(batch, self.circle)
        if score < FOUND_THRESHOLD or len(self.rows) % COUNT_EVERY == 0:
            people = self.estimator.detect(batch)[0]
            count = len(people)
            if score < FOUND_THRESHOLD:
                self.circle = None
                person = _nearest(people, self.last)
                keypoints, score = (
                    (np.zeros((18, 3), np.float32), 0.0) if person is None else self._follow(batch, person)
                )
        self.last = self.circle or self.last
        self.rows.append((keypoints, score, count))
        return keypoints

    def result(self) -> Track:
        keypoints = np.stack([row[0] for row in self.rows]) if self.rows else np.zeros((0, 18, 3), np.float32)
        score = np.array([row[1] for row in self.rows], np.float32)
        return Track(keypoints, score, np.array([row[2] for row in self.rows], np.int64))

    def _follow(self, batch: Tensor, circle: Person) -> tuple[np.ndarray, float]:
        points, visibility, scores = self.estimator.read(batch, [circle])
        score = float(scores[0])
        if score < FOUND_THRESHOLD:
            return np.zeros((18, 3), np.float32), 0.0
        centre, rim = points[0, 33].tolist(), points[0, 34].tolist()
        self.circle = _smooth(self.circle, _circle(centre, rim, score))
        return to_openpose(points, visibility)[0].cpu().numpy(), score


def to_openpose(points: Tensor, visibility: Tensor) -> Tensor:
    """BlazePose points [N,>=33,2] and visibility [N,>=33] -> keypoints [N,18,3].

    The neck is as visible as the less visible shoulder.
    """
    blaze = torch.cat([points, visibility[..., None]], -1)
    right, left = blaze[:, SHOULDERS[1]], blaze[:, SHOULDERS[0]]
    neck = torch.cat([(right + left)[:, :2] / 2, torch.minimum(right, left)[:, 2:]], -1)
    return torch.stack([neck if number < 0 else blaze[:, number] for number in OPENPOSE_18], 1)


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
    line = (torch.arange(side, device=images.device) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    local = torch.stack([x, y], -1).expand(len(images), side, side, 2)
    pixels = region[:, None, None, :2] + region[:, None, None, 2:3] * _turn(local, region[:, 3])
    grid = pixels / torch.tensor([width / 2, height / 2], device=images.device) - 1
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
    weight = heatmap.sigmoid().transpose(1, 2).gather(2, index).reshape(n, count, 7, 7) * on_map
    total = weight.sum((2, 3)).clamp_min(1e-9)
    mean = torch.stack([(weight * columns).sum((2, 3)) / total, (weight * rows).sum((2, 3)) / total], -1)
    confident = inside & (weight.amax((2, 3)) >= 0.5)
    return torch.where(confident[..., None], mean * stride, points)


def _circle(centre: list[float], rim: list[float], score: float) -> Person:
    dx, dy = rim[0] - centre[0], rim[1] - centre[1]
    return Person((centre[0], centre[1]), MARGIN * math.hypot(dx, dy), math.atan2(dy, dx) + math.pi / 2, score)


def _smooth(last: Person | None, new: Person) -> Person:
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


def _nearest(people: list[Person], last: Person | None) -> Person | None:
    """The person nearest in position and scale to where the last one was, or without that the largest."""
    if last is None or not people:
        return people[0] if people else None
    away = [
        math.dist(person.centre, last.centre) / last.radius + abs(math.log(max(person.radius, 1e-6) / last.radius))
        for person in people
    ]
    return people[away.index(min(away))]


def _people(points: np.ndarray, score: np.ndarray) -> list[Person]:
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
        person = _circle(centre, rim, float(score[best]))
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
