"""What folders say of their videos: captions, and control videos where a column is named.

Read are a text file beside each video (same stem, .txt), and the metadata files of other trainers. Which trainer's a
file is, its columns say, not its name:

DiffSynth-Studio   video, prompt, and columns such as control_video or animate_pose_video
VideoX-Fun         file_path, text, control_file_path, type, width, height
musubi-tuner       video_path, caption, control_path
FastVideo          path, cap (a text or a list of texts), fps, ...; videos in the folder videos/ beside it
AnimateAnyone      video_path, kps_path
datasets           file_name, text

A metadata file says which videos are used: those without a row are left out, as other trainers do.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from entprog.prepare.inputs import find_videos, folders
from entprog.prepare.metadata_file import Sample, Table, listed, open_table
from entprog.prepare.rows import SUFFIXES, first_of, read_text

__all__ = ["Sample", "Samples", "captions"]

NAMES = ("metadata", "videos2caption")
"""What the names of metadata files begin with; files of other names are read if a row names one of the videos."""


@dataclass(frozen=True)
class Samples:
    """The videos that are used, in the order of `find_videos`; `notes` say what was left out or chosen, a line each."""

    rows: tuple[Sample, ...]
    notes: tuple[str, ...]

    @property
    def captions(self) -> dict[Path, str]:
        """The caption of each video; "" where there is none."""
        return {sample.video: sample.caption for sample in self.rows}

    @property
    def controls(self) -> dict[Path, Path]:
        """The control video of each video that has one."""
        return {sample.video: sample.control for sample in self.rows if sample.control is not None}


def captions(inputs: Sequence[Path], metadata: Path | None = None, control: str = "") -> Samples:
    """The caption, and the control video, of each video.

    Args:
        inputs: video files, and folders, as for `find_videos`.
        metadata: a metadata file; None: those that lie in the folders, and text files beside the videos. Paths in it
            are relative to its folder, to the folder videos/ in that, to an input folder, or to the working folder; the
            first that is there counts.
        control: the column that names the control video; "": none is wanted.

    Raises:
        ValueError: what would train something wrong: broken lines, columns that are not there, two captions of one
            video, values of another type, control videos that are missing. All problems at once.
    """
    videos = {video.resolve(): video for video in find_videos(inputs)}
    tables, notes, wrong = _tables(inputs, metadata, videos)
    for table in tables:
        wrong += table.read(videos, control)
    found, twice = _merged(tables)
    wrong += twice
    covered = {v for v in videos if metadata is not None or any(_within(v, table.path) for table in tables)}
    texts, unread = _beside({video: path for video, path in videos.items() if video not in covered})
    wrong += unread
    if control and (bare := [videos[video] for video in videos if video not in covered]):
        wrong.append(
            f"control = {control!r}: names a column, but {len(bare)} videos are in no metadata file (first {bare[0]}); "
            "give --metadata FILE"
        )
    if wrong:
        raise ValueError("\n".join(wrong))
    rows = tuple(
        found[video] if video in found else Sample(path, texts[video])
        for video, path in videos.items()
        if video in found or video not in covered
    )
    if tables and not rows:
        first = tables[0].rows[0]
        raise ValueError(
            f"metadata: {tables[0].path}: no row names a video of the inputs ({first.place}: "
            f"{first.values.get(tables[0].video)}); paths are relative to the metadata file's folder or an input folder"
        )
    return Samples(rows, (*notes, *_notes(tables, videos, covered, set(found), rows)))


def _tables(
    inputs: Sequence[Path], metadata: Path | None, videos: Collection[Path]
) -> tuple[list[Table], list[str], list[str]]:
    """The metadata files to read: the one given, or at most one of each folder; notes; and what is wrong."""
    files = {folder: [f for f in sorted(folder.iterdir()) if _is_table(f)] for folder in folders(inputs)}
    if metadata is not None:
        others = [f for here in files.values() for f in here if _is_named(f) and f.resolve() != metadata.resolve()]
        return (
            [open_table(metadata, inputs)],
            [f"{file} is not read, as --metadata is given" for file in others],
            [],
        )
    tables: list[Table] = []
    notes: list[str] = []
    wrong: list[str] = []
    for folder, here in files.items():
        opened: list[Table] = []
        for file in here:
            try:
                table = open_table(file, inputs)
            except ValueError as error:
                wrong += [str(error)] if _is_named(file) else []
                continue
            if _is_named(file) or table.names_one_of(videos):
                opened.append(table)
            elif table.caption:
                notes.append(f"{file} is not read, as no row names a video of the inputs")
        if len(opened) > 1:
            names = " and ".join(table.path.name for table in opened)
            wrong.append(f"metadata: {folder} has {names}; say with --metadata which to read")
        tables += opened
    return tables, notes, wrong


def _is_table(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def _is_named(file: Path) -> bool:
    return file.name.startswith(NAMES)


def _merged(tables: Sequence[Table]) -> tuple[dict[Path, Sample], list[str]]:
    """The samples of all metadata files, and the videos of which two say different things."""
    found: dict[Path, tuple[Table, Sample]] = {}
    wrong: list[str] = []
    for table in tables:
        for video, (row, sample) in table.used.items():
            other, before = found.setdefault(video, (table, sample))
            if before != sample:
                wrong.append(
                    f"metadata: {table.path}, {row.place}: {other.path} disagrees about {sample.video}; "
                    "remove one of the rows"
                )
    return {video: sample for video, (_, sample) in found.items()}, first_of(wrong)


def _beside(videos: Mapping[Path, Path]) -> tuple[dict[Path, str], list[str]]:
    """The text files beside videos, and those that can't be read."""
    texts: dict[Path, str] = {}
    wrong: dict[str, None] = {}
    for video, path in videos.items():
        file = path.with_suffix(".txt")
        try:
            texts[video] = read_text(file, "caption").strip() if file.is_file() else ""
        except ValueError as error:
            wrong[str(error)] = None
    return texts, first_of(wrong)


def _notes(
    tables: Sequence[Table],
    videos: Mapping[Path, Path],
    covered: set[Path],
    found: set[Path],
    rows: Sequence[Sample],
) -> list[str]:
    notes = []
    for table in tables:
        for why, count in table.skipped.items():
            notes.append(f"{table.path}: {count} of {len(table.rows)} rows {why} and are left out ({table.first[why]})")
        if several := sum(
            len(texts) > 1 for row in table.rows if isinstance(texts := row.values.get(table.caption), list)
        ):
            notes.append(f"{table.path}: {several} rows have several captions; the first is used")
        if table.unread:
            notes.append(f"{table.path}: columns that are not read: {listed(table.unread)}")
    mentioned = {path for table in tables for path in table.mentioned}
    if without := [path for video, path in videos.items() if video in covered - found - mentioned]:
        notes.append(f"{len(without)} videos have no row in the metadata and are left out ({without[0]})")
    if beside := [path for video, path in videos.items() if video in found and path.with_suffix(".txt").is_file()]:
        notes.append(
            f"captions are from the metadata, not from {len(beside)} .txt files beside the videos ({beside[0]})"
        )
    if bare := [sample.video for sample in rows if not sample.caption]:
        notes.append(f"{len(bare)} of {len(rows)} videos have no caption ({bare[0]}): the empty prompt is used")
    return notes


def _within(video: Path, table: Path) -> bool:
    return video.is_relative_to(table.parent.resolve())
