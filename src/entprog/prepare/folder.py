"""Folders of videos of people -> a prepared data set: latents and keypoints of one person a clip.

Each file is read twice, so that memory does not grow with its length: first small, for cuts and poses, then
at full size for the pixels inside each clip's square.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tqdm import tqdm

from entprog.data.shards import FORMAT
from entprog.poses.blazepose import PoseEstimator
from entprog.prepare.file import Encode, prepare_file
from entprog.prepare.layouts import find_layout
from entprog.prepare.store import Store
from entprog.prepare.video import EXTENSIONS

PEOPLE = ("largest", "drop")


@dataclass(frozen=True)
class PrepareResult:
    """The data set after a run: files, clips, and why files were dropped; `skipped` were done in an earlier run.

    `windows` of format 2.
    """

    out: Path
    kept: int
    dropped: int
    skipped: int
    clips: int
    frames: int
    reasons: dict[str, int]
    windows: int = 0


def prepare_folder(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    sizes: Sequence[int] = (32, 64),
    fps: float = 12.0,
    people: str = "largest",
    min_frames: int = 16,
    max_frames: int | None = None,
    holdout: float = 0.1,
    layout: str = "folder",
    encode: Encode | None = None,
    codec: dict[str, str] | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> PrepareResult:
    """Prepare videos; after an interruption, or with more inputs, another run continues where it stopped.

    Args:
        inputs: video files, and folders (searched recursively for mp4 mov mkv webm avi m4v gif).
        out: folder of the data set; new, empty, or begun by this function with the same settings.
        sizes: sides in pixels for which latents are stored; multiples of 8 from 16 on.
        fps: frames a second of the clips.
        people: with several people in frame, use the "largest" at the start of the shot, or "drop" the file.
        min_frames: shorter clips are dropped.
        max_frames: read at most this many frames (at `fps`) of each file; None reads all.
        holdout: share of the files held out, chosen by a hash of the file name; at least one file is for
            training, and of two or more at least one is held out unless this is 0.
        layout: how the inputs are laid out; a public data set's layout says what is held out (see `layouts`).
        encode: uint8 [F,S,S,3] -> latents [F,16,S/4,S/4]; None takes the packaged codec.
        codec: {"codec": name, "codec_hash": hash} for dataset.json; given together with `encode`.
        device: where the pose networks run.

    Raises:
        ValueError: a setting or path is wrong (all are listed), or no file could be used (with the reasons).
        OSError: the disk is full; finished files are kept.
    """
    paths, out, sizes = [Path(path) for path in inputs], Path(out), sorted(sizes)
    _check(paths, sizes, fps, people, min_frames, max_frames, holdout, encode, codec)
    if encode is None or codec is None:
        from entprog.codecs.pca import PatchCodec

        packaged = PatchCodec.default()
        encode, codec = packaged.encode, {"codec": packaged.name, "codec_hash": packaged.hash}
    listed = find_layout(layout, paths)
    files = [entry.path for entry in listed.entries]
    if not files:
        raise ValueError(f"inputs: no video ({' '.join(EXTENSIONS)}) in {', '.join(map(str, paths))}")
    settings = {
        "format": FORMAT,
        **codec,
        "sizes": sizes,
        "fps": float(fps),
        "people": people,
        "min_frames": min_frames,
        "max_frames": max_frames,
        "holdout": float(holdout),
        **({} if layout == "folder" else {"layout": layout}),
    }
    store = Store(out, settings)
    done = {row["source"] for row in store.rows}
    todo = [entry for entry in listed.entries if entry.path.resolve().as_posix() not in done]
    estimator: PoseEstimator | None = None
    names = {name for row in store.rows for name in (row["name"], *row["clips"])}
    before = len(files) - len(todo)
    with tqdm(total=len(files), initial=before, desc="prepare", unit="file", disable=not progress) as bar:
        for entry in todo:
            file, name = entry.path, free_name(entry.path, names, entry.name)
            estimator = estimator or PoseEstimator(device)
            row, clips = prepare_file(file, name, settings, estimator, encode)
            store.add(row | ({"given_split": entry.split} if entry.split else {}), clips)
            names |= {name, *clips}
            bar.set_postfix(kept=sum(row["status"] == "kept" for row in store.rows), refresh=False)
            bar.update()
    dropped, reasons = dropped_files(store)
    rows = store.finish(codec, holdout)
    frames = sum(row.frames for row in rows)
    kept = len(store.rows) - dropped
    return PrepareResult(out, kept, dropped, before, len(rows), frames, reasons)


def dropped_files(store: Store) -> tuple[int, dict[str, int]]:
    """How many files were dropped, and how often for which reason.

    Raises:
        ValueError: all of them.
    """
    dropped = [row for row in store.rows if row["status"] == "dropped"]
    reasons = dict(Counter(row["reason"] for row in dropped).most_common())
    if len(dropped) == len(store.rows):
        counted = "; ".join(f"{count} x {reason}" for reason, count in reasons.items())
        path = store.out / "prepare.jsonl"
        raise ValueError(f"inputs: none of {len(dropped)} files can be used ({counted}); see {path}")
    return len(dropped), reasons


def _check(
    inputs: list[Path],
    sizes: list[int],
    fps: float,
    people: str,
    min_frames: int,
    max_frames: int | None,
    holdout: float,
    encode: Encode | None,
    codec: dict[str, str] | None,
) -> None:
    wrong = []
    if not inputs:
        wrong.append("inputs: none given; give video files or folders")
    wrong += [f"inputs: {path} does not exist; check the path" for path in inputs if not path.exists()]
    if not sizes or len(set(sizes)) < len(sizes) or any(size < 16 or size % 8 for size in sizes):
        wrong.append(f"sizes: {sizes}; give different multiples of 8, 16 or more")
    if not (math.isfinite(fps) and fps > 0):
        wrong.append(f"fps: {fps}; give a number above 0")
    if people not in PEOPLE:
        wrong.append(f"people: {people!r}; give one of {', '.join(PEOPLE)}")
    if min_frames < 1:
        wrong.append(f"min_frames: {min_frames}; give 1 or more")
    if max_frames is not None and max_frames < min_frames:
        wrong.append(f"max_frames: {max_frames} is below min_frames, {min_frames}; no clip could be kept")
    if not 0 <= holdout < 1:
        wrong.append(f"holdout: {holdout}; give a share from 0 to below 1")
    if (encode is None) != (codec is None) or (codec is not None and set(codec) != {"codec", "codec_hash"}):
        wrong.append(f'codec: {codec}; give encode and {{"codec": ..., "codec_hash": ...}} together, or neither')
    if wrong:
        raise ValueError("\n".join(wrong))


def free_name(file: Path, taken: set[str], name: str = "") -> str:
    """`name`, else the file's stem; with a hash of the whole path where two files have the same one."""
    stem = (name or file.stem).encode("utf-8", "replace").decode()
    own = re.compile(re.escape(stem) + r"(-\d+)?")
    if not any(own.fullmatch(name) for name in taken):
        return stem
    return f"{stem}-{sha256(os.fsencode(file.resolve())).hexdigest()[:8]}"
