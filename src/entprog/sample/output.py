"""What is wrong with a call by itself, and where its clips go."""

from dataclasses import dataclass
from pathlib import Path

from entprog.prepare.folder import FASTEST
from entprog.prepare.sniff import EXTENSIONS, numbered_images

__all__ = ["Output", "outputs", "problems"]


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


def problems(references: list[str], drives: list[str], out: Path, frames: int | None, fps: float | None) -> list[str]:
    """What is wrong with a call by itself, a line each."""
    wrong = []
    for name, some, kind in (("reference", references, "an image file"), ("drive", drives, "a video file")):
        if not some:
            wrong.append(f"{name}: none given; give at least one")
        for one in dict.fromkeys(some):
            if not one.strip():
                wrong.append(f"{name} = {one!r}: empty; give {kind}, or a clip's name")
            elif Path(one).is_dir() and not (name == "drive" and numbered_images(one)):
                also = ", a folder of numbered pictures" if name == "drive" else ""
                wrong.append(f"{name} = {one!r}: a folder; give {kind}{also} or FOLDER:CLIP")
    if frames is not None and frames < 1:
        wrong.append(f"frames = {frames}: give 1 or more, or leave it out for the whole drive")
    if fps is not None and not 0 < fps <= FASTEST:
        wrong.append(f"fps = {fps}: give a number above 0, up to {FASTEST}")
    if problem := _out_problem(out, len(references) * len(drives)):
        wrong.append(problem)
    return wrong


def _out_problem(out: Path, clips: int) -> str:
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
