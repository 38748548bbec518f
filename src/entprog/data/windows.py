"""A data set of windows on disk, format 2: latents of a VAE, with poses, references and texts. For pretrained models.

dataset.json              format, codec, text encoder, sizes, frames, fps, names of the stored tensors
index.jsonl               one row for each window, written last
shard-00000.safetensors   windows of one size, stacked: a tensor [n, ...] for each name in STORED that is stored
text.safetensors          "HASH.NAME" -> what the text encoders give for one prompt, unpadded; "" is always there

A window is encoded by itself, as a slice of a longer video's latents differs with a causal VAE. Format 1
(data/shards.py) stores whole clips, frame by frame.

Shape legend: B samples, F frames, T latent frames, C latent channels, h w latent height and width, H W pixels,
K reference images, L tokens, D width, S pixels of a face's side.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from entprog.core.types import Shape
from entprog.data.fingerprint import fingerprint
from entprog.data.sampler import generator, locate, shuffled
from entprog.data.shards import FORMAT as FORMAT_OF_CLIPS

FORMAT = 2

STORED: dict[str, torch.dtype] = {
    "latents": torch.float16,  # [T, C, h, w]
    "pose": torch.float32,  # [F, 18, 3], x and y in 0..1 of the window's own width and height
    "control": torch.float16,  # [T, C, h, w], a control video's latents
    "reference": torch.float16,  # [K, 1, C, h, w], images of the same clip, each encoded as a single frame
    "first": torch.float16,  # [K, T, C, h, w], the same images by encode_first
    "image": torch.uint8,  # [K, 3, H, W], the same images
    "image_embeds": torch.float16,  # [K, L, D], the same images by an image encoder
    "face": torch.uint8,  # [F, 3, S, S]
    "blank": torch.float16,  # [T, C, h, w], a clip whose pixels are all 0 in -1..1; the same for each window of a size
    "hand_keypoints": torch.float32,  # [F, 42, 3], as "pose"; the left hand's before the right one's
    "face_keypoints": torch.float32,  # [F, 68, 3], as "pose"
}
"""What a window can have; `latents` and `pose` are always there."""

OF_REFERENCES = ("reference", "first", "image", "image_embeds")
"""Tensors whose first axis is K."""


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One window of the index.

    Attributes:
        clip, subject, source: of the video that it is cut from.
        split: "train" or "holdout".
        start, frames: its first frame in the clip, and how many.
        height, width: of its frames in pixels.
        caption: "" for none.
        prompt: `prompt_hash` of the caption.
        shard, place: file, and index in its tensors.
        content: sha256 of the source's file, "" where it is not known.
    """

    clip: str
    subject: str
    source: str
    split: str
    start: int
    frames: int
    height: int
    width: int
    caption: str
    prompt: str
    shard: str
    place: int
    content: str = ""

    @property
    def size(self) -> str:
        """Such as "480x832": height x width."""
        return f"{self.height}x{self.width}"


def prompt_hash(caption: str) -> str:
    """Key of a prompt's tensors: 16 hex digits."""
    return sha256(caption.encode()).hexdigest()[:16]


