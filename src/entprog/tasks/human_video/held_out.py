"""Held-out clips with their conditions, and the mean frame, from a prepared data set."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from entprog.codecs.base import Codec
from entprog.config.schema import EvaluateConfig
from entprog.core.types import Shape
from entprog.data.clips import Clips, Sample
from entprog.data.sampler import generator
from entprog.data.shards import ClipRow, Shards
from entprog.tasks.base import HeldOutClip

MEAN_FRAMES = 512
BATCH_TOKENS = 16384
"""Tokens of the clips that are generated in one batch."""


def check_size(shards: Shards, settings: EvaluateConfig) -> None:
    """Refuse a size that the data set does not hold.

    Raises:
        ValueError: it does not.
    """
    height, width = settings.sides
    if height != width:
        raise ValueError(
            f"evaluate.resolution = {settings.resolution}: the task 'human_video' makes squares; give one side"
        )
    if height not in shards.sizes:
        raise ValueError(
            f"evaluate.resolution = {height}: the data set stores {list(shards.sizes)}; "
            "choose one of these, or prepare it with that size too"
        )


def holdout_clips(shards: Shards, frames: int) -> Clips:
    """The held-out clips of at least `frames` frames."""
    longest = max((row.frames for row in shards.rows if row.split == "holdout"), default=0)
    if not longest:
        raise ValueError(f"data: {shards.folder} has no held-out clip; prepare it with a holdout share above 0")
    if longest < frames:
        raise ValueError(f"evaluate.frames = {frames}: the longest held-out clip has {longest}; choose at most that")
    return Clips(shards, "holdout", frames=frames)


def batches(clips: Clips, settings: EvaluateConfig, codec: Codec, patch: int) -> Iterator[list[HeldOutClip]]:
    """The first `settings.clips` clips from their first frame on, decoded, with the conditions to generate them."""
    samples = holdout_samples(clips, settings.clips, settings.frames, settings.reference)
    tokens = settings.frames * (settings.sides[0] // codec.factor // patch) ** 2
    size = min(len(samples), max(1, BATCH_TOKENS // tokens))
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        keys = np.arange(start, start + len(part))
        batch = clips.assemble(part, keys, Shape.of(settings.sides, settings.frames, len(part)))
        truths, references = codec.decode(batch.latents), codec.decode(batch.reference)
        yield [
            HeldOutClip(
                shown.row.clip, shown.row.subject, truths[i], references[i],
                clips.shards.pose(shown.row, 0, settings.frames), shown.row.fps,
                {"reference": batch.reference[i], "pose": batch.pose[i]}, int(keys[i]),
                *_shown(shown, settings.frames),
            )
            for i, shown in enumerate(part)
        ]  # fmt: skip


def holdout_samples(clips: Clips, count: int, frames: int = 1, reference: str = "other") -> list[Sample]:
    """The first `count` clips from frame 0 on, each with a reference fixed by its index.

    With "other", a frame of another clip of the same subject and scene where there is one, else a frame of the same
    clip after the first `frames`, which are judged, else its first frame; with "first" always that.
    """
    rows: dict[tuple[str, str], list[ClipRow]] = {}
    for row in clips.shards.rows:
        if row.split == clips.split:
            rows.setdefault((row.subject, row.scene), []).append(row)
    samples = []
    for index, row in enumerate(clips.rows[:count]):
        which, frame = generator(0, 7, index).random(2)
        others = [other for other in rows[row.subject, row.scene] if other.clip != row.clip]
        if reference == "first":
            samples.append(Sample(row, 0, row, 0))
        elif others:
            other = others[int(which * len(others))]
            samples.append(Sample(row, 0, other, int(frame * other.frames)))
        else:
            later = row.frames - frames
            samples.append(Sample(row, 0, row, frames + int(frame * later) if later > 0 else 0))
    return samples


def _shown(sample: Sample, frames: int) -> tuple[str, tuple[int, ...]]:
    """Where the reference is from, and which judged frame it is."""
    if sample.reference.clip != sample.row.clip:
        return "a frame of another clip of the person", ()
    if sample.reference_frame >= frames:
        return "a later frame of the clip", ()
    return "the first frame of the clip", (sample.reference_frame,)


def mean_frame(shards: Shards, resolution: int, codec: Codec) -> Tensor:
    """The mean [3, H, W] of up to 512 training frames, evenly spread over all of them."""
    places = [(row, i) for row in shards.rows if row.split == "train" for i in range(row.frames)]
    if not places:
        raise ValueError(f"data: {shards.folder} has no training clip for the mean frame; prepare it again")
    chosen = np.unique(np.linspace(0, len(places) - 1, MEAN_FRAMES).round().astype(int))
    total = torch.zeros(3, resolution, resolution)
    for place in chosen:
        row, i = places[place]
        total += codec.decode(shards.latents(row, resolution, i, 1)[0])
    return total / len(chosen)
