"""Writes a data set of windows (data/windows.py says what is in it)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from entprog.data.shards import KEYPOINTS, SHARD_BYTES, index_lines
from entprog.data.tensor_files import TensorSpool
from entprog.data.windows import FORMAT, STORED, WindowRow, prompt_hash
from entprog.files import save_tensors, write_atomically


class WindowWriter:
    """Writes windows into shards as they come; the data set is valid only once `close` has written the index.

    Windows that are added in the same order get the same places, so an older index stays valid while a longer data
    set is written over it.
    """

    def __init__(
        self,
        out: Path,
        *,
        codec: Mapping[str, Any],
        text: Mapping[str, Any] | None = None,
        sizes: Sequence[str],
        frames: int,
        fps: float,
        keypoints: Sequence[str] = (),
    ) -> None:
        """`codec` as `DiffusersCodec.about()`; `text` the text encoders' class and hash; `sizes` such as "480x832".

        `keypoints`: those of hands and face that each window has; zeros (confidence 0) where it is not given them.
        """
        self.out, self.codec, self.text = out, dict(codec), None if text is None else dict(text)
        self.sizes, self.frames, self.fps, self.keypoints = tuple(sizes), frames, fps, tuple(keypoints)
        self.rows: list[WindowRow] = []
        self.stored: tuple[str, ...] = ()
        self._spools: dict[str, TensorSpool] = {}
        self._count = 0
        out.mkdir(parents=True, exist_ok=True)

    def add(self, tensors: Mapping[str, Tensor], *, caption: str = "", **row: Any) -> None:
        """Append a window: tensors by the names of STORED, and the row's other fields but prompt, shard and place.

        Raises:
            ValueError: unknown or missing tensors, or not those of the windows before.
        """
        missing = {name: torch.zeros(self.frames, KEYPOINTS[name], 3) for name in self.keypoints if name not in tensors}
        tensors = {**tensors, **missing}
        names = tuple(name for name in STORED if name in tensors)
        unknown = sorted(set(tensors) - set(STORED))
        if unknown or not {"latents", "pose"} <= set(names):
            raise ValueError(f"window: tensors {sorted(tensors)}; give latents and pose, and others of {list(STORED)}")
        if self.stored and names != self.stored:
            raise ValueError(f"window: tensors {list(names)}, but the windows before have {list(self.stored)}")
        self.stored = names
        size = f"{row['height']}x{row['width']}"
        if size not in self.sizes:
            raise ValueError(f"window: size {size} is not of the data set's sizes, {list(self.sizes)}")
        if size not in self._spools:
            self._spools[size] = TensorSpool(self.out / f"shard-{self._count:05d}.safetensors")
            self._count += 1
        spool = self._spools[size]
        place = {"shard": spool.final.name, "place": spool.rows}
        self.rows.append(WindowRow(**{**row, "caption": caption, "prompt": prompt_hash(caption), **place}))
        spool.append({name: tensors[name].detach().to("cpu", STORED[name])[None] for name in names})
        if spool.bytes >= SHARD_BYTES:
            self._spools.pop(size).close()

    def close(self, texts: Mapping[str, Mapping[str, Tensor]] | None = None) -> None:
        """Write the last shards, text.safetensors, dataset.json and, last of all, index.jsonl.

        Args:
            texts: tensors by name, by prompt. Needed for every caption and for "" if the data set has a text encoder.

        Raises:
            ValueError: a prompt has no tensors.
        """
        texts = texts or {}
        if self.text is not None:
            lacking = sorted({"", *(row.caption for row in self.rows)} - set(texts))
            if lacking:
                raise ValueError(f"texts: {len(lacking)} prompts are not encoded (first {lacking[0]!r})")
        for size in list(self._spools):
            self._spools.pop(size).close()
        if self.text is not None:
            named = {
                f"{prompt_hash(p)}.{n}": t.detach().cpu().contiguous() for p, ts in texts.items() for n, t in ts.items()
            }
            _save(named, self.out / "text.safetensors")
        about = {
            "format": FORMAT,
            "codec": self.codec,
            "text": self.text,
            "sizes": list(self.sizes),
            "frames": self.frames,
            "fps": self.fps,
            "stored": list(self.stored),
            "windows": len(self.rows),
        }
        write_atomically(self.out / "dataset.json", json.dumps(about, indent=2) + "\n")
        write_atomically(self.out / "index.jsonl", index_lines(self.rows))


def _save(tensors: Mapping[str, Tensor], final: Path) -> None:
    partial = final.with_name(final.name + ".partial")
    try:
        save_tensors(tensors, partial)
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)