class Windows:
    """Reads a data set of windows; tensors stay on disk (memory mapped) until read.

    Attributes:
        rows: the index.
        about: dataset.json.
    """

    def __init__(self, folder: str | Path) -> None:
        """Raises ValueError where the folder is no such data set, is of format 1, or is not whole."""
        self.folder = Path(folder)
        self.about: dict[str, Any] = _about(self.folder)
        index = self.folder / "index.jsonl"
        lines = index.read_text(encoding="utf-8").splitlines()
        self.rows = [_row(index, number, line) for number, line in enumerate(lines, 1) if line]
        if not self.rows:
            raise self.wrong("the data set is empty; see prepare.jsonl for what was dropped")
        needed = {row.shard for row in self.rows} | ({"text.safetensors"} if self.about["text"] else set())
        missing = sorted(name for name in needed if not (self.folder / name).is_file())
        if missing:
            raise self.wrong(f"{len(missing)} files are missing (first {missing[0]}); copy the whole folder")
        self._open: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what training can see; neither the folder's place nor the layout of shards counts."""
        return fingerprint(self.about, self.rows)

    @property
    def sizes(self) -> tuple[str, ...]:
        """Sizes that windows are stored in, such as "480x832"."""
        return tuple(self.about["sizes"])

    @property
    def stored(self) -> tuple[str, ...]:
        """Names of the tensors of each window."""
        return tuple(self.about["stored"])

    def read(self, row: WindowRow, names: Iterable[str] = (), *, pick: int | None = None) -> dict[str, Tensor]:
        """Tensors of a window, float32, or uint8 where so stored.

        Args:
            names: which; all that are stored if empty.
            pick: only this one of the K references; those tensors then have no axis K.

        Raises:
            ValueError: a name is not stored.
        """
        found = {}
        for name in names or self.stored:
            if name not in self.stored:
                raise self.wrong(f"{name!r} is not stored, only {', '.join(self.stored)}; prepare it again with that")
            stored = self._file(row.shard).get_slice(name)
            one = pick is not None and name in OF_REFERENCES
            value = stored[row.place, pick] if one else stored[row.place]
            found[name] = value if value.dtype == torch.uint8 else value.float()
        return found

    def references(self, row: WindowRow) -> int:
        """K, the reference images of a window; 0 if none are stored."""
        name = next((name for name in OF_REFERENCES if name in self.stored), "")
        return int(self._file(row.shard).get_slice(name).get_shape()[1]) if name else 0

    def text(self, prompt: str) -> dict[str, Tensor]:
        """Tensors of a prompt by its hash, unpadded: float32, whole numbers as stored. Empty without a text encoder.

        Raises:
            ValueError: the prompt is not stored.
        """
        if self.about["text"] is None:
            return {}
        file = self._file("text.safetensors")
        if not self._texts:
            by_prompt = defaultdict(list)
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                by_prompt[key.split(".", 1)[0]].append(key)
            self._texts = dict(by_prompt)
        if prompt not in self._texts:
            raise self.wrong(f"text.safetensors has no prompt {prompt}; prepare the data set again")
        tensors = {key.split(".", 1)[1]: file.get_tensor(key) for key in self._texts[prompt]}
        return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}

    def _file(self, name: str) -> Any:
        if name not in self._open:
            try:
                self._open[name] = safe_open(str(self.folder / name), "pt")
            except (SafetensorError, OSError) as error:
                raise self.wrong(f"{name} is truncated or no safetensors ({error}); copy it again") from error
        return self._open[name]

    def wrong(self, what: str) -> ValueError:
        """An error about this data set."""
        return ValueError(f"data.path = {str(self.folder)!r}: {what}")


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Clean training samples.

    Attributes:
        positions: [B] position of each sample in the run's data stream; fixes its noise.
        tensors: by name, [B, ...]: latents [B, T, C, h, w], pose [B, F, 18, 3] and so on. Of the K reference images one
            is chosen for each sample: reference [B, 1, C, h, w], first [B, T, C, h, w], image [B, 3, H, W].
        text: the text encoders' tensors of each sample, unpadded.
        rows: the index row of each sample.
    """

    positions: np.ndarray
    tensors: Mapping[str, Tensor]
    text: tuple[Mapping[str, Tensor], ...]
    rows: tuple[WindowRow, ...]


class WindowSamples:
    """One split's windows of one size as an endless, seekable stream: each once an epoch, in a shuffled order."""

    def __init__(
        self,
        windows: Windows,
        split: str,
        seed: int = 0,
        frames: int = 0,
        size: str = "",
        *,
        names: Iterable[str] = (),
    ) -> None:
        """`frames` and `size` 0 and "": those of the data set, if it has one size. `names`: what to read; empty: all.

        Raises:
            ValueError: the data set has no such windows.
        """
        self.windows, self.split, self.seed = windows, split, seed
        self.frames, self.names = frames or int(windows.about["frames"]), tuple(names) or windows.stored
        size = size or (windows.sizes[0] if len(windows.sizes) == 1 else "")
        if size not in windows.sizes:
            raise windows.wrong(f"resolution = {size!r}: it stores {', '.join(windows.sizes)}; choose one of them")
        if self.frames != windows.about["frames"]:
            raise windows.wrong(
                f"frames = {self.frames}: its windows have {windows.about['frames']} frames, and a part of one "
                "cannot be used; set that number, or prepare the videos again"
            )
        self.rows = [row for row in windows.rows if row.split == split and row.size == size]
        if not self.rows:
            raise windows.wrong(
                f"no {split} window of size {size}; prepare more videos"
                + (", with a holdout share above 0" if split == "holdout" else "")
            )
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, position: int, shape: Shape) -> WindowBatch:
        """The `shape.batch` samples from `position` on; a pure function of (seed, position)."""
        positions = np.arange(position, position + shape.batch)
        chosen = [self.sample(int(p)) for p in positions]
        read = [self.windows.read(row, self.names, pick=pick) for row, pick in chosen]
        tensors = {name: torch.stack([sample[name] for sample in read]) for name in self.names}
        text = tuple(self.windows.text(row.prompt) for row, _ in chosen)
        return WindowBatch(positions, tensors, text, tuple(row for row, _ in chosen))

    def sample(self, position: int) -> tuple[WindowRow, int | None]:
        """The window at `position`, and which of its references; None without references."""
        epoch, place = locate(position, len(self.rows))
        if epoch not in self._orders:
            self._orders = {epoch: shuffled(self.seed, epoch, len(self.rows))}
        index = int(self._orders[epoch][place])
        row = self.rows[index]
        count = self.windows.references(row)
        return row, int(generator(self.seed, 3, epoch, index).random() * count) if count else None


def _about(folder: Path) -> dict[str, Any]:
    about = folder / "dataset.json"
    if not about.is_file() or not (folder / "index.jsonl").is_file():
        raise ValueError(
            f"data.path = {str(folder)!r}: no dataset.json and index.jsonl there; "
            f"make them with: entprog prepare VIDEOS {folder} --codec FOLDER"
        )
    try:
        found: dict[str, Any] = json.loads(about.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"data.path = {str(folder)!r}: dataset.json can't be read as JSON ({error}); prepare it again"
        ) from error
    if found.get("format") == FORMAT_OF_CLIPS:
        raise ValueError(
            f"data.path = {str(folder)!r}: format 1, clips for task human_video; "
            f"prepare the videos with --codec FOLDER for a pretrained model"
        )
    if found.get("format") != FORMAT:
        raise ValueError(f"{about}: format {found.get('format')!r}, this version reads {FORMAT}; prepare it again")
    return found


def _row(index: Path, number: int, line: str) -> WindowRow:
    try:
        return WindowRow(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{index}, line {number}: not a window's row ({error}); prepare the data set again") from error
