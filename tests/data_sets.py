"""Prepared data sets of a few small videos, written without a pose network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from entprog.codecs.pca import PatchCodec
from entprog.data.shards import ShardWriter
from entprog.prepare.crop import crop, resize
from entprog.prepare.video import write_video


def numbered(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Frames that tell their number by their brightness."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    return frames + (np.arange(count) % 42 * 6).astype(np.uint8)[:, None, None, None]


def number(frame: np.ndarray) -> int:
    return round(float(frame[-8:, -8:].mean()) / 6)


def data_set(folder: Path, videos: dict[str, np.ndarray], *, start: int = 4, frames: int = 12, split: str = "") -> Path:
    """A data set of a clip of each video, written as `prepare` writes it, with no pose network."""
    codec, out = PatchCodec.default(), folder / "data"
    writer = ShardWriter(out, codec={"codec": codec.name, "codec_hash": codec.hash}, sizes=(32,), fps=12.0)
    rows = []
    for name, pixels in videos.items():
        path, box = folder / f"{name}.mp4", (8, 0, 64)
        write_video(path, pixels, 12)
        squares = np.stack([crop(frame, box) for frame in pixels[start : start + frames]])
        pose = np.full((frames, 18, 3), 0.5, np.float32)
        pose[:, 1, :2], pose[:, 2, :2] = (0.2, 0.2), (0.2, 0.8)
        chosen = split or ("holdout" if not rows else "train")
        writer.add(
            {32: codec.encode(resize(torch.from_numpy(squares), 32))}, pose, clip=name, subject=name, motion=name,
            scene=name, source=str(path), split=chosen,
        )  # fmt: skip
        rows.append(
            {
                "source": str(path), "name": name, "status": "kept", "reason": None, "clips": [name],
                "decoded_frames": len(pixels), "size": [96, 64], "crops": {name: list(box)},
                "notes": ["a pause of 3 s"],
                "pieces": [{"clip": name, "start": start, "end": start + frames, "reason": None}],
            }
        )  # fmt: skip
    writer.close()
    settings = {"format": 1, "codec": codec.name, "sizes": [32], "fps": 12.0, "left_out": {"no video (.txt)": 2}}
    (out / "prepare.json").write_text(json.dumps(settings))
    write_rows(out, rows)
    return out


def write_rows(out: Path, rows: list[dict[str, Any]]) -> None:
    (out / "prepare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_in(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "prepare.jsonl").read_text().splitlines()]
