"""Evaluate: held-out clips generated and compared with the truth, by a pinned protocol.

Shape legend: F frames, H W height and width in pixels.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from entprog import plugins
from entprog.codecs.base import Codec
from entprog.config import checks
from entprog.config.load import read_config
from entprog.config.schema import Config, EvaluateConfig, SampleConfig
from entprog.core.bands import band_edges, band_means
from entprog.core.types import Shape
from entprog.files import write_atomically
from entprog.sample.animate import write_panels
from entprog.tasks.base import Task, fixed_draws
from entprog.tasks.data_record import warn_of_other_data
from entprog.tasks.finished_run import open_run

BEYOND_PERSON = 0.12
VISIBLE = 0.5

POOLING = {
    "background_l1": f"L1 over pixels farther than {BEYOND_PERSON} of the side from the box of the visible keypoints",
    "identity": "share of clips nearer (L1) to their own truth than to the truth of the next clip of another subject",
}


@dataclass(frozen=True, slots=True)
class GeneratedClip:
    """A held-out clip, generated and true; everything on the CPU.

    Attributes:
        clip, subject: names as in the data set's index.
        generated, truth: [F, 3, H, W] in 0..1; the truth is the decoded latents.
        reference: [3, H, W] in 0..1, the model's reference image.
        keypoints: [F, 18, 3], the driving poses.
        fps: frames a second.
    """

    clip: str
    subject: str
    generated: Tensor
    truth: Tensor
    reference: Tensor
    keypoints: np.ndarray
    fps: float


@runtime_checkable
class KeypointMetric(Protocol):
    """A metric that uses the driving keypoints instead of estimating them from the true clip."""

    def update_keypoints(self, fake: Tensor, keypoints: Tensor) -> None: ...


def evaluate(run: Path, *, overrides: Mapping[str, Any] | None = None, device: str = "") -> dict[str, Any]:
    """Evaluate a finished run and write `metrics.json` and `samples/final` into its folder.

    Args:
        run: a folder made by `entprog train`.
        overrides: dotted keys over the run's own configuration, such as {"sample.guidance_scale": 1.5}.
        device: "auto", "cpu", "cuda" or "cuda:N"; empty for where the run trained.

    Returns:
        The content of `metrics.json`; a table of it is printed, with the protocol.

    Raises:
        ValueError: no finished run, no held-out clip that fits the protocol, or a metric's package is missing.
    """
    run = Path(run)
    given = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (overrides or {}).items()}
    if not (run / "config.toml").is_file():
        raise ValueError(f"run = {str(run)!r}: no config.toml there; give a folder made by entprog train")
    config = read_config(run / "config.toml", given, resolved=True)
    for finding in checks.packages(config, ("metric",)):
        raise ValueError(finding.keys[0] + finding.text)
    _, task = open_run(run, config.sample.weights, device)
    warn_of_other_data(run, task)
    averaged = config.sample.weights != "model" and (run / "final" / "ema.safetensors").is_file()
    result = evaluate_task(task, config, run, weights="ema" if averaged else "model")
    print(table(result))
    return result


def evaluate_task(
    task: Task,
    config: Config,
    out: Path,
    *,
    weights: str = "model",
    samples: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Generate the held-out clips, measure them and two baselines, write `out`/metrics.json and samples.

    The baselines show the same frames: `copy_reference` the reference image throughout, `mean_frame` the mean of
    up to 512 training frames, evenly spread. With a metric of poses there is also `shuffled_poses`: the generated
    frames against the poses of the next clip. "background_l1" is left out where a person fills every frame,
    "identity" where all clips show one subject.

    Args:
        weights: name of the task's weights in the protocol.
        samples: folder of the videos; `out`/samples/final where not given.
    """
    if not task.generates:
        result = held_out_loss(task, config, weights)
        write_atomically(out / "metrics.json", json.dumps(result, indent=2) + "\n")
        return result
    generated = generate_holdout(task, config.evaluate, config.sample, progress=progress)
    names = config.evaluate.metrics
    values, rows = measure([clip.generated for clip in generated], generated, names)
    mean = task.mean_frame(config.evaluate.sides[0])
    copied = [clip.reference.expand_as(clip.truth) for clip in generated]
    baselines = {"copy_reference": measure(copied, generated, names, per_clip=False)[0]}
    if mean is not None:
        frames = [mean.expand_as(clip.truth) for clip in generated]
        baselines["mean_frame"] = measure(frames, generated, names, per_clip=False)[0]
    posed = [name for name in names if issubclass(plugins.find("metric", name), KeypointMetric)]
    if posed and len(generated) > 1:
        nexts = [*generated[1:], generated[0]]
        shuffled = [replace(clip, keypoints=other.keypoints) for clip, other in zip(generated, nexts, strict=True)]
        found = measure([clip.generated for clip in generated], shuffled, posed, per_clip=False)[0]
        baselines["shuffled_poses"] = {name: value for name, value in found.items() if name not in POOLING}
    result = {
        "protocol": protocol(config, task.codec, clips=len(generated), weights=weights),
        "metrics": values,
        "per_clip": rows,
        "baselines": baselines,
    }
    result["protocol"]["data"] = (task.data_record() or {}).get("fingerprint")
    write_samples(samples or out / "samples" / "final", generated[: config.evaluate.videos])
    write_atomically(out / "metrics.json", json.dumps(result, indent=2) + "\n")
    return result


