"""What a file is known by: the sha256 of its content, with size and time of change as a shortcut."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

__all__ = ["Content", "read_contents"]

BUFFER = 2**20


@dataclass(frozen=True)
class Content:
    """One input file.

    Attributes:
        file: its path as listed; source: the whole path, links followed.
        sha256: of its content; "" where it cannot be read, which `problem` then says.
        bytes, mtime_ns: size and time of change before it was read.
    """

    file: Path
    source: str
    sha256: str
    bytes: int
    mtime_ns: int
    problem: str = ""

    @property
    def about(self) -> dict[str, Any]:
        """What the file's row says of it."""
        return {"sha256": self.sha256, "bytes": self.bytes, "mtime_ns": self.mtime_ns}


def read_contents(
    files: Sequence[Path], rows: Iterable[Mapping[str, Any]], *, threads: int = 1, progress: bool = False
) -> list[Content]:
    """The content of each file, in order; a file with the size and time of change of its row is not read again."""
    known = {row["source"]: row for row in rows if row.get("sha256")}
    bar = tqdm(total=len(files), desc="prepare: reading", unit="file", disable=not progress, leave=False, delay=3)
    found = []
    with bar, ThreadPoolExecutor(max(1, threads)) as pool:
        for content in pool.map(lambda file: read_content(file, known), files):
            found.append(content)
            bar.update()
    return found


def read_content(file: Path, known: Mapping[str, Mapping[str, Any]]) -> Content:
    """The content of one file, or of a folder of pictures; `known`: rows by source. Never raises for the file."""
    source, size, changed = file.absolute().as_posix(), 0, 0
    try:
        source = file.resolve().as_posix()
        pictures = sorted(part for part in file.iterdir() if part.is_file()) if file.is_dir() else []
        stats = [part.stat() for part in pictures or [file]]
        size, changed = sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)
        row = known.get(source)
        if row is not None and (row["bytes"], row["mtime_ns"]) == (size, changed):
            return Content(file, source, row["sha256"], size, changed)
        digest = hashlib.sha256()
        for part in pictures:
            digest.update(f"{part.name}\0{part.stat().st_size}\0".encode())
        for part in pictures or [file]:
            with part.open("rb") as stream:
                while block := stream.read(BUFFER):
                    digest.update(block)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, in older versions of Python
        reason = getattr(error, "strerror", None) or str(error)
        return Content(file, source, "", size, changed, f"unreadable: {reason}")
    return Content(file, source, digest.hexdigest(), size, changed)
