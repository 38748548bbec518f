"""Squares of latents and pose maps for `entprog sample` with the human video task.

Shape legend: F frames, C latent channels, h w latent height and width.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from entprog.data.posemap import draw_pose
from entprog.data.shards import ClipRow, Shards
from entprog.data.source import rendered_people
from entprog.tasks.animator import Animator, Conditions, StoredClip, StoredReference, near

if TYPE_CHECKING:
    from entprog.config.schema import Config
    from entprog.tasks.human_video.task import HumanVideoTask

__all__ = ["HumanVideoAnimator"]


class HumanVideoAnimator(Animator):
    """See `Animator`; any frame count, one pose map a frame."""

    square = True

    def __init__(self, task: "HumanVideoTask", config: "Config") -> None:
        self.task, self.config = task, config
        phases = list(config.phases.values())
        self.sides = phases[-1].sides
        self.window = max(phase.frames for phase in phases)
        if self.window == 1:  # trained on single frames only
            self.window = config.evaluate.frames
        self.rate = self._rate()

    def _rate(self) -> float:
        """Of the run's data; of rendered people by their configuration, as they need not be rendered for it."""
        data = self.config.data
        if not data.path and data.domain != "clips":
            return rendered_people(data).fps
        try:
            return float(self.task.data.about["fps"])
        except ValueError:  # the data set was moved or removed: a run can be sampled without it
            return 0.0

    def check(self, sides: tuple[int, int]) -> str:
        """Squares of a multiple of 8."""
        if sides[0] != sides[1]:
            return f"the task {self.config.task!r} makes squares; give one side"
        if sides[0] < 16 or sides[0] % 8:
            return "give a multiple of 8 from 16 up"
        return ""

    def like(self, aspect: float) -> tuple[int, int]:
        """The square that it was trained at."""
        return self.sides

    def stored_reference(self, name: str, sides: tuple[int, int]) -> StoredReference:
        """See `Animator`: the first frame."""
        shards, row = self._find("reference", name, "an image file")
        latents = shards.latents(row, sides[0], 0, 1)[0]
        shown = self.task.codec.decode(latents)
        return StoredReference(row.clip, row.subject, shown, shards.pose(row, 0, 1)[0], {"reference": latents})

    def stored_clip(self, name: str, sides: tuple[int, int]) -> StoredClip:
        """See `Animator`."""
        shards, row = self._find("drive", name, "a video file")
        shown = self.task.codec.decode(shards.latents(row, sides[0], 0, row.frames))
        return StoredClip(row.clip, row.subject, shards.pose(row, 0, row.frames), shown, row.fps)

    def reference(self, image: np.ndarray) -> Conditions:
        """Latents [C, h, w]."""
        return {"reference": self.task.codec.encode(image)}

    def conditions(
        self, reference: Conditions, keypoints: np.ndarray, faces: Tensor | None, sides: tuple[int, int]
    ) -> Conditions:
        """The reference's latents, and pose maps."""
        maps = torch.from_numpy(draw_pose(keypoints, sides[0])).movedim(-1, -3)
        return {**reference, "pose": maps}

    def _find(self, field: str, name: str, else_give: str) -> tuple[Shards, ClipRow]:
        """A clip of the run's data, whose name may have a colon, or of another prepared folder as FOLDER:CLIP."""
        parts = name.split(":")
        splits = [(":".join(parts[:i]), ":".join(parts[i:])) for i in range(1, len(parts))]
        for folder, clip in splits:
            if (Path(folder) / "dataset.json").is_file():
                shards = Shards(folder)
                return shards, _row(shards, clip, field, name, else_give)
        shards = self.task.data
        missing = f" and no folder {splits[-1][0]!r}" if splits else ""
        return shards, _row(shards, name, field, name, else_give, missing)


def _row(shards: Shards, clip: str, field: str, name: str, else_give: str, also: str = "") -> ClipRow:
    rows = {row.clip: row for row in shards.rows}
    if clip in rows:
        return rows[clip]
    raise ValueError(
        f"{field} = {name!r}: no such file, and no such clip among {len(rows)} in {shards.folder}{also}; "
        f"give {else_give} or a clip, such as {near(list(rows), clip)}, or FOLDER:CLIP of another data set"
    )
