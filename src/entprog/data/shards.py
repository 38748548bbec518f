"""A prepared data set on disk: safetensors shards of latents and keypoints, and one index row for each clip.

dataset.json                 format, codec, sizes, fps, counts
index.jsonl                  one row for each kept clip, written last
shard-00000.safetensors      latents_SIZE [T, C, SIZE/4, SIZE/4] float16 for each size, pose [T, 18, 3] float32;
                             where the pose estimator gave them hand_keypoints [T, 42, 3] and face_keypoints
                             [T, 68, 3] float32, which "stored" in dataset.json then names
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from entprog.data.fingerprint import fingerprint
from entprog.data.tensor_files import TensorSpool
from entprog.files import write_atomically

FORMAT = 1
SHARD_BYTES = 512 * 2**20
KEYPOINTS = {"hand_keypoints": 42, "face_keypoints": 68}
"""Keypoints that a data set may have beside those of the body, and how many of each."""


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One clip of the index; `start` is its first row in `shard`, `content` the sha256 of the source's file, or ""."""

    clip: str
    subject: str
    motion: str
    scene: str
    source: str
    shard: str
    start: int
    frames: int
    fps: float
    split: str
    phase_hint: str | None = None
    content: str = ""


class ShardWriter:
    """Writes clips into shards as they come; the data set is valid only once `close` has written the index."""

    def __init__(
        self, out: Path, *, codec: Mapping[str, str], sizes: tuple[int, ...], fps: float, stored: tuple[str, ...] = ()
    ) -> None:
        """`stored`: which of KEYPOINTS each frame has; a clip without them gets zeros, that is, confidence 0."""
        self.out, self.codec, self.sizes, self.fps, self.stored = out, dict(codec), sizes, fps, stored
        self.rows: list[ClipRow] = []
        self._shard = 0
        out.mkdir(parents=True, exist_ok=True)
        self._spool = self._next()

    def add(self, latents: Mapping[int, Tensor], pose: np.ndarray, **row: Any) -> None:
        """Append a clip: latents by size [F, C, h, w], keypoints [F, 18, 3], and the index row's other fields."""
        clip = {f"latents_{size}": latents[size].to(torch.float16) for size in self.sizes}
        self.add_chunks([{**clip, "pose": torch.from_numpy(np.ascontiguousarray(pose, dtype=np.float32))}], **row)

    def add_chunks(self, chunks: Iterable[Mapping[str, Tensor]], **row: Any) -> None:
        """Append a clip that comes in chunks of frames: "latents_SIZE", "pose", and what else each frame has."""
        start = self._spool.rows
        for chunk in chunks:
            count = len(chunk["pose"])
            zeros = {name: torch.zeros(count, KEYPOINTS[name], 3) for name in self.stored if name not in chunk}
            self._spool.append({**chunk, **zeros})
        frames, name = self._spool.rows - start, self._spool.final.name
        self.rows.append(ClipRow(shard=name, start=start, frames=frames, fps=self.fps, **row))
        if self._spool.bytes >= SHARD_BYTES:
            self._flush()

    def _next(self) -> TensorSpool:
        return TensorSpool(self.out / f"shard-{self._shard:05d}.safetensors")

    def _flush(self) -> None:
        if self._spool.rows:
            self._spool.close()
            self._shard += 1
            self._spool = self._next()

    def close(self) -> None:
        """Write the last shard, dataset.json and, last of all, index.jsonl."""
        self._flush()
        total = sum(row.frames for row in self.rows)
        about = {
            "format": FORMAT,
            **self.codec,
            "sizes": list(self.sizes),
            "fps": self.fps,
            "clips": len(self.rows),
            "frames": total,
            **({"stored": list(self.stored)} if self.stored else {}),
        }
        write_atomically(self.out / "dataset.json", json.dumps(about, indent=2) + "\n")
        write_atomically(self.out / "index.jsonl", index_lines(self.rows))


