"""Evaluate: held-out clips generated beside their truth, measured by a pinned protocol.

Shape legend: F frames, H W height and width in pixels.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from entprog import plugins
from entprog.codecs.pca import FACTOR, PatchCodec
from entprog.config import checks
from entprog.config.load import read_config
from entprog.config.schema import Config, EvaluateConfig, SampleConfig
from entprog.core.types import Shape
from entprog.data.clips import Clips, Sample
from entprog.data.sampler import generator
from entprog.data.shards import ClipRow, Shards, write_atomically
from entprog.data.source import open_data
from entprog.diffusion.sampling import sample_clips
from entprog.sample.animate import write_panels
from entprog.tasks.human_video.build import open_run
from entprog.tasks.human_video.task import HumanVideo

MEAN_FRAMES = 512
BEYOND_PERSON = 0.12
VISIBLE = 0.5
BATCH_TOKENS = 16384

POOLING = {
    "background_l1": f"L1 over pixels farther than {BEYOND_PERSON} of the side from the box of the visible keypoints",
    "identity": "share of clips nearer (L1) to their own truth than to the truth of the next clip of another subject",
}


@dataclass(frozen=True, slots=True)
class GeneratedClip:
    """A held-out clip, generated beside its truth; everything on the CPU.

    Attributes:
        clip, subject: names as in the data set's index.
        generated, truth: [F, 3, H, W] in 0..1; the truth is the decoded latents.
        reference: [3, H, W] in 0..1, the image that the model was given.
        keypoints: [F, 18, 3], the poses that drove it.
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
    """A metric that would rather know the driving keypoints than estimate them from the true clip."""

    def update_keypoints(self, fake: Tensor, keypoints: Tensor) -> None: ...


def evaluate(run: Path, *, overrides: Mapping[str, Any] | None = None, device: str = "") -> dict[str, Any]:
    """Evaluate a finished run and write `metrics.json` and `samples/final` into its folder.

    Args:
        run: a folder made by `entprog train`.
        overrides: dotted keys over the run's own configuration, such as {"sample.guidance_scale": 1.5}.
        device: "auto", "cpu", "cuda" or "cuda:N"; empty for where the run trained.

    Returns:
        What `metrics.json` holds; a table of it is printed, with the protocol.

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
    _, task, codec = open_run(run, config.sample.weights, device)
    averaged = config.sample.weights != "model" and (run / "final" / "ema.safetensors").is_file()
    shards = open_data(config.data)
    result = evaluate_task(task, shards, config, run, codec=codec, weights="ema" if averaged else "model")
    print(table(result))
    return result


def evaluate_task(
    task: HumanVideo,
    shards: Shards,
    config: Config,
    out: Path,
    *,
    codec: PatchCodec | None = None,
    weights: str = "model",
    samples: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Generate the held-out clips, measure them and two baselines, write `out`/metrics.json and samples.

    The baselines show the same frames: `copy_reference` the reference image throughout, `mean_frame` the mean of
    up to 512 training frames, evenly spread. With a metric of poses there is `shuffled_poses`, too: the generated
    frames against the poses of the next clip. "background_l1" is left out where every frame is full of a person,
    "identity" where all clips show one subject.

    Args:
        weights: what the protocol calls the task's weights.
        samples: folder of the videos; `out`/samples/final where not given.
    """
    codec = codec or PatchCodec.default()
    clips = holdout_clips(shards, config.evaluate.frames)
    generated = generate_holdout(task, clips, config.evaluate, config.sample, codec, progress=progress)
    names = config.evaluate.metrics
    values, rows = measure([clip.generated for clip in generated], generated, names)
    mean = mean_frame(shards, config.evaluate.resolution, codec)
    copied = [clip.reference.expand_as(clip.truth) for clip in generated]
    averaged = [mean.expand_as(clip.truth) for clip in generated]
    baselines = {
        "copy_reference": measure(copied, generated, names)[0],
        "mean_frame": measure(averaged, generated, names)[0],
    }
    posed = [name for name in names if issubclass(plugins.find("metric", name), KeypointMetric)]
    if posed and len(generated) > 1:
        nexts = [*generated[1:], generated[0]]
        shuffled = [replace(clip, keypoints=other.keypoints) for clip, other in zip(generated, nexts, strict=True)]
        found = measure([clip.generated for clip in generated], shuffled, posed)[0]
        baselines["shuffled_poses"] = {name: value for name, value in found.items() if name not in POOLING}
    result = {
        "protocol": protocol(config, clips=len(generated), weights=weights),
        "metrics": values,
        "per_clip": rows,
        "baselines": baselines,
    }
    write_samples(samples or out / "samples" / "final", generated[: config.evaluate.videos])
    write_atomically(out / "metrics.json", json.dumps(result, indent=2) + "\n")
    return result


