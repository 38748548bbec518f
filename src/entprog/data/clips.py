"""Batches of clips with their reference image and poses.

Shape legend: B samples, F frames, C latent channels, h w latent height and width, S pixels of a side.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from entprog.core.types import Shape
from entprog.data.posemap import draw_pose
from entprog.data.sampler import generator, locate, shuffled
from entprog.data.shards import ClipRow, Shards


@dataclass(frozen=True, slots=True)
class Batch:
    """Clean training samples.

    Attributes:
        latents: [B, F, C, h, w].
        reference: [B, C, h, w], a frame of the same person and scene from another clip where there is one.
        pose: pose maps [B, F, 3, S, S] uint8.
        positions: [B] position of each sample in the run's data stream; fixes its noise.
        clips: name of each sample's clip.
    """

    latents: Tensor
    reference: Tensor
    pose: Tensor
    positions: np.ndarray
    clips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """Which frames of which clips make one sample."""

    row: ClipRow
    start: int
    reference: ClipRow
    reference_frame: int


class Clips:
    """One split of a prepared data set as an endless, seekable stream of samples."""

    def __init__(self, shards: Shards, split: str, *, seed: int = 0, frames: int = 1) -> None:
        self.shards, self.split, self.seed = shards, split, seed
        self.rows = [row for row in shards.rows if row.split == split and row.frames >= frames]
        if not self.rows:
            longest = max((row.frames for row in shards.rows if row.split == split), default=0)
            remedy = "lower the phase's frames or prepare longer clips"
            if not longest:
                remedy = "prepare it with more videos" + (", and a holdout share above 0" * (split == "holdout"))
            raise ValueError(
                f"data: no {split} clip in {shards.folder} has {frames} frames (longest {longest}); {remedy}"
            )
        self._same_scene: dict[tuple[str, str], list[ClipRow]] = defaultdict(list)
        for row in shards.rows:
            if row.split == split:
                self._same_scene[row.subject, row.scene].append(row)
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, position: int, shape: Shape) -> Batch:
        """The `shape.batch` samples from `position` on; a pure function of (seed, position, shape)."""
        samples = [self.sample(position + i, shape.frames) for i in range(shape.batch)]
        return self.assemble(samples, np.arange(position, position + shape.batch), shape)

    def sample(self, position: int, frames: int) -> Sample:
        """Clip and frames of the sample at `position`."""
        epoch, place = locate(position, len(self.rows))
        if epoch not in self._orders:
            self._orders = {epoch: shuffled(self.seed, epoch, len(self.rows))}
        index = int(self._orders[epoch][place])
        row = self.rows[index]
        where, which, frame = generator(self.seed, 3, epoch, index).random(3)
        start = int(where * (row.frames - frames + 1))
        others = [other for other in self._same_scene[row.subject, row.scene] if other.clip != row.clip]
        reference = others[int(which * len(others))] if others else row
        return Sample(row, start, reference, int(frame * reference.frames))

    def assemble(self, samples: list[Sample], positions: np.ndarray, shape: Shape) -> Batch:
        """Read the samples' tensors and draw their pose maps at full resolution."""
        size, frames = shape.resolution, shape.frames
        latents = torch.stack([self.shards.latents(s.row, size, s.start, frames) for s in samples])
        reference = torch.stack([self.shards.latents(s.reference, size, s.reference_frame, 1)[0] for s in samples])
        keypoints = np.stack([self.shards.pose(s.row, s.start, frames) for s in samples])
        maps = torch.from_numpy(draw_pose(keypoints, size)).movedim(-1, -3)
        return Batch(latents, reference, maps, positions, tuple(s.row.clip for s in samples))
