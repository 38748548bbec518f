"""Metrics of generated clips: over all of them and for each; why one has no value.

Shape legend: F frames, H W height and width in pixels.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entprog import plugins
from entprog.metrics.base import Details, KeypointMetric, NetworkMetric, PosedMetric

__all__ = ["BEYOND_PERSON", "GeneratedClip", "Notes", "measure", "ready"]

BEYOND_PERSON = 0.12
VISIBLE = 0.5


@dataclass(frozen=True, slots=True)
class GeneratedClip:
    """A held-out clip, generated and true; everything on the CPU.

    Attributes:
        clip, subject: names as in the data set's index.
        generated, truth: [F, 3, H, W] in 0..1; the truth is the decoded latents.
        reference: [3, H, W] in 0..1, the model's reference image.
        keypoints: [F, 18, 3], the driving poses.
        fps: frames a second.
        shown: where the reference image is from.
        unjudged: frames that the reference shows.
    """

    clip: str
    subject: str
    generated: Tensor
    truth: Tensor
    reference: Tensor
    keypoints: np.ndarray
    fps: float
    shown: str = ""
    unjudged: tuple[int, ...] = ()


@dataclass
class Notes:
    """What there is to say of metrics beside their values.

    Attributes:
        skipped: why a metric, or one value of it, is left out.
        details: of a value, what it rests on: networks, counts.
    """

    skipped: dict[str, str] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)


Options = Mapping[str, Mapping[str, Any]]


def ready(names: Sequence[str], options: Options, notes: Notes) -> list[str]:
    """The metrics whose networks are there; of the others the reason is noted, before any clip is generated."""
    found = []
    for name in names:
        metric = plugins.load("metric", name, **options.get(name, {}))
        try:
            if isinstance(metric, NetworkMetric):
                metric.open()
        except ValueError as error:
            notes.skipped[name] = str(error)
        else:
            found.append(name)
    return found


def measure(
    fakes: Sequence[Tensor],
    clips: Sequence[GeneratedClip],
    names: Sequence[str],
    *,
    per_clip: bool = True,
    options: Options | None = None,
    notes: Notes | None = None,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics of `fakes` [F, 3, H, W] against the truth of `clips`: over all of them, and one row for each clip.

    A metric that raises a ValueError, or has a value that is not finite, is left out, and nothing else is.

    Args:
        per_clip: without, the rows lack what the metrics give of a single clip, which spares half of the work.
        options: of the metrics, by name.
        notes: takes why metrics were left out, and their details.
    """
    options, notes = options or {}, Notes() if notes is None else notes
    values: dict[str, float] = {}
    rows: list[dict[str, Any]] = [{"clip": clip.clip, "subject": clip.subject} for clip in clips]
    for name in names:
        metric = plugins.load("metric", name, **options.get(name, {}))
        alone = per_clip and getattr(metric, "per_clip", True)
        try:
            for i, (fake, clip) in enumerate(zip(fakes, clips, strict=True)):
                _update(metric, fake, clip)
                if alone:
                    rows[i] |= _alone(name, options.get(name, {}), fake, clip)
            found = metric.compute()
            values |= {key: value for key, value in found.items() if math.isfinite(value)}
            notes.skipped |= {key: _not_finite(fakes) for key, value in found.items() if not math.isfinite(value)}
            if isinstance(metric, Details):
                notes.details |= {key: dict(said) for key, said in metric.details().items()}
        except ValueError as error:
            notes.skipped[name] = str(error).removeprefix(f"metric {name}: ")
    background = [_background(fake, clip) for fake, clip in zip(fakes, clips, strict=True)]
    seen = [value for value in background if value is not None and math.isfinite(value)]
    own = list(_nearer_to_own(fakes, clips))
    for i, row in enumerate(rows):
        if (value := background[i]) is not None and math.isfinite(value):
            row["background_l1"] = value
        if own:
            row["nearer_to_own"] = own[i]
    if seen:
        values["background_l1"] = float(np.mean(seen))
    if own:
        values["identity"] = float(np.mean(own))
    return values, rows


def _alone(name: str, options: Mapping[str, Any], fake: Tensor, clip: GeneratedClip) -> dict[str, float]:
    """What a metric gives of this clip; nothing where it gives none."""
    metric = plugins.load("metric", name, **options)
    try:
        _update(metric, fake, clip)
        found = metric.compute()
    except ValueError:
        return {}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _update(metric: Any, fake: Tensor, clip: GeneratedClip) -> None:
    if isinstance(metric, PosedMetric):
        metric.update_posed(fake[None], clip.truth[None], torch.from_numpy(clip.keypoints)[None])
    elif isinstance(metric, KeypointMetric):
        metric.update_keypoints(fake[None], torch.from_numpy(clip.keypoints)[None])
    else:
        metric.update(fake[None], clip.truth[None])


def _not_finite(fakes: Sequence[Tensor]) -> str:
    broken = sum(not bool(fake.isfinite().all()) for fake in fakes)
    return f"not finite: {broken} of {len(fakes)} generated clips hold values that are not" if broken else "not finite"


def _background(fake: Tensor, clip: GeneratedClip) -> float | None:
    """L1 outside the person's box, over the frames with a known box; None where nothing is left."""
    height, width = fake.shape[-2:]
    y = (torch.arange(height) + 0.5).view(-1, 1) / height
    x = (torch.arange(width) + 0.5) / width
    total, count = 0.0, 0
    for error, keypoints in zip((fake - clip.truth).abs().mean(1), clip.keypoints, strict=True):
        points = keypoints[keypoints[:, 2] >= VISIBLE, :2]
        if not len(points):
            continue
        (left, top), (right, bottom) = points.min(0) - BEYOND_PERSON, points.max(0) + BEYOND_PERSON
        outside = (x < float(left)) | (x > float(right)) | (y < float(top)) | (y > float(bottom))
        total, count = total + error[outside].sum().item(), count + int(outside.sum())
    return total / count if count else None


def _nearer_to_own(fakes: Sequence[Tensor], clips: Sequence[GeneratedClip]) -> Iterator[bool]:
    """For each clip whether its fake is nearer to its truth than to the next other subject's.

    Empty where all clips show one subject.
    """
    for i, (fake, clip) in enumerate(zip(fakes, clips, strict=True)):
        later = [*clips[i + 1 :], *clips[:i]]
        other = next((one for one in later if one.subject != clip.subject), None)
        if other is None:
            return
        yield bool((fake - clip.truth).abs().mean() < (fake - other.truth).abs().mean())
