"""How public data sets lie on disk: which files are videos, what they are called, and what is published as test set.

Shape of each, below the folder that is given or one or two folders further down:

tiktok        00001/images/0001.png ..., beside 00001/masks/ and 00001/densepose/; 30 frames a second
ubc-fashion   train/NAME.mp4, test/NAME.mp4
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from entprog.prepare.inputs import Listing, find_videos, is_video, list_inputs

__all__ = ["LAYOUTS", "Entry", "Layout", "find_layout", "list_layout"]

LAYOUTS = ("folder", "tiktok", "ubc-fashion")
TIKTOK_TEST = range(335, 341)
"""Videos of the TikTok data set that DisCo and later papers test on."""
DEPTH = 2
"""Folders above the data set's own that an archive may add."""
FRAMES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Entry:
    """One video.

    Attributes:
        path: a video file, or a folder of numbered images.
        name: what it is called; empty for the file's own name.
        split: "train" or "holdout" where the data set's authors or the field's papers say it; None elsewhere.
    """

    path: Path
    name: str = ""
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The videos of the inputs, in order, and how many entries are none of them, by what they are."""

    entries: tuple[Entry, ...]
    left_out: dict[str, int]

    @property
    def lines(self) -> list[str]:
        """What was found, for the user."""
        count = sum(entry.split == "holdout" for entry in self.entries)
        test = f"{count} of the published test set, held out"
        test = test if count else "none of the published test set: nothing is held out"
        return [f"{len(self.entries)} videos, {test}", *(f"{n} x {what}" for what, n in self.left_out.items())]


def find_layout(layout: str, inputs: Sequence[Path]) -> Layout:
    """The videos of `inputs` in a layout, each once.

    Raises:
        ValueError: no such layout, an input that is not laid out so, or a folder that cannot be read.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: {layout!r}; give one of {', '.join(LAYOUTS)}")
    if layout == "folder":
        return Layout(tuple(Entry(file) for file in find_videos(inputs)), {})
    entries: dict[Path, Entry] = {}
    left_out: Counter[str] = Counter()
    wrong = []
    for path in inputs:
        found = _tiktok(path, left_out) if layout == "tiktok" else _ubc_fashion(path, left_out)
        if not found:
            wrong.append(f"inputs: {path} is not laid out as {layout}: {EXPECTED[layout]}")
        for entry in found:
            entries.setdefault(entry.path.resolve(), entry)
    if wrong:
        raise ValueError("\n".join(wrong))
    return Layout(tuple(entries.values()), dict(sorted(left_out.items())))


def list_layout(layout: str, inputs: Sequence[Path], out: Path | None = None) -> Listing:
    """As `find_layout`, for `prepare`; `out`: the data set's folder, which is left out of inputs that hold it."""
    if layout == "folder":
        return list_inputs(inputs, out)
    found = find_layout(layout, inputs)
    return Listing(
        tuple(entry.path for entry in found.entries),
        found.left_out,
        {entry.path: entry.name for entry in found.entries if entry.name},
        {entry.path: entry.split for entry in found.entries if entry.split},
    )


EXPECTED = {
    "tiktok": "no numbered folder with images in it (00001/images/0001.png); give the folder TikTok_dataset",
    "ubc-fashion": "no folder train or test with videos in it (train/NAME.mp4); give the folder that holds these two",
}


def _tiktok(path: Path, left_out: Counter[str]) -> list[Entry]:
    for root in _roots(path):
        numbered = [folder for folder in _folders(root) if re.fullmatch(r"\d+", folder.name)]
        with_images = [folder for folder in numbered if _has_images(folder / "images")]
        if with_images:
            left_out["numbered folder without images"] += len(numbered) - len(with_images)
            left_out["entry that is no numbered folder"] += len(_names(root)) - len(numbered)
            _drop_zeros(left_out)
            with_images.sort(key=lambda folder: (int(folder.name), folder.name))
            return [
                Entry(folder / "images", folder.name, "holdout" if int(folder.name) in TIKTOK_TEST else "train")
                for folder in with_images
            ]
    return []


def _ubc_fashion(path: Path, left_out: Counter[str]) -> list[Entry]:
    for root in _roots(path):
        found = []
        for split, folder in (("train", root / "train"), ("holdout", root / "test")):
            names = _names(folder) if folder.is_dir() else []
            files = [folder / name for name in names if is_video(folder / name)]
            found += [Entry(file, "", split) for file in files]
            left_out["entry of train or test that is no video"] += len(names) - len(files)
        if found:
            left_out["entry beside train and test"] += len(set(_names(root)) - {"train", "test"})
            _drop_zeros(left_out)
            return found
    return []


def _roots(path: Path) -> list[Path]:
    """The folder and those in it, level by level."""
    level, found = [path], []
    for _ in range(DEPTH + 1):
        found += level
        level = [folder for parent in level for folder in _folders(parent) if not folder.name.isdigit()]
    return found


def _folders(path: Path) -> list[Path]:
    return [path / name for name in _names(path) if (path / name).is_dir()] if path.is_dir() else []


def _names(path: Path) -> list[str]:
    """Names in a folder but hidden ones, sorted."""
    try:
        return sorted(name for name in os.listdir(path) if not name.startswith("."))
    except OSError as error:
        raise ValueError(f"inputs: cannot read the folder {path} ({error.strerror})") from error


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(name.lower().endswith(FRAMES) for name in _names(folder))


def _drop_zeros(counts: Counter[str]) -> None:
    for key in [key for key, count in counts.items() if not count]:
        del counts[key]
