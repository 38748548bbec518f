"""What a prepared data set holds, in small pictures: frames of its clips with poses, and of the dropped files."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from entprog.codecs.pca import PatchCodec, to_uint8
from entprog.data.shards import FORMAT, ClipRow, Shards
from entprog.data.windows import WindowRow, Windows
from entprog.prepare.crop import crop, cut_out
from entprog.prepare.pictures import Budget, beside, frames_at, jpeg, poster, resized, with_pose

__all__ = [
    "ClipPicture",
    "DataSet",
    "DroppedPicture",
    "clip_pictures",
    "dropped_pictures",
    "frames_with_poses",
    "rows_of",
]

TILES = 6
HEIGHT = 168
"""Of a tile in pixels."""
POSTER = 132
"""Height of a dropped file's picture."""
DIFFERENT = 0.15
"""Mean difference in 0..1 between a frame of the source and the stored one, above which it is another frame."""
TAIL = "-tail"
Item = TypeVar("Item")
Row = dict[str, Any]


@dataclass(frozen=True)
class ClipPicture:
    """Frames of a clip side by side with their poses, as JPEG; None with a `note` that says why not."""

    clip: str
    subject: str
    split: str
    frames: int
    picture: bytes | None
    note: str = ""


@dataclass(frozen=True)
class DroppedPicture:
    """One frame of a dropped file, as JPEG; None where none can be read."""

    row: Row
    picture: bytes | None


class DataSet:
    """The files of `prepare` in a folder.

    Attributes:
        rows: of prepare.jsonl.
        settings: prepare.json.
        clips: the index: the rows of each clip (format 1: one; format 2: its windows), by its name.
        codec: the packaged one.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ValueError or OSError where the folder is no data set."""
        self.folder = folder
        self.rows = rows_of(folder / "prepare.jsonl")
        self.settings: Row = json.loads((folder / "prepare.json").read_text(encoding="utf-8"))
        self.fps = float(self.settings["fps"])
        self.stored: Shards | Windows = Shards(folder) if self.settings["format"] == FORMAT else Windows(folder)
        self.clips: dict[str, list[Any]] = defaultdict(list)
        for row in self.stored.rows:
            self.clips[row.clip].append(row)
        self._files = {clip: row for row in self.rows for clip in row.get("clips") or ()}
        self.codec = PatchCodec.default()

    def file_of(self, clip: str) -> Row:
        """The row of prepare.jsonl that a clip is from; empty where there is none."""
        return self._files.get(clip, {})

    def begins(self, clip: str) -> tuple[Row, int | None, str]:
        """Of a clip of format 1: its file's row, its first frame there (None if that is not recorded), its name there.

        The held-out end of a clip is a clip of its own in the index (NAME-tail), which prepare.jsonl does not know.
        """
        name, before = clip, 0
        if not self.file_of(name) and clip.endswith(TAIL):
            name = clip.removesuffix(TAIL)
            before = self.clips[name][0].frames if name in self.clips else 0
        file = self.file_of(name)
        piece = next((piece for piece in file.get("pieces") or () if piece.get("clip") == name), None)
        return file, None if piece is None else int(piece["start"]) + before, name

    def length(self, clip: str) -> int:
        """Frames of a clip."""
        rows = self.clips[clip]
        return max(row.start for row in rows) - min(row.start for row in rows) + int(rows[0].frames)


def rows_of(path: Path) -> list[Row]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, most - 1))] for i in range(most)]


