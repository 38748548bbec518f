"""Files of `prepare` during its work: settings, a row for each file, and clips not yet in the shards.

prepare.json             the settings; a later run must have the same
prepare.jsonl            one row for each finished input file
parts/NAME.safetensors   the clips of one file; deleted once they are in the shards
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from entprog.data.shards import ClipRow, Shards, ShardWriter
from entprog.files import write_atomically
from entprog.prepare.atomic import atomic_path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Store:
    """One data set being prepared; opening it again continues where it stopped.

    Attributes:
        rows: the rows of prepare.jsonl, in the order in which the files were done.

    Raises:
        ValueError: the folder holds something else, or was begun with other settings (each is listed).
    """

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.out, self.settings, self.parts = out, settings, out / "parts"
        about = out / "prepare.json"
        if out.exists() and not out.is_dir():
            raise ValueError(f"out: {out} is a file; give a folder that does not exist yet")
        if about.is_file():
            self._compare(json.loads(about.read_text(encoding="utf-8")))
        elif out.exists() and any(out.iterdir()):
            raise ValueError(f"out: {out} exists and was not made by prepare; give an empty or a new folder")
        with full_disk_reported(out):
            self.parts.mkdir(parents=True, exist_ok=True)
            write_atomically(about, json.dumps(settings, indent=2) + "\n")
            self.rows = self._done()
            lines = "".join(json.dumps(row) + "\n" for row in self.rows)
            write_atomically(out / "prepare.jsonl", lines)

    def _compare(self, before: dict[str, Any]) -> None:
        keys = [key for key in {**before, **self.settings} if before.get(key) != self.settings.get(key)]
        if keys:
            changed = "; ".join(f"{key}: {before.get(key)!r} then, {self.settings.get(key)!r} now" for key in keys)
            raise ValueError(f"out: {self.out} was prepared with other settings ({changed}); use those or a new folder")

    def _done(self) -> list[dict[str, Any]]:
        """Rows of an earlier run whose clips are still there; a line cut off by a kill does not count."""
        path = self.out / "prepare.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        indexed = {row.clip for row in self._indexed()}
        return [row for row in rows if set(row["clips"]) <= indexed or self._kept(row)]

    def _kept(self, row: dict[str, Any]) -> bool:
        """Whether the clips of a file are all in parts/."""
        return self._part(row).is_file()

    def _indexed(self) -> list[Any]:
        path = self.out / "index.jsonl"
        if not path.is_file() or not path.stat().st_size:
            return []
        return Shards(self.out).rows

    def _part(self, row: dict[str, Any]) -> Path:
        return self.parts / f"{row['name']}.safetensors"

    def add(self, row: dict[str, Any], clips: dict[str, dict[str, Tensor]]) -> None:
        """Keep one file: its row, and its clips' tensors ("latents_SIZE" and "pose") by clip name."""
        with full_disk_reported(self.out):
            if clips:
                with atomic_path(self._part(row)) as partial:
                    tensors = {
                        f"{clip}/{key}": t.contiguous() for clip, named in clips.items() for key, t in named.items()
                    }
                    save_file(tensors, str(partial))
            with (self.out / "prepare.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        self.rows.append(row)

    def finish(self, codec: dict[str, str], holdout: float) -> list[ClipRow]:
        """Write the shards, dataset.json and the index; then delete the parts. Returns the clips' rows, in index order.

        Clips that are in the index already come first and unchanged, so that the old index stays valid until
        the new one replaces it.
        """
        old, settings = self._indexed(), self.settings
        indexed = {clip.clip for clip in old}
        new = [row for row in self.rows if row["clips"] and row["clips"][0] not in indexed]
        if not new:
            shutil.rmtree(self.parts)
            return old
        splits = split_files([row["source"] for row in self.rows if row["clips"]], holdout)
        splits |= {row["source"]: row["given_split"] for row in self.rows if row.get("given_split")}
        sizes = tuple(settings["sizes"])
        with full_disk_reported(self.out):
            writer = ShardWriter(self.out, codec=codec, sizes=sizes, fps=settings["fps"])
            for clip in old:
                shards = Shards(self.out)
                latents = {size: shards.latents(clip, size, 0, clip.frames) for size in sizes}
                fields = asdict(replace(clip, split=splits[clip.source]))
                for key in ("shard", "start", "frames", "fps"):
                    del fields[key]
                writer.add(latents, shards.pose(clip, 0, clip.frames), **fields)
            for row in new:
                self._move(row, writer, splits[row["source"]], sizes)
            writer.close()
        shutil.rmtree(self.parts)
        return writer.rows

    def _move(self, row: dict[str, Any], writer: ShardWriter, split: str, sizes: tuple[int, ...]) -> None:
        with safe_open(str(self._part(row)), "pt") as part:
            for clip in row["clips"]:
                latents = {size: part.get_tensor(f"{clip}/latents_{size}") for size in sizes}
                writer.add(
                    latents,
                    part.get_tensor(f"{clip}/pose").numpy(),
                    clip=clip,
                    subject=row["name"],
                    motion=clip,
                    scene=row["name"],
                    source=row["source"],
                    split=split,
                )


def split_files(sources: list[str], holdout: float) -> dict[str, str]:
    """Assign files to "train" or "holdout" by a hash of their names: the same on every machine.

    About the share `holdout` is held out; of two or more files (and holdout above 0) at least one is, and at
    least one is for training.
    """
    place = {source: int(sha256(os.fsencode(Path(source).name)).hexdigest()[:12], 16) / 16**12 for source in sources}
    order = sorted(place, key=lambda source: (place[source], source))
    count = sum(place[source] < holdout for source in order)
    least = 1 if holdout > 0 and len(order) > 1 else 0
    count = min(max(count, least), max(len(order) - 1, 0))
    return {source: "holdout" if i < count else "train" for i, source in enumerate(order)}


@contextmanager
def full_disk_reported(out: Path) -> Iterator[None]:
    """Turn a full disk into an OSError with a remedy; finished files are kept."""
    try:
        yield
    except SafetensorError as error:
        code = next((code for code in FULL if f"(os error {code})" in str(error)), None)
        if code is None:
            raise
        raise _full(code, out) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _full(error.errno, out) from error


def _full(code: int, out: Path) -> OSError:
    remedy = "files done so far are kept: free some space and run the same command again"
    return OSError(code, f"no space left to write the data set ({os.strerror(code)}); {remedy}", str(out))
