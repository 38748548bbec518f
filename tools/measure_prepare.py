"""Measure `prepare`: the peak memory of files of different length, and the CPU time a frame.

Each measurement runs in a process of its own, in one thread, without a VAE:

    python tools/measure_prepare.py shared/clips/intel__walk.mkv --minutes 1 60 --size 256
    python tools/measure_prepare.py shared/clips/*.mkv --cpu

The first repeats a clip until it lasts that many minutes, at 12 frames a second and 320 x 240 pixels; poses come from
a stand-in unless --networks is given, as an hour of them takes an hour. The second prepares the files as they are, with
the pose networks, three times, and prints the least time.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entprog.codecs.pca import PatchCodec
from entprog.poses.blazepose import PoseEstimator, Track
from entprog.prepare.file import prepare_file
from entprog.prepare.store import Store
from entprog.prepare.video import read_video, write_video

LOOPS = 20
"""So often is a clip encoded; the file is that, repeated without decoding."""


class StandIn:
    """A pose in the middle of each frame, which moves a little."""

    def tracker(self, source: Path | None = None) -> "StandIn":
        self.rows: list[np.ndarray] = []
        return self

    def step(self, frame: np.ndarray, *, index: int = -1, restart: bool = False) -> np.ndarray:
        height, width = frame.shape[:2]
        points = np.ones((18, 3), np.float32)
        points[:, 0] = width * (0.4 + 0.2 * np.linspace(0, 1, 18)) + len(self.rows) % 5
        points[:, 1] = height * np.linspace(0.1, 0.9, 18)
        points[1, :2], points[[8, 11], :2] = (width / 2, height * 0.3), (width / 2, height * 0.6)
        self.rows.append(points)
        return points

    def result(self) -> Track:
        count, rows = len(self.rows), self.rows
        self.rows = []
        return Track(np.stack(rows), np.ones(count, np.float32), np.ones(count, np.int64))


def measure(file: Path, out: Path, size: int, runtime: Any) -> tuple[int, int, float, float]:
    """Prepare one file; gives frames, clips, peak memory in MiB, and seconds of CPU.

    `runtime`: that of BlazePose, or None for the stand-in.
    """
    torch.set_num_threads(1)
    codec = PatchCodec.default()
    estimator: Any = StandIn() if runtime is None else PoseEstimator(runtime=runtime)
    settings = {"sizes": [size], "fps": 12.0, "people": "largest", "min_frames": 16, "max_frames": None}
    store = Store(out, {**settings, "holdout": 0.0})

    def keep(clip: str, tensors: dict[str, Tensor]) -> None:
        store.add_clip(clip, tensors)

    begin = time.process_time()
    row, _ = prepare_file(file, file.stem, settings, estimator, codec.encode, keep)
    seconds = time.process_time() - begin
    store.add(row)
    rows = store.finish({"codec": codec.name, "codec_hash": codec.hash}, 0.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return sum(clip.frames for clip in rows), len(rows), peak, seconds


def looped(clip: Path, minutes: float, path: Path) -> Path:
    """The clip, repeated."""
    frames, _ = read_video(clip, fps=12)
    small = np.stack([np.asarray(frame)[::2, ::2] for frame in frames])
    once = path.with_name("once.mp4")
    write_video(once, np.concatenate([small] * LOOPS), 12)
    repeat(once, path, round(minutes * 60 * 12))
    return path


def repeat(source: Path, path: Path, frames: int) -> None:
    """Write the packets of a file over and over."""
    import av

    with av.open(str(path), "w") as out:
        written, stream = 0, None
        while written < frames:
            with av.open(str(source)) as container:
                given = container.streams.video[0]
                if stream is None:
                    stream = out.add_stream_from_template(given)
                offset, tick = written, None
                for packet in container.demux(given):
                    if packet.dts is None:
                        continue
                    tick = round(1 / (12 * given.time_base))
                    packet.pts, packet.dts = packet.pts + offset * tick, packet.dts + offset * tick
                    packet.stream = stream
                    out.mux(packet)
                    written += 1


def in_process(*arguments: Any) -> tuple[int, int, float, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--minutes", nargs="*", type=float, default=[1, 60])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--networks", action="store_true", help="poses by BlazePose")
    parser.add_argument("--runtime", choices=("torch", "onnx"), default="torch", help="what computes BlazePose")
    parser.add_argument("--cpu", action="store_true", help="CPU time of the files as they are")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, minutes in enumerate([] if given.cpu else given.minutes):
            file = looped(given.files[0], minutes, Path(folder) / f"loop{number}.mkv")
            out = Path(folder) / f"out{number}"
            frames, clips, peak, seconds = in_process(file, out, given.size, given.runtime if given.networks else None)
            each = 1000 * seconds / frames
            print(
                f"{minutes:g} min: {frames} frames in {clips} clips, peak {peak:.0f} MiB, {each:.1f} ms a frame",
                flush=True,
            )
        for name in given.files if given.cpu else []:
            tries = [in_process(name, Path(folder) / f"{name.stem}{i}", given.size, given.runtime) for i in range(3)]
            frames, _, peak, seconds = min(tries, key=lambda found: found[3])
            print(f"{name.stem}: {frames} frames, {1000 * seconds / max(frames, 1):.1f} ms a frame", flush=True)


if __name__ == "__main__":
    main()
