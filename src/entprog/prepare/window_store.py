"""Files of `prepare` with a codec (format 2) during its work: as in `store`, but a file in parts/ for each clip."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from safetensors import safe_open
from torch import Tensor

from entprog.data.shards import index_lines
from entprog.data.tensor_files import TensorFile
from entprog.data.window_writer import WindowWriter
from entprog.data.windows import OF_REFERENCES, STORED, WindowRow, Windows, prompt_hash
from entprog.prepare.outcome import subject_of
from entprog.prepare.split import TAIL, tail_of_windows
from entprog.prepare.store import Row, Store, full_disk_reported
from entprog.prepare.window_file import SHARED, reference_frames

Texts = Mapping[str, Mapping[str, Tensor]]


class WindowStore(Store):
    """One data set of windows being prepared; opening it again continues where it stopped."""

    joins_tails = False  # windows that reach over the border are gone

    def _open(self) -> Windows:
        return Windows(self.out)

    def captions(self) -> dict[str, str]:
        """The caption of each file that was done in an earlier run, by source."""
        gone = {id(row) for row in self.replaced.values()}
        return {row["source"]: row.get("caption", "") for row in self.rows if id(row) not in gone}

    def texts(self) -> dict[str, dict[str, Tensor]]:
        """Tensors of the prompts that a finished data set here has, as stored, by prompt hash."""
        path, found = self.out / "text.safetensors", dict[str, dict[str, Tensor]]()
        if not self._indexed() or not path.is_file():
            return found
        with safe_open(str(path), "pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                prompt, name = key.split(".", 1)
                found.setdefault(prompt, {})[name] = file.get_tensor(key)
        return found

    def finish_windows(
        self,
        *,
        codec: Mapping[str, Any],
        text: Mapping[str, Any] | None,
        texts: Texts,
        captions: Mapping[str, str],
    ) -> list[WindowRow]:
        """Write the shards, texts, dataset.json and the index; then delete the parts. Returns the index.

        Windows that are in the index already come first, so that the old index stays valid until the new one replaces
        it.

        Args:
            texts: tensors of every caption and of "", by prompt hash.
            captions: by source; see `captions`.
        """
        self.sort()
        old: list[WindowRow] = self._indexed()
        for row in self.rows:
            if row["source"] in captions:
                row["caption"] = captions[row["source"]]
        said = {clip: row["caption"] for row in self.rows for clip in row["clips"]}
        changed = self._new_clips() or self._gone(old) or any(said[row.clip] != row.caption for row in old)
        self._give_splits(self.settings["holdout"])
        if not changed:
            rows = [self._with_source(row) for row in old]
            self._close(index_lines(rows) if rows != old else None)
            return rows
        with full_disk_reported(self.out):
            writer = WindowWriter(
                self._next(), codec=codec, text=text, sizes=self.settings["sizes"], frames=self.settings["frames"],
                fps=self.settings["fps"], keypoints=self._stored(old),
            )  # fmt: skip
            for row in self.rows:
                if row.get("new"):
                    self._add_new(row, writer)
                else:
                    self._add_old(row, old, writer)
            used = {prompt_hash(caption): caption for caption in ("", *(row.caption for row in writer.rows))}
            writer.close({caption: texts[key] for key, caption in used.items() if key in texts})
        self._close()
        return writer.rows

    def _add_old(self, row: Row, old: list[WindowRow], writer: WindowWriter) -> None:
        """The windows of the finished data set that belong to a row."""
        files: dict[str, TensorFile] = {}
        clips = set(row["clips"])
        for window in old:
            if window.clip not in clips:
                continue
            file = files.setdefault(window.shard, TensorFile(self.out / window.shard))
            fields = asdict(window) | {"source": row["source"], "caption": row["caption"]}
            fields["content"] = row.get("sha256", "")
            for key in ("prompt", "shard", "place"):
                del fields[key]
            tensors = {name: file.read(name, window.place, window.place + 1)[0] for name in file.shapes}
            writer.add(tensors, **fields)

    def _add_new(self, row: Row, writer: WindowWriter) -> None:
        """The windows of a file in parts/. With its tail held out, windows that reach over the border are left out."""
        border = None
        if row["split"] == TAIL:
            starts = [start for clip in row["clips"] for start in row["starts"][clip]]
            border = tail_of_windows(starts, writer.frames, self.settings["holdout"])
            row["held_out_from"] = border
            if border is None:
                row["split"] = "train"
        for clip in row["clips"]:
            self._add_windows(clip, row, border, writer)

    def _add_windows(self, clip: str, row: Row, border: int | None, writer: WindowWriter) -> None:
        part = TensorFile(self._chunk(clip, 0))
        starts = row["starts"][clip]
        for size in writer.sizes:
            names = [name for name in STORED if f"{size}/{name}" in part.shapes]
            height, width = map(int, size.split("x"))
            for i, start in enumerate(starts):
                split = row["split"]
                if border is not None:
                    split = "holdout" if start >= border else "train"
                    if start < border < start + writer.frames:
                        continue
                tensors = {}
                for name in names:
                    key = f"{size}/{name}"
                    tensors[name] = part.read(key) if name in SHARED else part.read(key, i, i + 1)[0]
                if border is not None and split == "train":
                    tensors |= _seen(tensors, tuple(starts), writer.frames, border)
                writer.add(
                    tensors, caption=row["caption"], clip=clip, subject=subject_of(row, clip), source=row["source"],
                    split=split, start=start, frames=writer.frames, height=height, width=width,
                    content=row.get("sha256", ""),
                )  # fmt: skip


def _seen(tensors: Mapping[str, Tensor], starts: tuple[int, ...], length: int, border: int) -> dict[str, Tensor]:
    """The reference images of a training window with those from the held-out tail replaced by earlier ones."""
    found: dict[str, Tensor] = {}
    for name in OF_REFERENCES:
        if name in tensors:
            frames = reference_frames(starts, length, len(tensors[name]))
            allowed = [k for k, frame in enumerate(frames) if frame < border] or [0]
            found[name] = tensors[name][[allowed[k % len(allowed)] for k in range(len(frames))]]
    return found
