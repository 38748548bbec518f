"""Prepared data sets of a few small videos, written without a pose network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from entprog.codecs.pca import PatchCodec
from entprog.data.shards import ShardWriter
from entprog.data.window_writer import WindowWriter
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


def window_data_set(folder: Path, frames: np.ndarray) -> Path:
    """A data set of format 2: windows of 5 frames from frames 4, 6 and 8 of one video, in a rectangle of 32 x 48."""
    out, path = folder / "windows", folder / "one.mp4"
    write_video(path, frames, 12)
    writer = WindowWriter(out, codec={"kind": "stand-in"}, text=None, sizes=["32x48"], frames=5, fps=12.0)
    for start in (4, 6, 8):
        tensors = {"latents": torch.zeros(2, 4, 4, 6), "pose": torch.zeros(5, 18, 3)}
        writer.add(
            tensors, clip="one", subject="one", source=str(path), split="train", start=start, frames=5,
            height=32, width=48,
        )  # fmt: skip
    writer.close()
    settings = {"format": 2, "codec.kind": "stand-in", "sizes": ["32x48"], "fps": 12.0, "frames": 5}
    (out / "prepare.json").write_text(json.dumps(settings))
    row = {"source": str(path), "name": "one", "status": "kept", "reason": None, "clips": ["one"], "size": [96, 64]}
    row |= {"decoded_frames": len(frames), "crops": {"one": {"32x48": [12, 8, 72, 48]}}, "starts": {"one": [4, 6, 8]}}
    write_rows(out, [row])
    return out