def protocol(config: Config, *, clips: int, weights: str) -> dict[str, Any]:
    """How the numbers were made: which frames, size, pooling, sampler, steps, guidance, seed, weights."""
    said: dict[str, Any] = {
        "clips": f"the first {clips} held out, in index order",
        "frames": f"the first {config.evaluate.frames} of each",
        "resolution": config.evaluate.resolution,
        "truth": f"decoded {PatchCodec.name} latents, pixels in 0..1",
        "scheduler": config.sample.scheduler,
        "num_inference_steps": config.sample.num_inference_steps,
        "guidance_scale": config.sample.guidance_scale,
        "seed": config.sample.seed,
        "weights": weights,
    }
    for name in config.evaluate.metrics:
        pooling = getattr(plugins.find("metric", name), "pooling", "as the plugin defines it")
        pooled = pooling if isinstance(pooling, Mapping) else {name: pooling}
        said |= {value: {"pooling": text} for value, text in pooled.items()}
    return said | {name: {"pooling": pooling} for name, pooling in POOLING.items()}


def holdout_clips(shards: Shards, frames: int) -> Clips:
    """The held-out clips of at least `frames` frames."""
    longest = max((row.frames for row in shards.rows if row.split == "holdout"), default=0)
    if not longest:
        raise ValueError(f"data: {shards.folder} holds no clip out; prepare it with a holdout share above 0")
    if longest < frames:
        raise ValueError(f"evaluate.frames = {frames}: the longest held-out clip has {longest}; choose at most that")
    return Clips(shards, "holdout", frames=frames)


def generate_holdout(
    task: HumanVideo,
    clips: Clips,
    config: EvaluateConfig,
    sample: SampleConfig,
    codec: PatchCodec,
    *,
    progress: bool = False,
) -> list[GeneratedClip]:
    """Generate the first `config.clips` clips from their first frame on.

    A pure function of the weights, the data and the settings: references and noise are fixed by the clip's place
    in the index and `sample.seed`.
    """
    samples = holdout_samples(clips, config.clips)
    tokens = config.frames * (config.resolution // FACTOR // 2) ** 2
    size = min(len(samples), max(1, BATCH_TOKENS // tokens))
    generated = []
    with tqdm(total=len(samples), desc="Sampling", unit="clip", disable=not progress) as bar:
        for start in range(0, len(samples), size):
            part = samples[start : start + size]
            keys = np.arange(start, start + len(part))
            batch = clips.assemble(part, keys, Shape(config.resolution, config.frames, len(part)))
            latents = sample_clips(
                task,
                batch.reference,
                batch.pose if task.pose else None,
                frames=config.frames,
                scheduler=sample.scheduler,
                num_inference_steps=sample.num_inference_steps,
                guidance_scale=sample.guidance_scale,
                seed=sample.seed,
                keys=keys.tolist(),
                codec=codec,
            )
            fakes, truths, references = map(codec.decode, (latents.cpu(), batch.latents, batch.reference))
            for i, shown in enumerate(part):
                row, keypoints = shown.row, clips.shards.pose(shown.row, 0, config.frames)
                generated.append(
                    GeneratedClip(row.clip, row.subject, fakes[i], truths[i], references[i], keypoints, row.fps)
                )
            bar.update(len(part))
    return generated


def holdout_samples(clips: Clips, count: int) -> list[Sample]:
    """The first `count` clips from frame 0 on, each with a reference fixed by its place in the index.

    The reference is a frame of another clip of the same subject and scene where there is one.
    """
    rows: dict[tuple[str, str], list[ClipRow]] = {}
    for row in clips.shards.rows:
        if row.split == clips.split:
            rows.setdefault((row.subject, row.scene), []).append(row)
    samples = []
    for index, row in enumerate(clips.rows[:count]):
        which, frame = generator(0, 7, index).random(2)
        mates = [mate for mate in rows[row.subject, row.scene] if mate.clip != row.clip] or [row]
        mate = mates[int(which * len(mates))]
        samples.append(Sample(row, 0, mate, int(frame * mate.frames)))
    return samples


def measure(
    fakes: Sequence[Tensor], clips: Sequence[GeneratedClip], names: Sequence[str]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics of `fakes` [F, 3, H, W] against the truth of `clips`: over all of them, and one row a clip."""
    totals = {name: plugins.load("metric", name) for name in names}
    rows: list[dict[str, Any]] = []
    background = [_background(fake, clip) for fake, clip in zip(fakes, clips, strict=True)]
    own = list(_nearer_to_own(fakes, clips))
    for i, (fake, clip) in enumerate(zip(fakes, clips, strict=True)):
        row: dict[str, Any] = {"clip": clip.clip, "subject": clip.subject}
        for name, total in totals.items():
            _update(total, fake, clip)
            if getattr(total, "per_clip", True):
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
    """L1 outside the person's box, over the frames that know where the person is; None where nothing is left."""
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

    Nothing where all clips show one subject.
    """
    for i, (fake, clip) in enumerate(zip(fakes, clips, strict=True)):
        later = [*clips[i + 1 :], *clips[:i]]
        other = next((one for one in later if one.subject != clip.subject), None)
        if other is None:
            return
        yield bool((fake - clip.truth).abs().mean() < (fake - other.truth).abs().mean())


def mean_frame(shards: Shards, resolution: int, codec: PatchCodec) -> Tensor:
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
