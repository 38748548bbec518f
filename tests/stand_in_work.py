"""A stand-in for the preparation of a video: a text file that says how many frames it has, or what goes wrong."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from entprog.prepare.batch import PrepareResult, hold, prepare_files, result_of, workers_of
from entprog.prepare.inputs import list_inputs
from entprog.prepare.store import Row, Store
from entprog.prepare.video import VideoError

CODEC = {"codec": "stand-in", "codec_hash": "0"}
SETTINGS: dict[str, Any] = {"format": 1, **CODEC, "sizes": [16], "fps": 12.0, "min_frames": 16, "holdout": 0.1}
ERRORS: dict[str, BaseException] = {
    "VideoError": VideoError(Path("x"), "as asked"), "ValueError": ValueError("as asked"),
    "RuntimeError": RuntimeError("as asked"), "KeyError": KeyError("as asked"), "IndexError": IndexError("as asked"),
    "UnicodeDecodeError": UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "as asked"),
    "PermissionError": PermissionError(13, "as asked"),
}  # fmt: skip


@dataclass(frozen=True)
class TextWork:
    """See `entprog.prepare.work.Work`."""

    settings: Row

    def open(self) -> Callable[..., Row]:
        return lambda file, name, keep: prepare_text(file, name, self.settings, keep)


def prepare_text(file: Path, name: str, settings: Row, keep: Callable[..., None]) -> Row:
    text = file.read_text().split()
    row: Row = {"source": file.resolve().as_posix(), "name": name, "status": "dropped", "reason": None, "clips": []}
    if text[0] == "raise":
        raise ERRORS[text[1]]
    if text[0] == "exit":
        os._exit(3)
    if text[0] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if text[0] == "once" and not (marker := file.parent.parent / f"{file.stem}.killed").exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    count = int(text[-1])
    if count < settings["min_frames"]:
        return row | {"reason": f"shorter than {settings['min_frames']} frames"}
    for start in range(0, count, 25):  # a clip may come in pieces
        frames = min(25, count - start)
        pose = torch.arange(start, start + frames).float()[:, None, None].expand(frames, 18, 3)
        keep(name, {"latents_16": torch.full((frames, 16, 4, 4), float(count)).half(), "pose": pose})
    return row | {"status": "kept", "clips": [name], "crops": {name: [0, 0, 1]}}


def prepare(inputs: Path, out: Path, *, holdout: float = 0.1, workers: int | None = 1) -> PrepareResult:
    """`prepare_folder` with the stand-in."""
    settings = SETTINGS | {"holdout": holdout}
    with hold(out):
        listing, store = list_inputs([inputs], out), Store(out, settings)
        skipped = prepare_files(store, listing, TextWork(settings), workers=workers_of(workers), progress=False)
        result_of(store, skipped, 0, 0)
        written = store.finish(CODEC, holdout)
        return result_of(store, skipped, len(written), sum(row.frames for row in written))


def write(folder: Path, **frames: int) -> None:
    """Files of so many frames."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in frames.items():
        (folder / f"{name}.mp4").write_text(str(count))


def rows(out: Path) -> list[Row]:
    return [json.loads(line) for line in (out / "prepare.jsonl").read_text().splitlines()]
