"""What the studio does, without its page: look at videos, prepare them, list runs, animate a photo."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entprog.prepare.contact_sheet import DataSet, frames_with_poses, rows_of
from entprog.prepare.folder import check_settings, prepare_folder
from entprog.prepare.pictures import Budget, jpeg, poster, resized
from entprog.prepare.video import VideoError, write_video
from entprog.report.data_set import report_data_set
from entprog.sample.animate import sample

HEIGHT = 200
SECONDS = 5.0
"""Of a clip that are shown."""
READING = 20.0
"""Seconds that reading the pictures of one file may take."""


@dataclass(frozen=True)
class Clip:
    """A clip that would be kept: its length in seconds, and an mp4 with the pose drawn over it, if it can be shown."""

    name: str
    seconds: float
    video: bytes | None


@dataclass(frozen=True)
class Look:
    """What `prepare` makes of one video.

    Attributes:
        name: of the file.
        clips: kept ones; none of a dropped file.
        reason: why it, or a part of it, is dropped; "" where all is kept.
        notes: what was noticed while reading it.
        picture: a JPEG of a dropped file.
    """

    name: str
    clips: list[Clip] = field(default_factory=list)
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    picture: bytes | None = None


def problem(error: Exception) -> str:
    """An error in plain words, a line for each problem."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return "\n".join(line for line in str(error).splitlines() if line.strip()) or type(error).__name__


def options(sizes: str, fps: float, people: str, least: int) -> dict[str, Any]:
    """The keywords of `prepare_folder` that the page asks for.

    Raises:
        ValueError: `sizes` are no whole numbers with commas between.
    """
    sides = [side.strip() for side in sizes.split(",") if side.strip()]
    if not sides or not all(side.isascii() and side.isdigit() for side in sides):
        raise ValueError(f"sizes: {sizes!r}; give multiples of 8, such as 32,64")
    return {"sizes": [int(side) for side in sides], "fps": float(fps), "people": people, "min_frames": int(least)}


def look_at(videos: Sequence[Path], given: dict[str, Any]) -> Iterator[Look]:
    """What `prepare` would keep of each video, one after the other.

    Each is prepared into a folder of its own, which is deleted again.

    Args:
        given: see `options`.

    Raises:
        ValueError: an option is wrong.
    """
    for video in videos:
        with tempfile.TemporaryDirectory(prefix="look-") as folder:
            yield _look(video, Path(folder) / "data", given)


def _look(video: Path, folder: Path, given: dict[str, Any]) -> Look:
    try:
        prepare_folder([video], folder, holdout=0.0, progress=False, **given)
    except ValueError:
        rows = rows_of(folder / "prepare.jsonl") if (folder / "prepare.jsonl").is_file() else []
        if not rows:
            raise
        frame = poster(video, short_side=HEIGHT)
        picture = None if frame is None else jpeg(resized(frame[None], HEIGHT)[0])
        return Look(video.name, [], str(rows[0].get("reason")), list(rows[0].get("notes") or ()), picture)
    data = DataSet(folder)
    budget = Budget(READING)
    clips = [_clip(data, name, folder.parent / "clip.mp4", budget) for name in data.clips]
    row = data.rows[0]
    return Look(video.name, clips, row.get("reason") or "", list(row.get("notes") or ()))


def _clip(data: DataSet, name: str, path: Path, budget: Budget) -> Clip:
    length = data.length(name)
    numbers = list(range(min(length, round(SECONDS * data.fps))))
    frames, _ = frames_with_poses(data, name, numbers, height=HEIGHT, budget=budget)
    if frames is None:
        return Clip(name, length / data.fps, None)
    write_video(path, frames, data.fps)
    return Clip(name, length / data.fps, path.read_bytes())


def prepare(videos: Sequence[Path], out: str, given: dict[str, Any]) -> str:
    """Prepare the videos into the folder `out`, and say in a few lines what became of them.

    The videos are copied to OUT-videos first, since uploads are deleted when the studio ends.

    Raises:
        ValueError: no folder or no videos, or none of them can be used.
        OSError: the folder can't be written.
    """
    if not videos:
        raise ValueError("videos: none given; drop some first")
    if not out.strip():
        raise ValueError("folder: empty; give the folder that the data set shall be in, such as data/people")
    folder = Path(out.strip()).expanduser()
    check_settings(videos, folder, **given)  # before anything is copied
    kept = folder.with_name(f"{folder.name}-videos")
    kept.mkdir(parents=True, exist_ok=True)
    copies = [_copied(video, kept) for video in videos]
    result = prepare_folder(copies, folder, **given)
    lines = [
        f"{result.out}: {result.clips} clips, {result.frames} frames; "
        f"{result.kept} files kept, {result.dropped} dropped",
        *(f"{count} x {reason}" for reason, count in result.reasons.items()),
    ]
    if page := report_data_set(result.out):
        lines.append(f"Pictures of all clips: {page}")
    lines.append(f"Train on it: entprog train RECIPE --data.path {result.out} --output-dir runs/NAME")
    return "\n".join(lines)


def _copied(video: Path, folder: Path) -> Path:
    """The video in the folder: a file there with the same content, else a copy under a free name."""
    number, target = 1, folder / video.name
    while target.exists():
        if target.stat().st_size == video.stat().st_size and target.read_bytes() == video.read_bytes():
            return target
        number += 1
        target = folder / f"{video.stem}-{number}{video.suffix}"
    shutil.copyfile(video, target)
    return target


def finished_runs(folder: Path) -> list[str]:
    """Run folders in `folder`, itself and up to two levels below, that have final weights; the newest first."""
    found = [path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}config.toml")]
    done = [run for run in found if any((run / "final").glob("*.safetensors"))]
    return [str(run) for run in sorted(done, key=lambda run: -(run / "final").stat().st_mtime)]


def animate(
    run: str, photo: str | Path | None, drive: str | Path | None, folder: Path, settings: dict[str, Any]
) -> tuple[Path, str]:
    """The clip of the photo's person in the poses of the drive, an mp4 in `folder`, and what was said of it.

    Args:
        settings: keywords of `sample`, such as frames and seed; None is as in the run.

    Raises:
        ValueError: something is missing, or can't be used.
        OSError: a file can't be read or written.
    """
    missing = {
        "run": (run, "choose a folder made by entprog train"),
        "photo": (photo, "drop a picture of a person"),
        "drive": (drive, "drop a video of a person who moves"),
    }
    lines = [f"{name}: none given; {remedy}" for name, (value, remedy) in missing.items() if not value]
    if lines:
        raise ValueError("\n".join(lines))
    out = Path(tempfile.mkdtemp(prefix="clip-", dir=folder)) / "clip.mp4"
    chosen = {name: value for name, value in settings.items() if value is not None}
    said: list[str] = []
    made = sample(Path(run), reference=str(photo), drive=str(drive), out=out, say=said.append, **chosen)
    return (made if isinstance(made, Path) else made[0]), "\n".join(said)


def picture_of(path: str | Path | None) -> bytes | None:
    """A small JPEG of an image or a video, to show what was given; None where it is neither."""
    if not path:
        return None
    try:
        frame = poster(Path(path), short_side=HEIGHT)
    except VideoError:
        return None
    return None if frame is None else jpeg(resized(frame[None], HEIGHT)[0])
