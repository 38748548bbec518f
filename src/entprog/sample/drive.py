"""The driving video: its longest piece that shows one person, and its frames one after another.

Shape legend: F frames, H W height and width in pixels.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from entprog.codecs.pca import to_uint8
from entprog.poses.base import PoseEstimator
from entprog.prepare.crop import Rectangle, crop, face_boxes, fill_gaps, resize
from entprog.prepare.person import find_person
from entprog.prepare.quality import STILL_PICTURE
from entprog.prepare.video import EXTENSIONS, Video, looks_like_video
from entprog.sample.reference import cut, plain
from entprog.tasks.animator import Conditions, StoredClip

__all__ = ["Drive", "Frames", "has_sound", "read_drive", "stored_drive"]

LONGEST_PAUSE = 60.0
"""Seconds; shorter pauses of a drive are kept, with the frame before them repeated, so that its sound stays in step."""
SECONDS = 60
"""With a number of frames given, no more of a video is read than this, or than these frames need."""


@dataclass(frozen=True)
class Drive:
    """Poses to follow.

    Attributes:
        name: safe in file names.
        subject: of a stored clip; "" of a video file.
        keypoints: [F, 18, 3] in pixels of frames of `size`.
        size: (width, height).
        fps: frames a second of these poses.
        path: of a video file, for its sound and frames; `start`: the first of these frames in it; `skipped`: seconds
            of the file that were cut out before it.
        stored: frames [F, 3, H, W] of a stored clip.
        conditions: see `StoredClip`.
        notes: what is used of it, in short sentences.
    """

    name: str
    subject: str
    keypoints: np.ndarray = field(repr=False)
    size: tuple[int, int]
    fps: float
    path: Path | None = None
    start: int = 0
    skipped: float = 0.0
    stored: Tensor | None = field(default=None, repr=False)
    conditions: Conditions = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.keypoints)

    @property
    def begins(self) -> float:
        """Seconds from the first frame of the file to the first of these frames, by the file's own clock."""
        return self.start / self.fps + self.skipped


def read_drive(path: Path, fps: float, frames: int | None, estimator: PoseEstimator) -> Drive:
    """The longest piece that shows one person in a video or a folder of numbered pictures, at `fps` frames a second.

    Raises:
        ValueError: no video, or no person in it.
    """
    if path.is_file() and path.suffix.lower() not in EXTENSIONS and not looks_like_video(path):
        raise ValueError(f"drive = {str(path)!r}: not a video; give a video file, such as .mp4, or a clip's name")
    most = None if frames is None else max(frames, int(SECONDS * fps))
    settings = {"fps": fps, "people": "largest", "max_frames": most, "min_sharpness": 0.0}
    settings |= {"longest_pause": LONGEST_PAUSE}
    row, person = find_person(path, path.stem, settings, estimator, 1)
    pieces = person.pieces if person else []
    usable = [piece for piece in pieces if piece.reason is None or piece.reason.kind == STILL_PICTURE]
    if person is None or not usable:
        reasons = dict.fromkeys(str(piece.reason) for piece in person.pieces) if person else [row["reason"]]
        raise ValueError(
            f"drive = {str(path)!r}: {'; '.join(reasons)}; give a video of at least one person, seen well lit and large"
        )
    piece = max(usable, key=lambda one: one.end - one.start)
    notes = []
    if len(person.pieces) > 1:
        span = f"{_clock(piece.start / fps)}-{_clock(piece.end / fps)}"
        number, count = person.pieces.index(piece) + 1, len(person.pieces)
        notes.append(f"the longest of {count} pieces ({len(usable)} can be used), {span}, number {number}")
    if row["people_max"] > 1:
        notes.append(f"{row['people_max']} people, of whom the largest is followed")
    notes += row["notes"]
    if most is not None and piece.end == most:
        notes.append(f"read up to {_clock(piece.end / fps)}")
    keypoints = fill_gaps(piece.keypoints, piece.found)
    return Drive(
        plain(path.stem), "", keypoints, person.size, fps, path, piece.start, piece.skipped, notes=tuple(notes)
    )


def has_sound(path: Path | None) -> bool:
    """Whether a file has sound that can be kept."""
    if path is None or path.is_dir():
        return False
    with av.open(str(path), metadata_errors="ignore") as container:
        return bool(container.streams.audio)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def stored_drive(clip: StoredClip, fps: float | None) -> Drive:
    """A clip of a data set; at another rate than its own, the frames nearest in time."""
    height, width = clip.shown.shape[-2:]
    rate, picked = fps or clip.fps, np.arange(len(clip.keypoints))
    notes = list(clip.notes)
    if rate != clip.fps and not clip.conditions:
        picked = np.arange(max(1, round(len(picked) * rate / clip.fps)))
        picked = np.minimum((picked * clip.fps / rate + 0.5).astype(int), len(clip.keypoints) - 1)
        notes.append(f"its {clip.fps:g} frames a second taken at {rate:g}")
    elif clip.conditions:
        rate = clip.fps
    keypoints = clip.keypoints[picked] * np.array([width, height, 1], np.float32)
    return Drive(
        plain(clip.name), clip.subject, keypoints, (width, height), rate,
        stored=clip.shown[picked], conditions=clip.conditions, notes=tuple(notes),
    )  # fmt: skip


class Frames:
    """The frames of a drive, read in order; those asked for before are forgotten, so that memory stays flat."""

    def __init__(self, drive: Drive, where: Rectangle, sides: tuple[int, int], *, face: int = 0) -> None:
        """`where`: what is shown of a file's frames, at `sides`; `face`: side of the face's square, 0 for none."""
        self.drive, self.place, self.sides, self.face = drive, where, sides, face
        self.boxes = face_boxes(drive.keypoints) if face else []
        self._kept: deque[tuple[np.ndarray, Tensor | None]] = deque()
        self._first = 0
        self._source = self._read()

    def take(self, first: int, count: int) -> tuple[np.ndarray, Tensor | None]:
        """Frames uint8 [count, H, W, 3] from `first` on, and faces uint8 [count, 3, S, S]; the last is repeated.

        `first` never goes down from call to call.
        """
        while self._first < first and (self._kept or self._more()):
            if len(self._kept) == 1 and not self._more():
                break
            self._kept.popleft()
            self._first += 1
        while len(self._kept) < count and self._more():
            pass
        kept = list(self._kept)[:count]
        kept += kept[-1:] * (count - len(kept))
        faces = [face for _, face in kept if face is not None]
        return np.stack([frame for frame, _ in kept]), torch.stack(faces) if faces else None

    def _more(self) -> bool:
        found = next(self._source, None)
        if found is not None:
            self._kept.append(found)
        return found is not None

    def _read(self) -> Iterator[tuple[np.ndarray, Tensor | None]]:
        drive = self.drive
        if drive.stored is not None:
            for frame in drive.stored:
                yield resize(torch.from_numpy(to_uint8(frame))[None], self.sides)[0].numpy(), None
            return
        assert drive.path is not None
        end = drive.start + len(drive)
        for index, frame in enumerate(Video(drive.path, fps=drive.fps, longest_pause=LONGEST_PAUSE)):
            if index >= end:
                return
            if index >= drive.start:
                yield cut(frame, self.place, self.sides), self._face(frame, index - drive.start)

    def _face(self, frame: np.ndarray, index: int) -> Tensor | None:
        if not self.boxes:
            return None
        square = torch.from_numpy(crop(frame, self.boxes[index]))[None]
        return resize(square, self.face)[0].movedim(-1, 0).contiguous()
