"""A metadata file of another trainer: which columns name the video and its caption, and what each row says.

See metadata.py for the layouts.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from entprog.prepare.inputs import is_video
from entprog.prepare.rows import Row, first_of, read_rows

__all__ = ["Sample", "Table", "listed", "open_table"]

LAYOUTS = {"video": "prompt", "file_path": "text", "video_path": "caption", "path": "cap", "file_name": "text"}
"""The column that names the video -> the column of its caption."""
FURTHER = (
    "type", "width", "height", "resolution", "fps", "duration", "num_frames", "size", "audio_path", "control_video",
    "control_file_path", "control_path", "kps_path",
)  # fmt: skip
"""Further columns of these layouts; others are named in a note."""
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, slots=True)
class Sample:
    """One video that is used. `caption` is "" where there is none."""

    video: Path
    caption: str = ""
    control: Path | None = None


@dataclass
class Table:
    """A metadata file, and what reading it has shown.

    Attributes:
        video, caption: names of columns; caption is "" where no column has any.
        bases: folders that its paths may be relative to, in order.
        used: what the rows say, by the video's resolved path.
        skipped: how many rows were not used, by the reason, and the first of them.
        mentioned: files that further columns name, such as control videos.
    """

    path: Path
    rows: list[Row]
    video: str
    caption: str
    bases: tuple[Path, ...]
    used: dict[Path, tuple[Row, Sample]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    mentioned: set[Path] = field(default_factory=set)

    @property
    def columns(self) -> list[str]:
        """The columns of all rows."""
        return list(dict.fromkeys(name for row in self.rows for name in row.values))

    @property
    def unread(self) -> list[str]:
        """Columns that no layout has."""
        return [name for name in self.columns if name not in (*LAYOUTS, *LAYOUTS.values(), *FURTHER)]

    def resolved(self, value: Any) -> Path | None:
        """The file that a value of a row names; None if it names none."""
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            return None
        named = Path(value.strip())
        for base in self.bases:
            try:
                if (base / named).is_file():
                    return (base / named).resolve()
            except OSError:  # longer than a file name can be
                return None
        return None

    def names_one_of(self, videos: Collection[Path]) -> bool:
        """Whether a row is of one of these videos."""
        return any(self.resolved(row.values.get(self.video)) in videos for row in self.rows)

    def read(self, videos: Mapping[Path, Path], control: str) -> list[str]:
        """Fill `used`; returns what is wrong, a line each.

        Args:
            videos: those of the inputs, by resolved path.
            control: the column of control videos; "" for none.
        """
        columns = self.columns
        if control and (control not in columns or control in (self.video, self.caption)):
            near = get_close_matches(control, [name for name in columns if name not in (self.video, self.caption)], 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {listed(columns)}"
            return [f"control = {control!r}: {self.path} has no such column of control videos; {hint}"]
        wrong: list[str] = []
        for row in self.rows:
            try:
                self._read_row(row, videos, control)
            except ValueError as error:
                wrong.append(f"metadata: {self.path}, {row.place}: {error}")
        return first_of(wrong)

    def _read_row(self, row: Row, videos: Mapping[Path, Path], control: str) -> None:
        others = [value for name, value in row.values.items() if name not in (self.video, self.caption)]
        self.mentioned |= {path for path in map(self.resolved, others) if path is not None}
        value = row.values.get(self.video)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{self.video} = {value!r} is not a path; name the video's file")
        video = self.resolved(value)
        if row.values.get("type") == "image" or Path(value).suffix.lower() in IMAGES:
            return self._skip("are of images", row)
        if video is None:
            return self._skip("name files that are not there", row)
        if video not in videos:
            return self._skip("name no video of the inputs", row)
        sample = Sample(videos[video], self._caption(row), self._control(row, control, video))
        before, first = self.used.setdefault(video, (row, sample))
        if first != sample:
            what = "caption" if first.caption != sample.caption else "control video"
            raise ValueError(f"{value} has another {what} in {before.place}; keep one of the rows")
        if before is not row:
            self._skip("repeat an earlier row", row)
        return None

    def _skip(self, why: str, row: Row) -> None:
        self.skipped[why] += 1
        value = str(row.values[self.video])
        self.first.setdefault(why, f"{row.place}, {value if value.isprintable() else repr(value)}")

    def _caption(self, row: Row) -> str:
        value = row.values.get(self.caption)
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            value = value[0] if value else None
        if value is None or (isinstance(value, float) and math.isnan(value)):  # how pandas writes a missing value
            return ""
        if not isinstance(value, str):
            raise ValueError(f"{self.caption} = {value!r} is not text; put it between quotes")
        return value.strip()

    def _control(self, row: Row, control: str, video: Path) -> Path | None:
        if not control:
            return None
        value = row.values.get(control)
        path = self.resolved(value)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{control} = {value!r} is not a path; name the control video of {row.values[self.video]}")
        if path is None:
            raise ValueError(f"{control} = {value!r} is not there; paths are relative to the metadata file's folder")
        if path == video:
            raise ValueError(f"{control} = {value!r} is the video itself; name its control video")
        if not is_video(path):
            raise ValueError(f"{control} = {value!r} is not a video file; convert it to .mp4")
        return path


def open_table(path: Path, inputs: Sequence[Path]) -> Table:
    """The rows of a metadata file, and which columns name the video and the caption.

    Raises:
        ValueError: broken lines, no column that names videos, or none that clearly has the captions.
    """
    rows = read_rows(path)
    table = Table(path, rows, "", "", (path.parent, path.parent / "videos", *filter(Path.is_dir, inputs), Path()))
    columns = table.columns
    table.video = next((name for name in LAYOUTS if name in columns), "")
    if not table.video:
        near = _near(LAYOUTS, columns)
        raise ValueError(
            f"metadata: {path}: no column names the video ({near or f'it has {listed(columns)}'}); "
            f"call it {' or '.join(LAYOUTS)}"
        )
    wanted = LAYOUTS[table.video]
    there = [wanted] if wanted in columns else [name for name in LAYOUTS.values() if name in columns]
    near = "" if there else _near(LAYOUTS.values(), [name for name in columns if name not in LAYOUTS])
    if len(there) > 1 or near:
        what = f"it has {' and '.join(there)}" if there else near
        raise ValueError(f"metadata: {path}: no column {wanted!r} for the caption ({what}); rename one to {wanted}")
    table.caption = there[0] if there else ""
    return table


def listed(columns: Sequence[str]) -> str:
    """The first names."""
    return ", ".join(columns[:8]) + (", ..." if len(columns) > 8 else "")


def _near(wanted: Collection[str], columns: Sequence[str]) -> str:
    """A column whose name nearly is one of `wanted`, as a hint."""
    pairs = ((column, get_close_matches(column.lower(), wanted, 1, 0.75)) for column in columns)
    return next((f"did you mean {near[0]} by {column}?" for column, near in pairs if near), "")
