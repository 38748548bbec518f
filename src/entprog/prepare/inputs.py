"""The video files that `entprog prepare` is given."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from entprog.prepare.video import EXTENSIONS

__all__ = ["find_videos", "folders", "is_video"]


def find_videos(inputs: Sequence[Path]) -> Iterator[Path]:
    """Files as given, folders in sorted order, each file once.

    Raises:
        ValueError: a folder cannot be read.
    """
    seen = set()
    for path in inputs:
        found = [path]
        if path.is_dir():
            found = sorted(Path(folder, name) for folder, _, names in _walk(path) for name in names)
            found = [file for file in found if is_video(file)]
        for file in found:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def folders(inputs: Sequence[Path]) -> list[Path]:
    """The folders among `inputs` and all folders in them, each once."""
    found = [Path(folder) for path in inputs if path.is_dir() for folder, _, _ in _walk(path)]
    return list({folder.resolve(): folder for folder in sorted(found)}.values())


def is_video(file: Path) -> bool:
    """Whether the name is a video's; hidden files are not."""
    return file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")


def _walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    def stop(error: OSError) -> None:
        raise ValueError(f"inputs: cannot read the folder {error.filename} ({error.strerror})") from error

    return os.walk(path, onerror=stop)
