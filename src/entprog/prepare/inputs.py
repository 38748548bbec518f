"""What the inputs of `entprog prepare` hold: the files to be prepared, and a count of everything else."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from entprog.prepare.video import EXTENSIONS, looks_like_video

__all__ = ["Listing", "find_videos", "folders", "is_video", "list_inputs", "shown"]

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".ytdl", ".aria2")
NO_VIDEO = (
    ".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".ini", ".md", ".html", ".htm", ".pdf",
    ".srt", ".vtt", ".ass", ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".svg", ".psd",
    ".mp3", ".wav", ".flac", ".m4a", ".m4b", ".m4r", ".mka", ".wma", ".aac",
    ".ogg", ".opus", ".npy", ".npz", ".pt", ".pth", ".ckpt", ".safetensors",
    ".pkl", ".db", ".log", ".py", ".sh", ".ipynb", ".exe", ".dll",
)  # fmt: skip
"""Suffixes of files that are not opened; files of any other suffix than these and a video's are."""
ALSO_TEXT = (".ts", ".mts", ".mod")
"""Suffixes of videos that texts have too, such as TypeScript's."""
HEAD = 4096


@dataclass(frozen=True)
class Listing:
    """Everything that the inputs hold.

    Attributes:
        files: to be prepared, each once: inputs as given, folders in sorted order.
        left_out: how many other entries there are, by what they are ("no video (.txt)", "hidden", ...).
        names: of files that are not called by their own name.
        splits: "train" or "holdout" of files for which a data set's authors say it.
    """

    files: tuple[Path, ...]
    left_out: dict[str, int]
    names: Mapping[Path, str] = field(default_factory=dict)
    splits: Mapping[Path, str] = field(default_factory=dict)


def list_inputs(inputs: Sequence[Path], out: Path | None = None) -> Listing:
    """Files are taken as given; folders with all their subfolders, links followed, each folder and file once.

    Args:
        out: the data set's folder, which is left out where it is inside an input.

    Raises:
        ValueError: an input folder cannot be read.
    """
    walk = _Walk(out)
    for path in inputs:
        if path.is_dir():
            walk.folder(path)
        else:
            walk.file(path, given=True)
        walk.links()
    return Listing(tuple(walk.files), dict(sorted(walk.left_out.items())))


def find_videos(inputs: Sequence[Path]) -> Iterator[Path]:
    """The files of `list_inputs`.

    Raises:
        ValueError: an input folder cannot be read.
    """
    yield from list_inputs(inputs).files


def folders(inputs: Sequence[Path]) -> list[Path]:
    """The folders among `inputs` and all folders in them, links followed, each once."""
    walk = _Walk(None, look=False)
    for path in inputs:
        if path.is_dir():
            walk.folder(path)
            walk.links()
    return sorted(walk.folders)


def is_video(file: Path) -> bool:
    """Whether the name is a video's; hidden files are not."""
    return file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")


def shown(path: str | Path) -> str:
    """A path as text that can be printed: bytes that are no UTF-8 become question marks."""
    return os.fsencode(path).decode("utf-8", "replace").replace("\ufffd", "?")


class _Walk:
    """Collects the entries of folders; links to folders wait until what is there without links has been seen."""

    def __init__(self, out: Path | None, *, look: bool = True) -> None:
        self.files: list[Path] = []
        self.folders: list[Path] = []
        self.left_out: Counter[str] = Counter()
        self.out = None if out is None else out.resolve()
        self.look = look
        self._seen: set[Path] = set()
        self._links: list[Path] = []

    def folder(self, path: Path, *, first: bool = True) -> None:
        """A folder with its subfolders."""
        real = path.resolve()
        if real == self.out:
            self.left_out["the data set's own folder"] += 1
            return
        if real in self._seen:
            self.left_out["link to a folder that is listed already"] += not first
            return
        self._seen.add(real)
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            if first:
                raise ValueError(f"inputs: cannot read the folder {shown(path)} ({error.strerror})") from error
            self.left_out[f"folder that cannot be read: {shown(path)} ({error.strerror})"] += 1
            return
        self.folders.append(path)
        inside: list[tuple[Path, bool]] = []
        for entry in entries:
            place = Path(entry.path)
            if entry.name.startswith("."):
                self.left_out["hidden (its name begins with a dot)"] += 1
            elif entry.is_symlink() and place.is_dir():
                self._links.append(place)
            else:
                inside.append((place, place.is_dir()))
        # as paths sort: what is in a folder comes where its name does
        for place, is_folder in sorted(inside, key=lambda pair: pair[0].parts):
            if is_folder:
                self.folder(place, first=False)
            elif self.look:
                self.file(place)

    def links(self) -> None:
        """The links to folders that were found so far."""
        while self._links:
            self.folder(self._links.pop(0), first=False)

    def file(self, path: Path, *, given: bool = False) -> None:
        """A file, or whatever else is no folder; one that was `given` is prepared whatever its name is."""
        if what := self._no_file(path):
            self.left_out[what] += 1
            return
        if not given and (what := _no_video(path)):
            self.left_out[what] += 1
            return
        real = path.resolve()
        if real in self._seen:
            self.left_out["another path to a file that is listed already"] += 1
            return
        self._seen.add(real)
        self.files.append(path)

    def _no_file(self, path: Path) -> str:
        try:
            mode = path.stat().st_mode
        except OSError:
            try:
                broken = path.is_symlink()
            except OSError:
                broken = False
            return "broken link, or one that leads back to itself" if broken else ""
        return "" if stat.S_ISREG(mode) else "no regular file (a device, pipe or socket)"


def _no_video(path: Path) -> str:
    """What a file is that is no video, as a line of the summary; "" for a video."""
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS and not (suffix in ALSO_TEXT and _is_text(path)):
        return ""
    named = shown(suffix) or "no suffix"
    if suffix in ARCHIVES:
        return f"archive, not unpacked ({named})"
    if suffix in UNFINISHED:
        return f"unfinished download ({named})"
    if suffix in (*NO_VIDEO, *ALSO_TEXT) or not (looks_like_video(path) or not _can_be_read(path)):
        return f"no video ({named})"
    return ""


def _can_be_read(path: Path) -> bool:
    """Whether the file can be opened; one that can't be is listed, so that its row says why."""
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def _is_text(path: Path) -> bool:
    """Whether a file begins as a text does; not an empty one, nor one that can't be opened."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError:
        return False
    texts = head.decode("utf-8", "ignore").encode()
    return bool(head) and b"\0" not in head and len(head) - len(texts) < 4
