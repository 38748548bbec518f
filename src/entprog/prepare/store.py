"""Files of `prepare` during its work: settings, a row for each file, and clips not yet in the shards.

prepare.json             the settings; a later run must have the same
prepare.jsonl            one row for each input file; rows of files not yet in the shards have no "split"
parts/CLIP.safetensors   a clip not yet in the shards; CLIP.safetensors.1 and so on hold further frames of it
parts/NAME.json          the row of a file that another rank has finished
.next/                   the finished data set before it replaces the old one; whole once it has an index.jsonl
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from entprog.data.shards import KEYPOINTS, ClipRow, Shards, ShardWriter, index_lines
from entprog.data.tensor_files import TensorFile
from entprog.files import write_atomically
from entprog.locks import LOCK_FILES
from entprog.poses.loading import with_defaults
from entprog.prepare.outcome import subject_of
from entprog.prepare.parts import full_disk_reported, keep_clip, part_path
from entprog.prepare.quality import MIN_SHARPNESS
from entprog.prepare.split import TAIL, SplitClip, renamed_pieces, split_files, tail_of_clips

__all__ = ["Row", "Store", "check_folder", "finished", "full_disk_reported", "split_files"]

Row = dict[str, Any]
LEFT_OUT = "left_out"
"""Key of prepare.json that is no setting: what the inputs of the last run hold beside videos."""
EARLIER: dict[str, Any] = {"min_sharpness": MIN_SHARPNESS, "pose": "blazepose", "pose_options": {}}
"""What data sets were prepared with before a setting was there; a setting that is not named must be in prepare.json."""
FRAMES_AT_ONCE = 64
INSIDE = ("parts", ".next", *LOCK_FILES)


class Store:
    """One data set being prepared; opening it again continues where it stopped.

    Attributes:
        rows: the rows of prepare.jsonl: those of the finished data set first, then in the order of `place`.

    Raises:
        ValueError: the folder holds something else, or was begun with other settings (each is listed).
    """

    joins_tails = True
    """Whether a tail goes back into training once other files can be held out."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.out, self.settings, self.parts = out, settings, out / "parts"
        self.replaced: dict[str, Row] = {}
        self._places: dict[str, int] = {}
        about = out / "prepare.json"
        check_folder(out)
        before: dict[str, Any] = {}
        if about.is_file():
            before = json.loads(about.read_text(encoding="utf-8"))
            self._compare(before)
        with full_disk_reported(out):
            self.parts.mkdir(parents=True, exist_ok=True)
            self.left_out: dict[str, int] = before.get(LEFT_OUT, {})
            self._write_settings()
            self._take_over()
            self.rows = self._done()
            self._write_rows()
            self._clean()

    def _clean(self) -> None:
        """Delete what a killed run left in parts/ of files that it had not finished."""
        wanted = {
            path for row in self.rows if not finished(row) for clip in row["clips"] for path in self._chunks(clip)
        }
        for path in [*self.parts.iterdir(), *self.out.glob("*.partial")]:
            if path.is_file() and path not in wanted:
                path.unlink()

    def _write_settings(self) -> None:
        said = {**self.settings, **({LEFT_OUT: self.left_out} if self.left_out else {})}
        text = json.dumps(said, indent=2) + "\n"
        path = self.out / "prepare.json"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)

    def _write_rows(self) -> None:
        write_atomically(self.out / "prepare.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))

    def _compare(self, before: dict[str, Any]) -> None:
        before = with_defaults({**{k: v for k, v in EARLIER.items() if k in self.settings}, **before})
        before.pop(LEFT_OUT, None)
        keys = [key for key in {**before, **self.settings} if before.get(key) != self.settings.get(key)]
        if keys:
            changed = "; ".join(f"{key}: {before.get(key)!r} then, {self.settings.get(key)!r} now" for key in keys)
            raise ValueError(f"out: {self.out} was prepared with other settings ({changed}); use those or a new folder")

    # ---- rows ----

    def _done(self) -> list[Row]:
        """Rows of an earlier run whose clips are still there; a line cut off by a kill does not count."""
        path = self.out / "prepare.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        for marker in sorted(self.parts.glob("*.json")):
            rows.append(json.loads(marker.read_text(encoding="utf-8")))
            marker.unlink()
        splits: dict[str, set[str]] = {}
        for clip in self._indexed():
            splits.setdefault(clip.clip, set()).add(clip.split)
        found = []
        for row in rows:
            if row["clips"] and "split" not in row and set(row["clips"]) <= set(splits) and "sha256" not in row:
                row["split"] = splits[row["clips"][0]].copy().pop()  # a data set of an earlier version
            if finished(row) or "sha256" not in row:
                kept = set(row["clips"]) <= set(splits) or self._kept(row)
            else:
                kept = self._kept(row)
            if kept:
                found.append(row)
        return self._newest(found)

    def _newest(self, rows: Sequence[Row]) -> list[Row]:
        """Of rows of one file the last, and one of the finished data set, which that replaces.

        A run that was killed leaves two: the row of the finished data set, and that of the file's new content.
        """
        newest = {row["source"]: row for row in rows}
        older = [row for row in rows if newest[row["source"]] is not row]
        self.replaced |= {row["source"]: row for row in older if finished(row)}
        gone = {id(row) for row in older if self.replaced.get(row["source"]) is not row}
        return [row for row in rows if id(row) not in gone]

    def _kept(self, row: Row) -> bool:
        """Whether the clips of a file are all in parts/."""
        return not finished(row) and all(self._chunk(clip, 0).is_file() for clip in row["clips"])

    def _indexed(self) -> list[Any]:
        path = self.out / "index.jsonl"
        if not path.is_file() or not path.stat().st_size:
            return []
        return self._open().rows

    def _open(self) -> Any:
        return Shards(self.out)

    def _chunk(self, clip: str, number: int) -> Path:
        return part_path(self.parts, clip, number)

    def _chunks(self, clip: str) -> Iterator[Path]:
        number = 0
        while (path := self._chunk(clip, number)).is_file():
            yield path
            number += 1

    def replace(self, source: str, row: Row) -> None:
        """Another row will take the place of this one, whose file has another content now, or is tried again."""
        if finished(row):
            self.replaced[source] = row
        else:
            self.rows = [other for other in self.rows if other is not row]

    def update(self, rows: Sequence[Row]) -> None:
        """Add rows without clips, and write those that were changed."""
        self.rows += rows
        with full_disk_reported(self.out):
            self._write_rows()

    def order(self, sources: Sequence[str]) -> None:
        """The order of new rows: that of these sources, the inputs."""
        self._places = {source: place for place, source in enumerate(sources)}

    def sort(self) -> None:
        """Rows of the finished data set first, each replaced one's successor in its place; then by `order`."""
        replaced = {id(old): source for source, old in self.replaced.items()}
        new = {row["source"]: row for row in self.rows if not finished(row)}
        rows: list[Row] = []
        for row in self.rows:
            if id(row) in replaced:
                successor = new.pop(replaced[id(row)], None)
                rows += [successor] if successor is not None else []
            elif finished(row):
                rows.append(row)
        self.rows = rows + sorted(new.values(), key=lambda row: self._places.get(row["source"], -1))

    def add_clip(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a clip's tensors, or further frames of it; it counts once `add` has its file's row."""
        keep_clip(self.parts, name, tensors)

    def add(self, row: Row, clips: Mapping[str, Mapping[str, Tensor]] | None = None) -> None:
        """Keep one file: its row, and its clips' tensors ("latents_SIZE" and "pose") by clip name."""
        for clip, tensors in (clips or {}).items():
            self.clear(clip)
            self.add_clip(clip, tensors)
        with full_disk_reported(self.out), (self.out / "prepare.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.rows.append(row)

    def clear(self, clip: str) -> None:
        """Remove what is left of a clip in parts/."""
        for path in list(self._chunks(clip)):
            path.unlink()

    # ---- the finished data set ----

    def finish(self, codec: dict[str, str], holdout: float) -> list[ClipRow]:
        """Write the shards, dataset.json and the index; then delete the parts. Returns the clips' rows, in index order.

        The old data set is whole until the new one is, which then replaces it; a kill in between is made good when the
        folder is opened again.
        """
        self.sort()
        old: list[ClipRow] = self._indexed()
        changed = self._new_clips() or self._gone(old)
        self._give_splits(holdout)
        if not changed:
            rows = [self._with_source(clip) for clip in old]
            self._close(index_lines(rows) if rows != old else None)
            return rows
        sizes = tuple(self.settings["sizes"])
        with full_disk_reported(self.out):
            stored = self._stored(old)
            writer = ShardWriter(self._next(), codec=codec, sizes=sizes, fps=self.settings["fps"], stored=stored)
            for row in self.rows:
                for piece in self._pieces(row, old):
                    self._move(piece, row, old, writer)
            writer.close()
        self._close()
        return writer.rows

    def _stored(self, old: Sequence[Any]) -> tuple[str, ...]:
        """Keypoints of hands and face that one of the clips has; the others then get zeros."""
        new = (self._chunk(clip, 0) for row in self.rows if row.get("new") for clip in row["clips"])
        files = {*new, *(self.out / clip.shard for clip in old)}
        found = {name.rsplit("/", 1)[-1] for path in files if path.is_file() for name in TensorFile(path).shapes}
        return tuple(name for name in KEYPOINTS if name in found)

    def _new_clips(self) -> bool:
        return any(row["clips"] and not finished(row) for row in self.rows)

    def _gone(self, old: Sequence[Any]) -> bool:
        """Whether clips of the finished data set belong to no row any more."""
        names = {clip for row in self.rows for clip in row["clips"]}
        return any(clip.clip not in names for clip in old)

    def _give_splits(self, holdout: float) -> None:
        """A split for each row that has none. Of a single file the tail is held out, until there are others."""
        kept = [row for row in self.rows if row["clips"]]
        given = {row["source"]: row["given_split"] for row in kept if "given_split" in row}
        given |= {row["source"]: row["split"] for row in kept if finished(row)}
        if self.joins_tails and len(kept) > 1:
            for row in kept:
                if row.get("split") == TAIL:
                    row["split"] = given[row["source"]] = "train"
        for source, row in self.replaced.items():
            if row.get("split"):
                given.setdefault(source, row["split"])
        given = {source: split for source, split in given.items() if source in {row["source"] for row in kept}}
        splits = split_files([row["source"] for row in kept], holdout, given)
        alone = len(kept) == 1 and holdout > 0 and kept[0]["source"] not in given
        for row in self.rows:
            if not finished(row):
                row["split"] = (TAIL if alone else splits[row["source"]]) if row["clips"] else None
                row["new"] = True

    def _pieces(self, row: Row, old: Sequence[ClipRow]) -> list[SplitClip]:
        """The clips of a row: as in the finished data set, or new; then the row is brought in line with them."""
        if not row.get("new"):
            clips = {c.clip: c for c in old if c.clip in row["clips"]}
            if row["split"] != TAIL:
                for name in row.pop("held_out", ()):
                    joined = clips.get(name.removesuffix("-tail")) if name.endswith("-tail") else None
                    clips[name] = replace(clips[name], split="train")
                    if joined is not None:
                        clips[joined.clip] = replace(joined, frames=joined.frames + clips.pop(name).frames)
                        row.get("crops", {}).pop(name, None)
                row["clips"] = list(clips)
            return [SplitClip(c.clip, c.clip, 0, c.frames, c.split) for c in clips.values()]
        frames = {clip: sum(_frames(path) for path in self._chunks(clip)) for clip in row["clips"]}
        if row["split"] != TAIL:
            return [SplitClip(clip, clip, 0, count, row["split"]) for clip, count in frames.items()]
        pieces = tail_of_clips(frames, self.settings["holdout"], self.settings["min_frames"])
        row["clips"] = [piece.name for piece in pieces]
        for piece in pieces:
            if "crops" in row and piece.clip in row["crops"]:
                row["crops"][piece.name] = row["crops"][piece.clip]
        row["held_out"] = [piece.name for piece in pieces if piece.split == "holdout"]
        if "pieces" in row:
            row["pieces"] = renamed_pieces(row["pieces"], pieces)
        if not row["held_out"]:
            row["split"] = "train"
        return pieces

    def _move(self, piece: SplitClip, row: Row, old: Sequence[ClipRow], writer: ShardWriter) -> None:
        about = {
            "clip": piece.name, "subject": subject_of(row, piece.name), "motion": piece.name, "scene": row["name"],
            "source": row["source"], "split": piece.split, "content": row.get("sha256", ""),
        }  # fmt: skip
        if row.get("new"):
            writer.add_chunks(self._frames_of(piece), **about)
            return
        clip = next(clip for clip in old if clip.clip == piece.clip)
        sources = [clip]
        if clip.frames < piece.end:
            sources += [other for other in old if other.clip == f"{clip.clip}-tail"]
        writer.add_chunks(chain.from_iterable(map(self._before, sources)), **about)

    def _before(self, clip: ClipRow) -> Iterator[dict[str, Tensor]]:
        """Frames of a clip of the finished data set."""
        file = TensorFile(self.out / clip.shard)
        names = {name: name for name in file.shapes}
        return file.chunks(names, clip.start, clip.start + clip.frames, FRAMES_AT_ONCE)

    def _frames_of(self, piece: SplitClip) -> Iterator[dict[str, Tensor]]:
        """Frames [start, end) of a clip in parts/."""
        before = 0
        for path in self._chunks(piece.clip):
            file = TensorFile(path)
            count = _frames(path)
            first, last = max(piece.start - before, 0), min(piece.end - before, count)
            if first < last:
                yield from file.chunks({name: name for name in file.shapes}, first, last, FRAMES_AT_ONCE)
            before += count

    def _with_source(self, clip: Any) -> Any:
        row = next((row for row in self.rows if clip.clip in row["clips"]), None)
        if row is None:
            return clip
        return replace(clip, source=row["source"], content=row.get("sha256", ""))

    def _next(self) -> Path:
        """An empty folder for the new data set."""
        folder = self.out / ".next"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def _close(self, index: str | None = None) -> None:
        """Put what is in .next/ in place, write the rows, and delete the parts. `index`: only that is new."""
        for row in self.rows:
            row.pop("new", None)
        with full_disk_reported(self.out):
            lines = "".join(json.dumps(row) + "\n" for row in self.rows)
            folder = self.out / ".next"
            if folder.is_dir():
                write_atomically(folder / "prepare.jsonl", lines)
                write_atomically(folder / "whole", "")
                self._take_over()
            else:
                if index is not None:
                    write_atomically(self.out / "index.jsonl", index)
                write_atomically(self.out / "prepare.jsonl", lines)
            self._write_settings()
        shutil.rmtree(self.parts)

    def _take_over(self) -> None:
        """Replace the data set by the one in .next/ if that is whole, else delete it; goes on after a kill."""
        folder = self.out / ".next"
        if (folder / "whole").is_file() and (folder / "index.jsonl").is_file():  # which is moved last
            (self.out / "index.jsonl").unlink(missing_ok=True)  # what is read meanwhile is no data set
            for path in sorted(self.out.glob("shard-*.safetensors")):
                if not (folder / path.name).is_file() and not (folder / f"{path.name}.moved").exists():
                    path.unlink()
            for path in sorted(folder.iterdir(), key=lambda path: path.name == "index.jsonl"):
                if path.name == "whole" or path.suffix == ".moved":
                    continue
                (folder / f"{path.name}.moved").touch()
                path.replace(self.out / path.name)
            shutil.rmtree(self.parts, ignore_errors=True)
            self.parts.mkdir(exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def check_folder(out: Path) -> None:
    """Refuse a folder that is none, or not of `prepare`.

    Raises:
        ValueError: the folder holds something else.
    """
    taken = next((path for path in (out, *out.parents) if path.exists()), None)
    if taken is not None and not taken.is_dir():
        raise ValueError(f"out: {taken} is a file; give a folder that does not exist yet")
    if out.exists() and not (out / "prepare.json").is_file() and any(p.name not in INSIDE for p in out.iterdir()):
        raise ValueError(f"out: {out} exists and was not made by prepare; give an empty or a new folder")


def finished(row: Mapping[str, Any]) -> bool:
    """Whether a row is of the finished data set."""
    return "split" in row and not row.get("new")


def _frames(path: Path) -> int:
    return TensorFile(path).shapes["pose"][0]
