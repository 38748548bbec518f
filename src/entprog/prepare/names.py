"""Names of files in a data set: the file's own where it is free, so that clips of two files never share a name."""

import os
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

__all__ = ["Names", "free_name"]

LONGEST = 120
"""Bytes of a name; longer ones are cut, as clips become files with longer names."""
ENDINGS = (re.compile(r"-tail$"), re.compile(r"-\d{1,6}$"))
"""What clips of a file add to its name."""


class Names:
    """Names that are taken."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken: set[str] = set()
        self._stems: set[str] = set()
        for name in taken:
            self.take(name)

    def take(self, name: str) -> None:
        """Take a name, and those of its clips."""
        self._taken.add(name)
        self._stems |= _stems(name)

    def is_free(self, name: str) -> bool:
        """Whether neither the name is taken, nor one of which a clip could have it, nor one that a clip of it could."""
        return name not in self._stems and not _stems(name) & self._taken

    def free(self, file: Path, digest: str = "", name: str = "") -> str:
        """The file's stem; with the beginning of a hash where it could be mistaken for another file's.

        Args:
            digest: the hash, of the file's content; "": one of its whole path.
            name: used in the place of the stem.
        """
        stem = (name or file.stem).encode("utf-8", "replace").decode()
        short = stem.encode()[:LONGEST].decode("utf-8", "ignore")
        if short == stem and self.is_free(stem):
            return stem
        digest = digest or sha256(os.fsencode(file.resolve())).hexdigest()
        named = f"{short}-{digest[:8]}"
        return named if named not in self._stems else f"{short}-{digest[:24]}"


def free_name(file: Path, taken: Iterable[str], digest: str = "") -> str:
    """See `Names.free`."""
    return Names(taken).free(file, digest)


def _stems(name: str) -> set[str]:
    """The names of files of which a clip could have this name."""
    found = {name}
    for ending in ENDINGS:
        found |= {ending.sub("", one) for one in found}
    return found