@torch.no_grad()
def held_out_loss(task: Task, config: Config, weights: str) -> dict[str, Any]:
    """metrics.json of a task that makes no clips: the held-out loss, its mean and by noise band."""
    number, phase = [(k, p) for k, p in enumerate(config.phases.values()) if p.steps > 0][-1]
    shape = Shape.of(phase.sides, phase.frames, phase.batch)
    samples = task.samples("holdout", phase.frames, config.train.seed)
    draws = fixed_draws(task, samples, shape, config.train.holdout_clips, config.train.seed * 1000 + number + 700)
    losses = [loss for draw in draws for loss in task.losses(draw).tolist()]
    taus = [tau for draw in draws for tau in draw.tau.tolist()]
    bands = {
        f"loss_{low:g}_{high:g}": mean for (low, high), mean in zip(band_edges(), band_means(losses, taus), strict=True)
    }
    values = {"loss": sum(losses) / len(losses), **{name: mean for name, mean in bands.items() if not math.isnan(mean)}}
    protocol = {"samples": len(losses), "loss": "mean over the fixed holdout draws; by band of tau", "weights": weights}
    return {"protocol": protocol, "metrics": values, "per_clip": [], "baselines": {}}


def protocol(config: Config, codec: Codec | None, *, clips: int, weights: str) -> dict[str, Any]:
    """How the numbers were made: which frames, size, pooling, sampler, steps, guidance, seed, weights."""
    protocol: dict[str, Any] = {
        "clips": f"the first {clips} held out, in index order",
        "frames": f"the first {config.evaluate.frames} of each",
        "resolution": config.evaluate.resolution,
        "truth": f"decoded {codec.name} latents, pixels in 0..1" if codec else "pixels in 0..1",
        "scheduler": config.sample.scheduler,
        "num_inference_steps": config.sample.num_inference_steps,
        "guidance_scale": config.sample.guidance_scale,
        "seed": config.sample.seed,
        "weights": weights,
    }
    for name in config.evaluate.metrics:
        pooling = getattr(plugins.find("metric", name), "pooling", "as the plugin defines it")
        pooled = pooling if isinstance(pooling, Mapping) else {name: pooling}
        protocol |= {value: {"pooling": text} for value, text in pooled.items()}
    return protocol | {name: {"pooling": pooling} for name, pooling in POOLING.items()}


