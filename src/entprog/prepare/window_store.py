"""Files of `prepare` with a codec (format 2) during its work: as in `store`, but a file in parts/ for each clip."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from entprog.data.window_writer import WindowWriter
from entprog.data.windows import STORED, WindowRow, Windows, prompt_hash
from entprog.files import save_tensors
from entprog.prepare.atomic import atomic_path
from entprog.prepare.store import Store, full_disk_reported, split_files
from entprog.prepare.window_file import SHARED

Texts = Mapping[str, Mapping[str, Tensor]]


class WindowStore(Store):
    """One data set of windows being prepared; opening it again continues where it stopped."""

    def _indexed(self) -> list[WindowRow]:
        path = self.out / "index.jsonl"
        if not path.is_file() or not path.stat().st_size:
            return []
        return Windows(self.out).rows

    def _clip(self, name: str) -> Path:
        return self.parts / f"{name}.safetensors"

    def _kept(self, row: dict[str, Any]) -> bool:
        return all(self._clip(name).is_file() for name in row["clips"])

    def add_clip(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keep one clip's tensors ("SIZE/NAME"); it counts once `add` has its file's row."""
        with full_disk_reported(self.out), atomic_path(self._clip(name)) as partial:
            save_tensors({key: value.contiguous() for key, value in tensors.items()}, partial)

    def captions(self) -> dict[str, str]:
        """The caption of each file that was done in an earlier run, by source."""
        found = {row["source"]: row["caption"] for row in self.rows}
        return found | {row.source: row.caption for row in self._indexed()}

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
        old, settings = self._indexed(), self.settings
        indexed = {row.clip for row in old}
        new = [row for row in self.rows if row["clips"] and row["clips"][0] not in indexed]
        recaptioned = any(captions[row.source] != row.caption for row in old)
        if not new and not recaptioned:
            shutil.rmtree(self.parts)
            return old
        splits = split_files([row["source"] for row in self.rows if row["clips"]], settings["holdout"])
        splits |= {row["source"]: row["given_split"] for row in self.rows if row.get("given_split")}
        with full_disk_reported(self.out):
            writer = WindowWriter(
                self.out,
                codec=codec,
                text=text,
                sizes=settings["sizes"],
                frames=settings["frames"],
                fps=settings["fps"],
            )
            before = Windows(self.out) if old else None
            for window in old:
                assert before is not None
                fields = asdict(window) | {"split": splits[window.source]}
                fields["caption"] = captions[window.source]
                for key in ("prompt", "shard", "place"):
                    del fields[key]
                writer.add(before.read(window), **fields)
            for row in new:
                for clip in row["clips"]:
                    self._add_windows(clip, row, writer, splits[row["source"]], captions[row["source"]])
            used = {prompt_hash(caption): caption for caption in ("", *(row.caption for row in writer.rows))}
            writer.close({caption: texts[key] for key, caption in used.items() if key in texts})
        shutil.rmtree(self.parts)
        return writer.rows

    def _add_windows(self, clip: str, row: dict[str, Any], writer: WindowWriter, split: str, caption: str) -> None:
        with safe_open(str(self._clip(clip)), "pt") as part:
            keys = set(part.keys())
            for size in writer.sizes:
                names = [name for name in STORED if f"{size}/{name}" in keys]
                shared = {name: part.get_tensor(f"{size}/{name}") for name in names if name in SHARED}
                height, width = map(int, size.split("x"))
                for i, start in enumerate(row["starts"][clip]):
                    own = {n: part.get_slice(f"{size}/{n}")[i] for n in names if n not in SHARED}
                    writer.add(
                        {**own, **shared}, caption=caption, clip=clip, subject=row["name"], source=row["source"],
                        split=split, start=start, frames=writer.frames, height=height, width=width,
                    )  # fmt: skip
