"""The contract of a task that animates: how it makes a clip of any length of a reference image in given poses.

Shape legend: F frames, H W height and width in pixels, S side of the face's video in pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
from torch import Tensor

__all__ = ["Animator", "StoredClip", "StoredReference"]

Conditions = Mapping[str, Tensor]


@dataclass(frozen=True)
class StoredReference:
    """A reference from a prepared data set.

    Attributes:
        name, subject: of its clip.
        shown: [3, H, W] in 0..1.
        keypoints: [18, 3] in 0..1 of the image; None where they are not stored.
        conditions: what the model takes of it.
    """

    name: str
    subject: str
    shown: Tensor
    keypoints: np.ndarray | None
    conditions: Conditions


@dataclass(frozen=True)
class StoredClip:
    """A driving clip from a prepared data set.

    Attributes:
        name, subject: of the clip.
        keypoints: [F, 18, 3] in 0..1 of its frames.
        shown: its frames [F, 3, H, W] in 0..1.
        fps: frames a second.
        conditions: what the model takes of it as it is stored, for the whole clip as one window; empty: of the poses.
        notes: what to say of it.
    """

    name: str
    subject: str
    keypoints: np.ndarray
    shown: Tensor
    fps: float
    conditions: Conditions = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Animator(ABC):
    """What a task asks of a reference and poses, and makes of them.

    Attributes:
        square: whether clips are squares.
        window: frames that the model is trained on at once.
        group: a window begins at a multiple of so many frames, and is that times k + 1 frames long.
        fade: whether the codec decodes a frame by those beside it, so a little differently in another window.
        fixed: whether a window always has `window` frames.
        face: side S of a video of the face that `conditions` needs; 0 for none.
        sides: height and width that the run was trained at last.
        rate: frames a second of the run's data; 0 where that is not known.
    """

    square: bool = False
    window: int
    group: int = 1
    fade: bool = False
    fixed: bool = False
    face: int = 0
    sides: tuple[int, int]
    rate: float = 0.0

    @abstractmethod
    def check(self, sides: tuple[int, int]) -> str:
        """Why clips of this height and width can't be made, and the remedy; empty where they can."""

    @abstractmethod
    def like(self, aspect: float) -> tuple[int, int]:
        """Height and width of about this aspect (width / height) and of the area that the run was trained at."""

    @abstractmethod
    def stored_reference(self, name: str, sides: tuple[int, int]) -> StoredReference:
        """The first frame, or reference image, of a clip by name.

        Raises:
            ValueError: there is none; naming `reference` and what to give instead.
        """

    @abstractmethod
    def stored_clip(self, name: str, sides: tuple[int, int]) -> StoredClip:
        """A driving clip by name; ValueError as above, naming `drive`."""

    @abstractmethod
    def reference(self, image: np.ndarray) -> Conditions:
        """What the model takes of a reference image uint8 [H, W, 3] of the clip's size, for all windows."""

    @abstractmethod
    def conditions(
        self, reference: Conditions, keypoints: np.ndarray, faces: Tensor | None, sides: tuple[int, int]
    ) -> Conditions:
        """What the task's `generate` takes for one window, without the batch axis.

        Args:
            reference: as `reference` or `stored_reference` gave it.
            keypoints: [F, 18, 3] in 0..1 of the frame.
            faces: uint8 [F, 3, S, S], where `face` asks for it.
            sides: height and width of the clip.
        """


def near(names: Sequence[str], name: str) -> str:
    """Some names like one that is not there."""
    return ", ".join(get_close_matches(name, names, 3, cutoff=0.3) or sorted(names)[:3])
