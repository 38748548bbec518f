"""Where the clips of a call go."""

from dataclasses import dataclass
from pathlib import Path

from entprog.prepare.video import EXTENSIONS

__all__ = ["Output", "out_problem", "outputs"]


@dataclass(frozen=True)
class Output:
    """The files of one clip.

    Attributes:
        target: the mp4.
        frames: folder of single frames; None where only `target` is wanted.
        gif: whether a GIF is wanted, too.
        panel: whether panels side by side are, if the call does not say it.
    """

    target: Path
    frames: Path | None
    gif: bool
    panel: bool


def out_problem(out: Path, clips: int) -> str:
    """What is wrong with `out` for so many clips; empty where it can be used."""
    suffix = out.suffix.lower()
    if out.is_dir():
        return ""
    if suffix == ".mp4" and clips > 1:
        return f"out = {str(out)!r}: one file for {clips} clips; give a folder"
    if out.exists() and suffix != ".mp4":
        return f"out = {str(out)!r}: a file; give a folder, or a name that ends in .mp4"
    if suffix in EXTENSIONS and suffix != ".mp4":
        return f"out = {str(out)!r}: clips are written as mp4; give a name that ends in .mp4, or a folder"
    above = next(parent for parent in out.absolute().parents if parent.exists())
    return "" if above.is_dir() else f"out = {str(out)!r}: {above} is a file, no folder; give another place"


def outputs(out: Path, names: list[str]) -> list[Output]:
    """The files of each clip: `out` itself if it ends in .mp4, else NAME.mp4 and so on in the folder `out`.

    Frames of a single clip are in frames/, those of several in a folder of the clip's name.
    """
    if out.suffix.lower() == ".mp4" and not out.is_dir():
        return [Output(out, None, gif=False, panel=False)]
    taken: set[str] = set()
    found = []
    for name in names:
        free = next(one for one in (name, *(f"{name}-{i}" for i in range(2, len(names) + 2))) if one not in taken)
        taken.add(free)
        folder = out / ("frames" if len(names) == 1 else free)
        found.append(Output(out / f"{free}.mp4", folder, gif=True, panel=True))
    return found