def clip_pictures(data: DataSet, *, most: int, size: int, budget: Budget) -> list[ClipPicture]:
    """Pictures of at most `most` clips and about `size` bytes, a quarter of them held out where there are so many."""
    held = [clip for clip, rows in data.clips.items() if rows[0].split != "train"]
    train = [clip for clip, rows in data.clips.items() if rows[0].split == "train"]
    some = spread(held, max(1, most // 4, most - len(train)))
    chosen = set(some) | set(spread(train, most - len(some)))
    pictures, filled = [], 0
    for clip in [clip for clip in data.clips if clip in chosen]:
        picture = _clip_picture(data, clip, budget)
        filled += len(picture.picture or b"")
        if filled > size:
            break
        pictures.append(picture)
    return pictures


def _clip_picture(data: DataSet, clip: str, budget: Budget) -> ClipPicture:
    length, first = data.length(clip), data.clips[clip][0]
    numbers = sorted({round(i * (length - 1) / (TILES - 1)) for i in range(TILES)})
    frames, note = frames_with_poses(data, clip, numbers, height=HEIGHT, budget=budget)
    picture = None if frames is None else jpeg(beside(frames))
    splits = " and ".join(sorted({row.split for row in data.clips[clip]}, reverse=True))
    return ClipPicture(clip, first.subject, splits, length, picture, note)


def frames_with_poses(
    data: DataSet, clip: str, numbers: list[int], *, height: int, budget: Budget
) -> tuple[np.ndarray | None, str]:
    """These frames of a clip, cut out as they are trained on, with poses drawn, uint8 [F,height,w,3]; and a note.

    None where there are none; the note then says why.
    """
    read = _of_clip if isinstance(data.stored, Shards) else _of_windows
    return read(data, clip, numbers, height, budget)


def _of_clip(
    data: DataSet, clip: str, numbers: list[int], height: int, budget: Budget
) -> tuple[np.ndarray | None, str]:
    """Format 1: frames of the source, or, where these can't be had, those that the latents hold."""
    shards: Any = data.stored
    row: ClipRow = data.clips[clip][0]
    poses = np.stack([shards.pose(row, number, 1)[0] for number in numbers])
    stored = _decoded(data, shards, row, numbers)
    file, begin, name = data.begins(clip)
    frames, why = None, "where the clip begins is not recorded"
    if begin is not None:
        square = tuple(file["crops"][name])
        tiles, why = _source(
            data, file, [begin + number for number in numbers], height / square[2], budget,
            lambda frame, scale: crop(frame, _scaled(square, scale)),
        )  # fmt: skip
        if tiles is not None and (stored is None or _alike(tiles, stored)):
            frames = tiles
        elif tiles is not None:
            why = "the source shows other frames now"
    if frames is not None:
        return with_pose(resized(frames, height), poses), ""
    if stored is None:
        return None, f"{why}, and the codec of the latents is not at hand"
    note = "" if begin is None else f"{why}: decoded from the latents"
    return with_pose(resized(stored, height), poses), note


def _decoded(data: DataSet, shards: Shards, row: ClipRow, numbers: list[int]) -> np.ndarray | None:
    """The stored frames at the largest size, where the data set was made with the packaged codec."""
    codec = data.codec
    if shards.about.get("codec_hash") != codec.hash:
        return None
    size = max(shards.sizes)
    return np.concatenate([to_uint8(codec.decode(shards.latents(row, size, number, 1))) for number in numbers])


def _alike(tiles: np.ndarray, stored: np.ndarray) -> bool:
    small = resized(tiles, stored.shape[1]).astype(np.float32)
    return bool(np.abs(small - stored).mean() / 255 < DIFFERENT)


def _of_windows(
    data: DataSet, clip: str, numbers: list[int], height: int, budget: Budget
) -> tuple[np.ndarray | None, str]:
    """Format 2: frames of the source, at the largest size."""
    windows: Any = data.stored
    file = data.file_of(clip)
    rows: list[WindowRow] = data.clips[clip]
    largest = max(rows, key=lambda row: row.height * row.width)
    rows = sorted((row for row in rows if row.size == largest.size), key=lambda row: row.start)
    rectangle = file.get("crops", {}).get(clip, {}).get(largest.size)
    if rectangle is None:
        return None, "prepare.jsonl has no row of this clip"
    poses = []
    for number in numbers:
        at = rows[0].start + number
        row = [row for row in rows if row.start <= at][-1]
        pose = windows.read(row, ["pose"])["pose"]
        poses.append(pose[min(at - row.start, len(pose) - 1)].numpy())
    x0, y0, wide, high = rectangle
    sides = (height, max(1, round(height * wide / high)))

    def cut(frame: np.ndarray, scale: float) -> np.ndarray:
        x, y = min(round(x0 * scale), frame.shape[1] - 1), min(round(y0 * scale), frame.shape[0] - 1)
        return cut_out(frame, (x, y, max(1, round(wide * scale)), max(1, round(high * scale))), sides)

    tiles, why = _source(data, file, [rows[0].start + number for number in numbers], height / high, budget, cut)
    return (None, why) if tiles is None else (with_pose(tiles, np.stack(poses)), "")


def _source(
    data: DataSet, file: Row, numbers: list[int], scale: float, budget: Budget,
    cut: Callable[[np.ndarray, float], np.ndarray],
) -> tuple[np.ndarray | None, str]:  # fmt: skip
    """The parts of these frames of a source, reduced to about `scale`, that `cut` takes; or why not."""
    path, full = Path(file["source"]), file.get("size") or [0, 0]
    if not path.exists():
        return None, "the source is gone"
    if not budget.left():
        return None, "not read, to save time"
    short = max(1, min(min(full), math.ceil(scale * min(full))))
    found = frames_at(
        path, numbers, fps=data.fps, short_side=short, decoded=int(file.get("decoded_frames", 0)), budget=budget
    )
    if len(found) < len(numbers):
        return None, "the source could not be read" if budget.left() else "not read, to save time"
    return np.stack([cut(frame, frame.shape[1] / full[0]) for frame in found.values()]), ""


def _scaled(square: Sequence[int], scale: float) -> tuple[int, int, int]:
    x0, y0, side = (round(value * scale) for value in square)
    return x0, y0, max(1, side)


def dropped_pictures(data: DataSet, *, most: int, size: int, budget: Budget) -> list[DroppedPicture]:
    """Dropped files with a picture, at most `most` and about `size` bytes: of each reason some."""
    by_reason: dict[str, list[Row]] = defaultdict(list)
    for row in data.rows:
        if row.get("status") != "kept":
            by_reason[str(row.get("reason"))].append(row)
    chosen: list[Row] = []
    for turn in range(max(map(len, by_reason.values()), default=0)):
        chosen += [rows[turn] for rows in by_reason.values() if turn < len(rows)]
        if len(chosen) >= most:
            break
    pictures, filled = [], 0
    for row in chosen[:most]:
        source = Path(str(row.get("source", "")))
        readable = budget.left() and filled < size and source.exists()
        frame = poster(source, short_side=POSTER) if readable else None
        picture = None if frame is None else jpeg(resized(frame[None], POSTER)[0])
        filled += len(picture or b"")
        pictures.append(DroppedPicture(row, picture))
    return pictures
