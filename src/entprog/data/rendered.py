"""Rendered people as a prepared data set: clips rendered in worker processes, ahead of training, into shards."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor
from tqdm import tqdm

from entprog.codecs.base import Codec
from entprog.codecs.pca import PatchCodec
from entprog.data.shards import ShardWriter
from entprog.synthetic import RenderedClip, render_clip

HOLDOUT = 1_000_000
"""Seeds of held-out subjects, motions and scenes start here, far from any training seed."""


@dataclass(frozen=True, slots=True)
class RenderedPeople:
    """What to render. Every clip is a function of its (subject, motion, scene) seeds and these settings.

    Attributes:
        domain: "source" (what the shipped base was trained on), "target" (the demo's people), "all" or "creatures".
        subjects: training subjects; each has one scene and `clips_per_subject` motions of its own.
        holdout: held-out subjects; neither they nor their motions or scenes occur in training.
        sizes: sides in pixels to store latents for; the largest is rendered, the others are resampled from it.
    """

    domain: str = "target"
    subjects: int = 32
    clips_per_subject: int = 2
    holdout: int = 16
    frames: int = 16
    sizes: tuple[int, ...] = (32, 64)
    fps: float = 12.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("subjects", "clips_per_subject", "holdout", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} = {getattr(self, name)}: must be at least 1")
        for size in self.sizes:
            if size < 16 or size % 8:
                raise ValueError(f"data.sizes = {list(self.sizes)}: {size} is not a multiple of 8 from 16 up")

    def jobs(self) -> Iterator[tuple[str, int, int, int]]:
        """(split, subject, motion, scene) of every clip, in the order of the index."""
        offset = self.seed * 10 * HOLDOUT
        for split, first, count in (("train", 0, self.subjects), ("holdout", HOLDOUT, self.holdout)):
            for subject in range(count):
                for clip in range(self.clips_per_subject):
                    person = offset + first + subject
                    yield split, person, offset + first + subject * self.clips_per_subject + clip, person

    def fingerprint(self, codec: Codec) -> str:
        """A short name of exactly this data: settings, codec and renderer version."""
        text = json.dumps({**asdict(self), "codec": codec.hash, "renderer": 2}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def render_data_set(
    spec: RenderedPeople,
    cache: Path,
    codec: Codec | None = None,
    *,
    workers: int = 0,
    progress: bool = True,
) -> Path:
    """Render `spec` into `cache`/rendered-FINGERPRINT unless it exists, and return that folder.

    `workers` counts processes (0: as many as cores). The folder appears under its name only when complete.

    Raises:
        RuntimeError: a worker process died (for example killed for memory).
    """
    codec = codec or PatchCodec.default()
    final = cache / f"rendered-{spec.fingerprint(codec)}"
    if (final / "index.jsonl").is_file():
        return final
    partial = cache / f"{final.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    about = {"codec": codec.name, "codec_hash": codec.hash}
    try:
        writer = ShardWriter(partial, codec=about, sizes=spec.sizes, fps=spec.fps)
        jobs = list(spec.jobs())
        bar = tqdm(jobs, "Rendering", unit="clip", disable=not progress)
        for job, clip in zip(bar, _rendered(spec, jobs, workers or os.cpu_count() or 1), strict=True):
            split, subject, motion, scene = job
            latents = {size: codec.encode(resized(clip.frames, size)) for size in spec.sizes}
            writer.add(
                latents, clip.keypoints,
                clip=f"{spec.domain}-{subject}-{motion}", subject=str(subject), motion=str(motion),
                scene=str(scene), source=f"rendered:{spec.domain}:{subject}:{motion}:{scene}", split=split,
            )  # fmt: skip
        writer.close()
        (partial / "spec.json").write_text(json.dumps(asdict(spec), indent=2) + "\n")
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _rendered(spec: RenderedPeople, jobs: list[tuple[str, int, int, int]], workers: int) -> Iterator[RenderedClip]:
    if workers == 1 or len(jobs) < 8:
        yield from (_render(spec, job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        try:
            yield from pool.map(_render, [spec] * len(jobs), jobs, chunksize=max(1, min(16, len(jobs) // workers)))
        except BrokenProcessPool as broken:
            raise RuntimeError(
                "a rendering worker died (killed, out of memory, or started from a script without "
                "an if __name__ == '__main__' guard); nothing was written. Try again with data.workers = 1"
            ) from broken


def _render(spec: RenderedPeople, job: tuple[str, int, int, int]) -> RenderedClip:
    _, subject, motion, scene = job
    return render_clip(
        subject, motion, scene, frames=spec.frames, size=max(spec.sizes), fps=spec.fps, domain=spec.domain
    )


def resized(frames: np.ndarray, size: int) -> Tensor:
    """uint8 frames [F, S, S, 3] resampled with antialiasing to [F, size, size, 3]."""
    tensor = torch.from_numpy(frames)
    if frames.shape[1] == size:
        return tensor
    pixels = tensor.permute(0, 3, 1, 2).float()
    small = functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