def generate_holdout(
    task: Task, config: EvaluateConfig, sample: SampleConfig, *, progress: bool = False
) -> list[GeneratedClip]:
    """Generate the first `config.clips` held-out clips from their first frame on.

    A pure function of the weights, the data and the settings: references and noise are fixed by the clip's place
    in the index and `sample.seed`.
    """
    generated = []
    batches = task.held_out(config)  # says what is wrong before the bar is shown
    with tqdm(total=config.clips, desc="Sampling", unit="clip", disable=not progress) as bar:
        for clips in batches:
            conditions = {name: torch.stack([c.conditions[name] for c in clips]) for name in clips[0].conditions}
            fakes = task.generate(conditions, sample, [clip.key for clip in clips])
            generated += [
                GeneratedClip(c.clip, c.subject, fake, c.truth, c.reference, c.keypoints, c.fps)
                for c, fake in zip(clips, fakes, strict=True)
            ]
            bar.update(len(clips))
    return generated


def measure(
    fakes: Sequence[Tensor], clips: Sequence[GeneratedClip], names: Sequence[str], *, per_clip: bool = True
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics of `fakes` [F, 3, H, W] against the truth of `clips`: over all of them, and one row for each clip.

    Without `per_clip` the rows lack what the metrics give of a single clip, which spares half of the work.
    """
    totals = {name: plugins.load("metric", name) for name in names}
    rows: list[dict[str, Any]] = []
    background = [_background(fake, clip) for fake, clip in zip(fakes, clips, strict=True)]
    own = list(_nearer_to_own(fakes, clips))
    for i, (fake, clip) in enumerate(zip(fakes, clips, strict=True)):
        row: dict[str, Any] = {"clip": clip.clip, "subject": clip.subject}
        for name, total in totals.items():
            _update(total, fake, clip)
            if per_clip and getattr(total, "per_clip", True):
                alone = plugins.load("metric", name)
                _update(alone, fake, clip)
                row |= alone.compute()
        if background[i] is not None:
            row["background_l1"] = background[i]
        if own:
            row["nearer_to_own"] = own[i]
        rows.append(row)
    values: dict[str, float] = {}
    for total in totals.values():
        values |= total.compute()
    seen = [value for value in background if value is not None]
    if seen:
        values["background_l1"] = float(np.mean(seen))
    if own:
        values["identity"] = float(np.mean(own))
    return values, rows


def _update(metric: Any, fake: Tensor, clip: GeneratedClip) -> None:
    if isinstance(metric, KeypointMetric):
        metric.update_keypoints(fake[None], torch.from_numpy(clip.keypoints)[None])
    else:
        metric.update(fake[None], clip.truth[None])


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


def write_samples(folder: Path, clips: Sequence[GeneratedClip]) -> None:
    """Write CLIP.mp4, CLIP.gif (reference | pose | generated | truth) and CLIP/0000.png ... (generated) for each."""
    for clip in clips:
        write_panels(
            folder / clip.clip, clip.reference, clip.keypoints, clip.generated, clip.truth,
            fps=clip.fps, frames=folder / clip.clip,
        )  # fmt: skip


def table(result: Mapping[str, Any]) -> str:
    """The metrics and their baselines as text, with the protocol and each metric's pooling below."""
    lines = {"generated": result["metrics"], **result["baselines"]}
    names = list(dict.fromkeys(name for values in lines.values() for name in values))
    head = " " * 16 + "".join(f"{name:>15}" for name in names)
    body = [
        f"{title.replace('_', ' '):<16}" + "".join(f"{_number(values.get(name)):>15}" for name in names)
        for title, values in lines.items()
    ]
    parts = result["protocol"]
    plain = [f"{key.replace('_', ' ')}: {value}" for key, value in parts.items() if not isinstance(value, Mapping)]
    pooled = [f"  {name}: {value['pooling']}" for name, value in parts.items() if isinstance(value, Mapping)]
    return "\n".join([head, *body, "Protocol: " + "; ".join(plain), *pooled])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
