"""Poses that another program has written beside the videos: JSON of OpenPose, DWPose's scripts or MMPose."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from entprog.poses._people import Person, again
from entprog.poses._sidecars import FramePoses, Sidecar, find_sidecar
from entprog.poses._wholebody import POINTS, pose_score
from entprog.poses.base import FOUND_THRESHOLD, PosesUnusable, Track, gathered

__all__ = ["OpenPoseJson"]

LEAST_POINTS = 4
"""Keypoints of a body that must be seen for it to count as a person."""
SEEN = 0.5


@dataclass(frozen=True)
class OpenPoseJson:
    """Keypoints in JSON files beside the videos (VIDEO_keypoints/ or VIDEO.json), with hands and face if given.

    Attributes:
        folder: where the pose files lie; beside the videos if not given.
        size: WIDTHxHEIGHT of the pictures that the pixels are of, where it is neither in the files nor the video's.
        threshold: confidence from which a keypoint counts as seen; stored as 0.5. By default 0.1 for OpenPose's and
            DWPose's files, 0.3 for MMPose's.
    """

    folder: Path | None = None
    size: str = ""
    threshold: float | None = None

    def __post_init__(self) -> None:
        wrong = []
        if self.folder is not None and not self.folder.is_dir():
            wrong.append(f"folder = {str(self.folder)!r}: no such folder; give the one with the pose files")
        if self.size and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", self.size, re.ASCII):
            wrong.append(f'size = {self.size!r}: give width x height, such as "1920x1080"')
        if self.threshold is not None and not 0 < self.threshold < 1:
            wrong.append(f"threshold = {self.threshold}: give a number above 0 and below 1")
        if wrong:
            raise ValueError("; ".join(wrong))

    def open(self, device: str = "cpu") -> "Sidecars":
        width, _, height = self.size.partition("x")
        return Sidecars(self.folder, (float(width), float(height)) if self.size else None, self.threshold)


class Sidecars:
    """Reads the pose file of each video; knows nothing of pictures."""

    def __init__(
        self, folder: Path | None = None, size: tuple[float, float] | None = None, threshold: float | None = None
    ) -> None:
        self.folder, self.size, self.threshold = folder, size, threshold

    def single(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("pose = 'openpose_json': it has poses of videos only; use blazepose or dwpose for pictures")

    def tracker(self, source: Path | None = None) -> "SidecarTracker":
        if source is None:
            raise PosesUnusable("openpose_json needs the video's path, beside which the pose file lies")
        sidecar = Sidecar(find_sidecar(Path(source), self.folder), self.threshold)
        return SidecarTracker(Path(source), sidecar, self.size)


class SidecarTracker:
    """One person through a video: the largest at the start, then whoever is nearest to the last place."""

    def __init__(self, source: Path, sidecar: Sidecar, size: tuple[float, float] | None) -> None:
        self.source, self.sidecar, self.size = source, sidecar, size
        self.last: Person | None = None
        self.lost, self.index, self.missing = 0, -1, 0
        self.rows: list[tuple[np.ndarray, float, int]] = []

    def step(self, frame: np.ndarray, *, index: int, restart: bool = False) -> np.ndarray:
        if restart:
            self.last = None
        self.index = max(self.index, index)
        written = self.sidecar.frame(index)
        self.missing += written is None
        height, width = frame.shape[:2]
        bodies = self._people(written or FramePoses(), width, height)
        circles = [person for person, _ in bodies]
        person = again(circles, self.last, self.lost)
        keypoints, score = np.zeros((POINTS, 3), np.float32), 0.0
        if person is not None:
            found = next(points for circle, points in bodies if circle is person)
            sure = pose_score(found)
            if sure >= FOUND_THRESHOLD:
                keypoints, score, self.last = found, sure, person
        self.lost = 0 if score else self.lost + 1
        self.rows.append((keypoints, score, len(bodies)))
        return keypoints[:18]

    def result(self) -> Track:
        frames, name, read = self.sidecar.frames, self.sidecar.path.name, self.index + 1
        if self.rows and self.sidecar.path.is_file() and frames < read:
            raise PosesUnusable(f"{name} has {frames} frames, but the video has {read} or more; make them anew")
        notes = []
        step = -(-read // max(len(self.rows), 1))
        if frames > read + step:
            notes.append(f"{name} has {frames} frames, but the video was read to frame {read}")
        if self.missing:
            notes.append(f"{name} has nothing on {self.missing} of {len(self.rows)} frames")
        track = gathered(self.rows, POINTS)
        hands = track.hands if track.hands is not None and track.hands.any() else None
        face = track.face if track.face is not None and track.face.any() else None
        return Track(track.keypoints, track.score, track.people, hands, face, tuple(notes))

    def _people(self, written: FramePoses, width: int, height: int) -> list[tuple[Person, np.ndarray]]:
        """Circle and keypoints in pixels of the frame of everyone who can be seen, the largest first."""
        people = []
        scale = None
        for points in written.people:
            seen = points[:18][points[:18, 2] >= SEEN]
            if len(seen) < LEAST_POINTS:
                continue
            scale = self._scale(written.canvas, width, height) if scale is None else scale
            moved = points * np.array([*scale, 1], np.float32)
            low, high = seen[:, :2].min(0) * scale, seen[:, :2].max(0) * scale
            centre = ((low + high) / 2).tolist()
            radius = float((high - low).max()) / 2
            people.append((Person((centre[0], centre[1]), radius, 0.0, 1.0), moved))
        return sorted(people, key=lambda pair: -pair[0].radius)

    def _scale(self, canvas: tuple[float, float] | None, width: int, height: int) -> np.ndarray:
        """Pixels of the frame for one unit of the file's coordinates, in x and y."""
        if self.sidecar.unit:
            return np.array([width, height], np.float32)
        if self.size is None and canvas is None:
            self.size = _size_of(self.source)
        wide, high = self.size or canvas or (width, height)
        if (wide > high) != (width > height) and self.size is not None and canvas is None:
            wide, high = high, wide  # a video that is turned when it is shown
        return np.array([width / wide, height / high], np.float32)


def _size_of(source: Path) -> tuple[float, float]:
    """Width and height of a video's stored pictures, or of the first of a folder of pictures.

    Raises:
        PosesUnusable: it cannot be read.
    """
    import av
    from PIL import Image

    try:
        if source.is_dir():
            pictures = sorted(path for path in source.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
            with Image.open(pictures[0]) as picture:
                return float(picture.width), float(picture.height)
        with av.open(str(source), metadata_errors="replace") as container:
            stream = container.streams.best("video") or container.streams.video[0]
            return float(stream.width), float(stream.height)  # type: ignore[attr-defined]
    except (OSError, ValueError, IndexError) as error:
        raise PosesUnusable(f"{source.name}: its size cannot be read ({error}); give the option size") from error
