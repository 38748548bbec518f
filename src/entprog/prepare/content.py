"""What a file is known by: the sha256 of its content, with size and times of change as a shortcut."""

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
        bytes, mtime_ns: size and time of change before it was read; ctime_ns: when the file itself, its name included,
            was last touched, which no program sets, so that files of one size and time that change places are noticed.
    """

    file: Path
    source: str
    sha256: str
    bytes: int
    mtime_ns: int
    ctime_ns: int = 0
    problem: str = ""

    @property
    def about(self) -> dict[str, Any]:
        """What the file's row says of it."""
        return {"sha256": self.sha256, "bytes": self.bytes, "mtime_ns": self.mtime_ns, "ctime_ns": self.ctime_ns}


def read_contents(
    files: Sequence[Path], rows: Iterable[Mapping[str, Any]], *, threads: int = 1, progress: bool = False
) -> list[Content]:
    """The content of each file, in order; a file with the size and times of change of its row is not read again."""
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
    source, known_by = file.absolute().as_posix(), (0, 0, 0)
    try:
        source = file.resolve().as_posix()
        pictures = sorted(part for part in file.iterdir() if part.is_file()) if file.is_dir() else []
        stats = [part.stat() for part in pictures or [file]]
        times = (max(stat.st_mtime_ns for stat in stats), max(stat.st_ctime_ns for stat in stats))
        known_by = (sum(stat.st_size for stat in stats), *times)
        row = known.get(source)
        if row is not None and (row["bytes"], row["mtime_ns"], row.get("ctime_ns")) == known_by:
            return Content(file, source, row["sha256"], *known_by)
        digest = hashlib.sha256()
        for part in pictures:
            digest.update(f"{part.name}\0{part.stat().st_size}\0".encode())
        for part in pictures or [file]:
            with part.open("rb") as stream:
                while block := stream.read(BUFFER):
                    digest.update(block)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, in older versions of Python
        reason = getattr(error, "strerror", None) or str(error)
        return Content(file, source, "", *known_by, problem=f"unreadable: {reason}")
    return Content(file, source, digest.hexdigest(), *known_by)
