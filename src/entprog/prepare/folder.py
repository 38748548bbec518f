"""Folders of videos of people -> a prepared data set: latents and keypoints of one person a clip.

Each file is read twice, so that memory does not grow with its length: first small, for cuts and poses, then
at full size for the pixels inside each clip's square.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from entprog.data.shards import FORMAT
from entprog.poses.loading import DEFAULT, open_estimator, pose_settings, wrong_pose
from entprog.prepare.batch import PrepareResult, follow, hold, prepare_files, result_of, workers_of
from entprog.prepare.file import Encode, prepare_file
from entprog.prepare.inputs import shown
from entprog.prepare.layouts import list_layout
from entprog.prepare.names import free_name
from entprog.prepare.quality import MIN_SHARPNESS, wrong_sharpness
from entprog.prepare.ranks import Ranks
from entprog.prepare.store import Row, Store, check_folder
from entprog.profiling.device import pick_device

__all__ = [
    "PEOPLE", "PrepareResult", "check_settings", "free_name", "no_videos", "prepare_folder", "wrong_device",
    "wrong_rate", "wrong_workers",
]  # fmt: skip

PEOPLE = ("largest", "drop")
LARGEST = 4096
"""Pixels of a side for which latents are stored, at most."""
FASTEST = 240
"""Most frames a second."""


@dataclass(frozen=True)
class ClipWork:
    """How a file becomes clips; see `work.Work`. `encode` None: the packaged codec."""

    settings: Row
    device: str
    encode: Encode | None = None
    pose: str = DEFAULT
    pose_options: Mapping[str, Any] | None = None

    def open(self) -> Callable[[Path, str, Callable[[str, Mapping[str, Tensor]], None]], Row]:
        """See `work.Work`."""
        encode, estimator = self.encode, open_estimator(self.pose, self.pose_options, self.device)
        if encode is None:
            from entprog.codecs.pca import PatchCodec

            encode = PatchCodec.default().encode
        codec = encode

        def prepare(file: Path, name: str, keep: Callable[[str, Mapping[str, Tensor]], None]) -> Row:
            return prepare_file(file, name, self.settings, estimator, codec, keep)[0]

        return prepare


def prepare_folder(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    sizes: Sequence[int] = (32, 64),
    fps: float = 12.0,
    people: str = "largest",
    min_frames: int = 16,
    max_frames: int | None = None,
    min_sharpness: float = MIN_SHARPNESS,
    holdout: float = 0.1,
    workers: int | None = 1,
    layout: str = "folder",
    encode: Encode | None = None,
    codec: dict[str, str] | None = None,
    device: str = "cpu",
    pose: str = DEFAULT,
    pose_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> PrepareResult:
    """Prepare videos; after an interruption, or with other inputs, another run does what is not done.

    Files are known by their content: one that was moved keeps its clips, one that was replaced is prepared again. The
    same inputs give the same bytes, whatever the number of workers and however often it was interrupted. Under
    torchrun each rank prepares its share of the files, and rank 0 finishes the data set.

    Args:
        inputs: video files, and folders (searched recursively, links followed, for everything that is a video).
        out: folder of the data set; new, empty, or begun by this function with the same settings.
        sizes: sides in pixels for which latents are stored; multiples of 8 from 16 on.
        fps: frames a second of the clips.
        people: with several people in frame, use the "largest" at the start of the shot, or "drop" those pieces.
        min_frames: shorter pieces are dropped.
        max_frames: read at most this many frames (at `fps`) of each file; None reads all.
        min_sharpness: pieces with a more blurred person are dropped (`measures.sharpness`, 0 to 1); 0 drops none.
        holdout: share of the files held out, chosen by a hash of the file name when a file is first prepared; at least
            one file is for training, and of two or more at least one is held out unless this is 0. Of a single file
            its end is held out.
        workers: processes that prepare files, each with one thread; None for as many as cores. More than one needs a
            script with an `if __name__ == "__main__"` guard, and an `encode` that can be sent to a process.
        layout: how the inputs are laid out; a public data set's layout says what is held out (see `layouts`).
        encode: uint8 [F,S,S,3] -> latents [F,16,S/4,S/4]; None takes the packaged codec.
        codec: {"codec": name, "codec_hash": hash} for dataset.json; given together with `encode`.
        device: where the pose networks run: "auto", "cpu", "cuda" or "cuda:N".
        pose, pose_options: name and options of the pose estimator; docs/poses.md has them.

    Raises:
        ValueError: a setting or path is wrong (all are listed), or no file could be used (with the reasons).
        OSError: the disk is full; finished files are kept.
    """
    paths, out, sizes = [Path(path) for path in inputs], Path(out), sorted(sizes)
    _check(
        paths,
        sizes,
        fps,
        people,
        min_frames,
        max_frames,
        holdout,
        workers,
        encode,
        codec,
        [*wrong_sharpness(min_sharpness), *wrong_pose(pose, pose_options), *wrong_device(device)],
    )
    device = str(pick_device(device))
    if codec is None:
        from entprog.codecs.pca import PatchCodec

        packaged = PatchCodec.default()
        codec = {"codec": packaged.name, "codec_hash": packaged.hash}
    settings = {
        "format": FORMAT,
        **codec,
        "sizes": sizes,
        "fps": float(fps),
        "people": people,
        "min_frames": min_frames,
        "max_frames": max_frames,
        "min_sharpness": float(min_sharpness),
        "holdout": float(holdout),
        **pose_settings(pose, pose_options),
        **({} if layout == "folder" else {"layout": layout}),
    }
    work, workers = ClipWork(settings, device, encode, pose, pose_options), workers_of(workers)
    if Ranks.here().rank:
        return follow(out, work, workers=workers)
    with hold(out):
        listing = list_layout(layout, paths, out)
        if not listing.files:
            raise no_videos(paths, listing.left_out)
        store = Store(out, settings)
        skipped = prepare_files(store, listing, work, workers=workers, progress=progress)
        result_of(store, skipped, 0, 0)  # all dropped: an error, before anything is replaced
        rows = store.finish(codec, holdout)
        return result_of(store, skipped, len(rows), sum(row.frames for row in rows))


def check_settings(
    inputs: Sequence[Path],
    out: Path,
    *,
    sizes: Sequence[int] = (32, 64),
    fps: float = 12.0,
    people: str = "largest",
    min_frames: int = 16,
) -> None:
    """Refuse what `prepare_folder` refuses of these before it writes anything.

    Raises:
        ValueError: a setting or path is wrong, or `out` holds something else.
    """
    _check(list(inputs), sorted(sizes), fps, people, min_frames, None, 0.1, 1, None, None)
    check_folder(out)


def _check(
    inputs: list[Path],
    sizes: list[int],
    fps: float,
    people: str,
    min_frames: int,
    max_frames: int | None,
    holdout: float,
    workers: int | None,
    encode: Encode | None,
    codec: dict[str, str] | None,
    others: Sequence[str] = (),
) -> None:
    wrong = list(others)
    if not inputs:
        wrong.append("inputs: none given; give video files or folders")
    wrong += [f"inputs: {shown(path)} does not exist; check the path" for path in inputs if not os.path.lexists(path)]
    if not sizes or len(set(sizes)) < len(sizes) or any(not 16 <= size <= LARGEST or size % 8 for size in sizes):
        wrong.append(f"sizes: {sizes}; give different multiples of 8 from 16 to {LARGEST}")
    wrong += wrong_rate(fps)
    if people not in PEOPLE:
        wrong.append(f"people: {people!r}; give one of {', '.join(PEOPLE)}")
    if min_frames < 1:
        wrong.append(f"min_frames: {min_frames}; give 1 or more")
    if max_frames is not None and max_frames < min_frames:
        wrong.append(f"max_frames: {max_frames} is below min_frames, {min_frames}; no clip could be kept")
    if not 0 <= holdout < 1:
        wrong.append(f"holdout: {holdout}; give a share from 0 to below 1")
    wrong += wrong_workers(workers)
    if (encode is None) != (codec is None) or (codec is not None and set(codec) != {"codec", "codec_hash"}):
        wrong.append(f'codec: {codec}; give encode and {{"codec": ..., "codec_hash": ...}} together, or neither')
    if wrong:
        raise ValueError("\n".join(wrong))


def wrong_device(device: str) -> list[str]:
    """What is wrong with the device's name, or that it is not there."""
    try:
        pick_device(device)
    except ValueError as error:
        return [str(error)]
    return []


def wrong_rate(fps: float) -> list[str]:
    """What is wrong with the frames a second of clips."""
    return [] if 0 < fps <= FASTEST else [f"fps: {fps}; give a number above 0, up to {FASTEST}"]


def wrong_workers(workers: int | None) -> list[str]:
    """What is wrong with the number of processes."""
    return [] if workers is None or workers >= 1 else [f"workers: {workers}; give 1 or more"]


def no_videos(inputs: Sequence[Path], left_out: Mapping[str, int]) -> ValueError:
    """The error of inputs without a video, with what they hold instead."""
    what = "".join(f"; {count} x {reason}" for reason, count in left_out.items())
    return ValueError(f"inputs: no video in {', '.join(map(shown, inputs))}{what}")
