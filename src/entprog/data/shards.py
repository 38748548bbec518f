"""A prepared data set on disk: safetensors shards of latents and keypoints, and one index row for each clip.

dataset.json                 format, codec, sizes, fps, counts
index.jsonl                  one row for each kept clip, written last
shard-00000.safetensors      latents_SIZE [T, C, SIZE/4, SIZE/4] float16 for each size, pose [T, 18, 3] float32
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from entprog.files import save_tensors, write_atomically

FORMAT = 1
SHARD_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One clip of the index; `start` is its first row in `shard`."""

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


class ShardWriter:
    """Collects clips and writes shards; the data set is valid only once `close` has written the index."""

    def __init__(self, out: Path, *, codec: Mapping[str, str], sizes: tuple[int, ...], fps: float) -> None:
        self.out, self.codec, self.sizes, self.fps = out, dict(codec), sizes, fps
        self.rows: list[ClipRow] = []
        self._parts: list[dict[str, Tensor]] = []
        self._shard = 0
        self._filled = 0
        self._bytes = 0
        out.mkdir(parents=True, exist_ok=True)

    def add(self, latents: Mapping[int, Tensor], pose: np.ndarray, **row: Any) -> None:
        """Append a clip: latents by size [F, C, h, w], keypoints [F, 18, 3], and the index row's other fields."""
        part = {f"latents_{size}": latents[size].to(torch.float16).contiguous() for size in self.sizes}
        part["pose"] = torch.from_numpy(np.ascontiguousarray(pose, dtype=np.float32))
        frames = len(part["pose"])
        name = f"shard-{self._shard:05d}.safetensors"
        self.rows.append(ClipRow(shard=name, start=self._filled, frames=frames, fps=self.fps, **row))
        self._parts.append(part)
        self._filled += frames
        self._bytes += sum(t.numel() * t.element_size() for t in part.values())
        if self._bytes >= SHARD_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._parts:
            return
        joined = {key: torch.cat([part[key] for part in self._parts]) for key in self._parts[0]}
        final = self.out / f"shard-{self._shard:05d}.safetensors"
        partial = final.with_name(final.name + ".partial")
        save_tensors(joined, partial)
        partial.replace(final)
        self._parts, self._filled, self._bytes = [], 0, 0
        self._shard += 1

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
        }
        write_atomically(self.out / "dataset.json", json.dumps(about, indent=2) + "\n")
        lines = "".join(json.dumps(asdict(row)) + "\n" for row in self.rows)
        write_atomically(self.out / "index.jsonl", lines)


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
        self.about: dict[str, Any] = json.loads(about.read_text(encoding="utf-8"))
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

    def _slice(self, row: ClipRow, key: str, start: int, frames: int) -> Tensor:
        if not 0 <= start <= start + frames <= row.frames:
            raise ValueError(f"clip {row.clip!r}: frames {start}..{start + frames} requested, it has {row.frames}")
        if row.shard not in self._open:
            self._open[row.shard] = safe_open(str(self.folder / row.shard), "pt")
        stored = self._open[row.shard].get_slice(key)
        return stored[row.start + start : row.start + start + frames]


def _row(index: Path, number: int, line: str) -> ClipRow:
    try:
        return ClipRow(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{index}, line {number}: not a clip's row ({error}); prepare the data set again") from error