def index_lines(rows: Iterable[Any]) -> str:
    """The text of index.jsonl; a row without `content` is written without it."""
    written = (asdict(row) for row in rows)
    return "".join(json.dumps({k: v for k, v in row.items() if k != "content" or v}) + "\n" for row in written)


class Shards:
    """Reads a prepared data set; tensors stay on disk (memory mapped) until sliced."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        about, index = self.folder / "dataset.json", self.folder / "index.jsonl"
        if not about.is_file() or not index.is_file():
            raise ValueError(
                f"data.path = {str(folder)!r}: no dataset.json and index.jsonl there; "
                f"make them with: entprog prepare VIDEOS {folder}"
            )
        self.about: dict[str, Any] = _about(about)
        if self.about.get("format") == 2:
            raise ValueError(
                f"data.path = {str(folder)!r}: format 2, windows for a pretrained model; "
                "prepare the videos without --codec for this task"
            )
        if self.about.get("format") != FORMAT:
            raise ValueError(
                f"{about}: format {self.about.get('format')!r}, this version reads {FORMAT}; prepare it again"
            )
        lines = index.read_text(encoding="utf-8").splitlines()
        self.rows = [_row(index, number, line) for number, line in enumerate(lines, 1) if line]
        if not self.rows:
            raise ValueError(
                f"data.path = {str(folder)!r}: the data set is empty; see prepare.jsonl for what was dropped"
            )
        self._open: dict[str, Any] = {}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what training can see; neither the folder's place nor the layout of shards counts."""
        return fingerprint(self.about, self.rows)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels that latents are stored for."""
        return tuple(self.about["sizes"])

    def latents(self, row: ClipRow, size: int, start: int, frames: int) -> Tensor:
        """Latents [frames, C, size/4, size/4] float32 from frame `start` of a clip."""
        if size not in self.sizes:
            raise ValueError(
                f"resolution = {size}: the data set stores {list(self.sizes)}; prepare it with that size too"
            )
        return self._slice(row, f"latents_{size}", start, frames).float()

    def pose(self, row: ClipRow, start: int, frames: int) -> np.ndarray:
        """Keypoints [frames, 18, 3] from frame `start` of a clip."""
        return self._slice(row, "pose", start, frames).numpy()

    @property
    def stored(self) -> tuple[str, ...]:
        """Which of KEYPOINTS are stored beside "pose"."""
        return tuple(self.about.get("stored", ()))

    def keypoints(self, row: ClipRow, kind: str, start: int, frames: int) -> np.ndarray:
        """Keypoints [frames, J, 3] of the "hands" (42: left, then right) or the "face" (68) from frame `start`.

        Raises:
            ValueError: they are not stored.
        """
        name = {"hands": "hand_keypoints", "face": "face_keypoints"}[kind]
        if name not in self.stored:
            raise ValueError(
                f"data.path = {str(self.folder)!r}: no {name} are stored; prepare the videos with a pose estimator "
                "that gives them, such as --pose dwpose"
            )
        return self._slice(row, name, start, frames).numpy()

    def _slice(self, row: ClipRow, key: str, start: int, frames: int) -> Tensor:
        if not 0 <= start <= start + frames <= row.frames:
            raise ValueError(f"clip {row.clip!r}: frames {start}..{start + frames} requested, it has {row.frames}")
        if row.shard not in self._open:
            try:
                self._open[row.shard] = safe_open(str(self.folder / row.shard), "pt")
            except (SafetensorError, OSError) as error:
                gone = not (self.folder / row.shard).exists()
                what = "is missing" if gone else f"is truncated or no safetensors ({error})"
                raise ValueError(
                    f"data.path = {str(self.folder)!r}: {row.shard} {what}; copy it again, or prepare the data again"
                ) from error
        stored = self._open[row.shard].get_slice(key)
        return stored[row.start + start : row.start + start + frames]


def _about(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: can't be read as JSON ({error}); prepare the data set again") from error
    return found if isinstance(found, dict) else {}


def _row(index: Path, number: int, line: str) -> ClipRow:
    try:
        return ClipRow(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{index}, line {number}: not a clip's row ({error}); prepare the data set again") from error
