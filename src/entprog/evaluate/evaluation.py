"""Evaluate: held-out clips generated and compared with the truth, by a pinned protocol.

Shape legend: F frames, H W height and width in pixels.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from entprog.config import checks
from entprog.config.load import ConfigError, read_config
from entprog.config.schema import Config, EvaluateConfig, SampleConfig
from entprog.core.bands import band_edges, band_means, mean_log
from entprog.core.types import Shape
from entprog.evaluate.baselines import baselines
from entprog.evaluate.measure import GeneratedClip, Notes, measure, ready
from entprog.evaluate.protocols import DEFAULT, EvaluationProtocol, protocol_named
from entprog.evaluate.provenance import generation, paper_row, protocol, table
from entprog.files import write_atomically
from entprog.sample.animate import write_panels
from entprog.tasks.base import Task, fixed_draws
from entprog.tasks.data_record import warn_of_other_data
from entprog.tasks.finished_run import open_run

__all__ = [
    "GeneratedClip", "evaluate", "evaluate_task", "generate_holdout", "held_out_loss", "measure", "protocol", "table",
    "write_samples",
]  # fmt: skip

EFFECTIVE = ("evaluate.", "sample.", "data.path")
"""What the keys begin with that change an evaluation."""
MANY = 1000
"""So many clips mean all that are held out."""


def evaluate(
    run: Path, *, overrides: Mapping[str, Any] | None = None, device: str = "", protocol: str = ""
) -> dict[str, Any]:
    """Evaluate a finished run and write `metrics.json` and `samples/final` into its folder.

    Args:
        run: a folder made by `entprog train`.
        overrides: dotted keys over the run's own configuration, such as {"sample.guidance_scale": 1.5}: those of
            [evaluate] and [sample], and data.path for a data set that was moved, or another one.
        device: "auto", "cpu", "cuda" or "cuda:N"; empty for where the run trained.
        protocol: a published protocol by name ("disco"), under the overrides; empty for the recipe's own settings.

    Returns:
        The content of `metrics.json`; a table of it is printed, with the protocol.

    Raises:
        ValueError: no finished run, no held-out clip that fits the protocol, a key that has no effect here, or a
            metric's package is missing.
    """
    run, named = Path(run), protocol_named(protocol)
    given = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (overrides or {}).items()}
    if not (run / "config.toml").is_file():
        raise ValueError(f"run = {str(run)!r}: no config.toml there; give a folder made by entprog train")
    config = read_config(run / "config.toml", named.overrides() | given, resolved=True)
    wrong = [
        f"--{key}: has no effect on an evaluation; give keys of [evaluate] and [sample], and data.path"
        for key in given
        if not key.startswith(EFFECTIVE)
    ]
    if wrong:
        raise ConfigError(wrong)
    for finding in checks.packages(config, ("metric",)):
        raise ValueError(finding.keys[0] + finding.text)
    _, task = open_run(run, config.sample.weights, device, given.get("data.path", ""))
    if task.generates and config.evaluate.clips == 0:
        raise ConfigError(["evaluate.clips = 0: there is nothing to measure; give how many clips, such as --clips 8"])
    warn_of_other_data(run, task)
    averaged = config.sample.weights != "model" and (run / "final" / "ema.safetensors").is_file()
    result = evaluate_task(task, config, run, weights="ema" if averaged else "model", named=named)
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
    named: EvaluationProtocol = DEFAULT,
) -> dict[str, Any]:
    """Generate the held-out clips, measure them and two baselines, write `out`/metrics.json and samples.

    The baselines show the same frames: `copy_reference` the reference image throughout, `mean_frame` the mean of
    up to 512 training frames, evenly spread. With a metric of poses there is also `shuffled_poses`: the generated
    frames against the poses of the next clip. "background_l1" is left out where a person fills every frame,
    "identity" where all clips show one subject. A metric that has no value is named under "skipped", with the reason.

    Args:
        weights: name of the task's weights in the protocol.
        samples: folder of the videos; `out`/samples/final where not given.
        named: the protocol; its `values` are in `config` already.
    """
    if not task.generates:
        result = held_out_loss(task, config, weights)
        write_atomically(out / "metrics.json", json.dumps(result, indent=2) + "\n")
        return result
    settings, notes = config.evaluate, Notes()
    names = ready(settings.metrics, settings.metric_options, notes)
    if progress:
        for name, reason in notes.skipped.items():
            print(f"{name}: skipped: {reason}", file=sys.stderr)
    generated = generate_holdout(task, settings, config.sample, progress=progress)
    clips = [judged(clip, named) for clip in generated]
    fakes = [clip.generated for clip in clips]
    values, rows = measure(fakes, clips, names, options=settings.metric_options, notes=notes)
    mean = task.mean_frame(settings.sides[0])
    mean = None if mean is None else named.compared(mean[None])[0]
    result = {
        "protocol": generation(generated)
        | protocol(config, task.codec, clips=len(generated), weights=weights, named=named, notes=notes),
        "metrics": values,
        "per_clip": rows,
        "baselines": baselines(clips, names, settings.metric_options, mean),
    }
    result["protocol"]["data"] = (task.data_record() or {}).get("fingerprint")
    if notes.skipped:
        result["skipped"] = notes.skipped
    if named.row:
        result["row"] = paper_row(named, values, notes)
    write_samples(samples or out / "samples" / "final", generated[: settings.videos])
    write_atomically(out / "metrics.json", json.dumps(result, indent=2) + "\n")
    return result


def judged(clip: GeneratedClip, named: EvaluationProtocol) -> GeneratedClip:
    """The frames of a clip that are compared, as the protocol compares them.

    Frames that the reference shows are left out, unless there are no others.
    """
    kept = [i for i in range(len(clip.truth)) if i not in clip.unjudged] or list(range(len(clip.truth)))
    return replace(
        clip,
        generated=named.compared(clip.generated[kept]),
        truth=named.compared(clip.truth[kept]),
        reference=named.compared(clip.reference[None])[0],
        keypoints=clip.keypoints[kept],
    )


@torch.no_grad()
def held_out_loss(task: Task, config: Config, weights: str) -> dict[str, Any]:
    """metrics.json of a task that makes no clips: the held-out loss: mean, mean log over noise bands, by band."""
    number, phase = [(k, p) for k, p in enumerate(config.phases.values()) if p.steps > 0][-1]
    shape = Shape.of(phase.sides, phase.frames, phase.batch)
    samples = task.samples("holdout", phase.frames, config.train.seed)
    draws = fixed_draws(task, samples, shape, config.train.holdout_clips, config.train.seed * 1000 + number + 700)
    losses = [loss for draw in draws for loss in task.losses(draw).tolist()]
    taus = [tau for draw in draws for tau in draw.tau.tolist()]
    means = band_means(losses, taus)
    bands = {f"loss_{low:g}_{high:g}": mean for (low, high), mean in zip(band_edges(), means, strict=True)}
    known = {name: mean for name, mean in {"log_loss": mean_log(means), **bands}.items() if math.isfinite(mean)}
    values = {"loss": sum(losses) / len(losses), **known}
    protocol = {
        "samples": len(losses), "loss": "mean over the fixed holdout draws; by band of tau",
        "log_loss": "mean log of the bands", "weights": weights,
    }  # fmt: skip
    return {"protocol": protocol, "metrics": values, "per_clip": [], "baselines": {}}


def generate_holdout(
    task: Task, config: EvaluateConfig, sample: SampleConfig, *, progress: bool = False
) -> list[GeneratedClip]:
    """Generate the first `config.clips` held-out clips from their first frame on.

    A pure function of the weights, the data and the settings: references and noise are fixed by the clip's place
    in the index and `sample.seed`.
    """
    generated = []
    batches = task.held_out(config)  # says what is wrong before the bar is shown
    total = config.clips if config.clips < MANY else None
    with tqdm(total=total, desc="Sampling", unit="clip", disable=not progress) as bar:
        for clips in batches:
            conditions = {name: torch.stack([c.conditions[name] for c in clips]) for name in clips[0].conditions}
            fakes = task.generate(conditions, sample, [clip.key for clip in clips])
            generated += [
                GeneratedClip(c.clip, c.subject, fake, c.truth, c.reference, c.keypoints, c.fps, c.shown, c.unjudged)
                for c, fake in zip(clips, fakes, strict=True)
            ]
            bar.update(len(clips))
    return generated


def write_samples(folder: Path, clips: Sequence[GeneratedClip]) -> None:
    """Write CLIP.mp4, CLIP.gif (reference | pose | generated | truth) and CLIP/0000.png ... (generated) for each."""
    for clip in clips:
        write_panels(
            folder / clip.clip, clip.reference, clip.keypoints, clip.generated, clip.truth,
            fps=clip.fps, frames=folder / clip.clip,
        )  # fmt: skip
