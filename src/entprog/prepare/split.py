"""Which files, and which part of a single file, are held out of training."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

__all__ = ["TAIL", "SplitClip", "renamed_pieces", "split_files", "tail_of_clips", "tail_of_windows"]

TAIL = "tail"
"""The split of a file whose end is held out, and the rest trained on."""


def split_files(sources: Sequence[str], holdout: float, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Assign files to "train" or "holdout" by a hash of their names: the same on every machine.

    About the share `holdout` is held out; of two or more files (and holdout above 0) at least one is, and at
    least one is for training. A file that has a split already (`given`) keeps it.
    """
    given = dict(given or {})
    splits = dict(given)
    new = [source for source in dict.fromkeys(sources) if source not in given]
    for source in new:
        place = int(sha256(os.fsencode(Path(source).name)).hexdigest()[:12], 16) / 16**12
        splits[source] = "holdout" if place < holdout else "train"
    several = len(splits) > 1
    if new and several and holdout > 0 and not {"holdout", TAIL} & set(splits.values()):
        splits[new[0]] = "holdout"
    if new and not {"train", TAIL} & set(splits.values()):
        splits[new[-1]] = "train"
    return splits


@dataclass(frozen=True)
class SplitClip:
    """Frames [start, end) of a clip as it was prepared, which become a clip of the data set in one split."""

    clip: str
    name: str
    start: int
    end: int
    split: str


def tail_of_clips(frames: Mapping[str, int], share: float, least: int) -> list[SplitClip]:
    """The clips of a single file with about the last `share` of its frames held out, the clip there cut in two.

    At least `least` frames are held out where that leaves as many for training; else half of them.
    """
    total = sum(frames.values())
    held = max(least, round(share * total))
    if total - held < least:
        held = total // 2
    pieces, before = [], 0
    for clip, count in frames.items():
        cut = min(max(total - held - before, 0), count)
        if 0 < cut < least and before:  # rather a whole clip than one that is too short
            cut = 0
        elif 0 < count - cut < least and before + count < total:
            cut = count
        before += count
        if cut:
            pieces.append(SplitClip(clip, clip, 0, cut, "train"))
        if count - cut:
            pieces.append(SplitClip(clip, f"{clip}-tail" if cut else clip, cut, count, "holdout"))
    return pieces


def renamed_pieces(rows: Sequence[dict[str, Any]], pieces: Sequence[SplitClip]) -> list[dict[str, Any]]:
    """A row's "pieces" with the clips that were cut in two."""
    found = []
    for row in rows:
        own = [piece for piece in pieces if piece.clip == row["clip"]]
        first = row["start"]
        found += [
            {**row, "clip": piece.name, "start": first + piece.start, "end": first + piece.end} for piece in own
        ] or [row]
    return found


def tail_of_windows(starts: Sequence[int], length: int, share: float) -> int | None:
    """The frame from which on windows are held out; windows that end by it are for training, the others are left out.

    None where no window ends before another one begins.
    """
    ordered = sorted(starts)
    wanted = max(1, round(share * len(ordered)))
    for first in reversed(ordered[1 : len(ordered) - wanted + 1]):
        if ordered[0] + length <= first:
            return first
    later = [start for start in ordered if start >= ordered[0] + length]
    return later[0] if later else None
