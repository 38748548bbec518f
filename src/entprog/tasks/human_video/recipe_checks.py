"""Settings that are wrong or without effect when the task is human video."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from entprog import plugins
from entprog.config.checks import Finding, and_others, running
from entprog.config.presets import value_of
from entprog.config.schema import Config, PhaseConfig
from entprog.methods.config_checks import begins_frozen, inputs_rest, sizes_from

RENDERED = ("domain", "subjects", "clips_per_subject", "holdout", "frames", "sizes", "seed", "workers", "cache")
"""Keys of [data] that are options of rendering."""

PRETRAINED = ("revision", "component", "family", "dtype", "weights", "flow_shift", "timestep_sampling",
              "timestep_range", "drop")  # fmt: skip
"""Keys of [model] that only a pretrained model reads."""


def problems(config: Config) -> Iterator[Finding]:
    """All errors in the model and data settings of this configuration, except missing files."""
    yield from _model(config)
    yield from _new_pose(config)
    yield from _data(config)
    source, options = sizes_from(config)
    for name, phase in running(config).items():
        yield from _phase(name, phase, config)
        if not isinstance(phase.resolution, str):
            yield from _workloads(source, options, name, phase, config)


def missing(config: Config) -> Iterator[Finding]:
    """Missing files that a run needs."""
    data, init = config.data, config.model.init
    if data.path and not Path(data.path).is_dir():
        yield Finding(
            ("data.path",), f" = {data.path!r}: no such folder; make it with: entprog prepare VIDEOS {data.path}"
        )
    if init.strip() and init not in ("base", "scratch") and not Path(init).exists():
        yield Finding(("model.init",), f' = {init!r}: no such file; expected "base", "scratch" or the path of weights')


def without_effect(config: Config, given: set[str]) -> Iterator[Finding]:
    """Settings without effect; `given` holds the dotted keys that the user wrote."""
    train, phases = config.train, running(config).values()
    if train.validation_clips and not any(phase.pose for phase in phases):
        yield Finding(
            ("train.validation_clips",),
            f" = {train.validation_clips}: no effect, as no phase has pose = true: nothing can be animated",
        )
    if "model.pose" in given and (why := _why_pose_frozen(config)):
        yield Finding(
            ("model.pose",),
            f' = "input": its adapter stays as model.init has it, as {why}; set model.pose = "blocks" to train poses',
        )
    if config.sample.guided_by and "sample.guided_by" in given:
        yield Finding(
            ("sample.guided_by",), f' = "{config.sample.guided_by}": no effect: the second call of guidance goes '
            "without every condition",
        )  # fmt: skip
    cached = config.model.reference != "none" and any(begins_frozen(phase, config) for phase in phases)
    if train.reference_cache != "off" and not cached:
        yield Finding(
            ("train.reference_cache", "freeze.inputs_every"),
            f' = "{train.reference_cache}": next to no effect: no phase leaves the start of the reference pass '
            "frozen; set freeze.inputs_every = 0, or train temporal blocks only",
        )
    idle = [f"data.{key}" for key in RENDERED if f"data.{key}" in given]
    if config.data.path and idle:
        yield Finding(
            (idle[0],), f"{and_others(idle)}: no effect, as data.path = {config.data.path!r} replaces rendered people"
        )
    idle = [key for key in idle if key != "data.domain"]
    if not config.data.path and not config.data.rendered and idle:
        yield Finding(
            (idle[0], "data.domain"),
            f'{and_others(idle)}: no effect, as data.domain = "clips" opens the shipped videos',
        )
    if config.model.init == "scratch" and inputs_rest(config, always=True):
        yield Finding(
            ("model.init", "method_options", "freeze.inputs_every"),
            ' = "scratch": the embeddings keep their random values, as input-side parameters never train; '
            "give trained weights, or let them train",
        )
    idle = sorted(key for key in given if key.startswith("model.") and key.split(".")[1] in PRETRAINED)
    if idle:
        yield Finding((idle[0],), f'{and_others(idle)}: no effect without task = "pretrained"')
    if config.model.reference == "none" and "model.reference_gradient" in given:
        yield Finding(("model.reference_gradient",), ': no effect, as model.reference = "none"')


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
    for pretrained in ("model.pose", "model.reference"):
        if (value := value_of(config, pretrained)) in ("native", "frame"):
            yield Finding((pretrained,), f' = "{value}": only task = "pretrained" takes that')
    if config.sample.scheduler == "native":
        yield Finding(
            ("sample.scheduler",), ' = "native": only a pretrained model brings one; choose "ddim", "ddpm" or "dpm++"'
        )
    if model.pretrained:
        yield Finding(("model.pretrained",), f' = "{model.pretrained}": needs task = "pretrained"')
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


def _new_pose(config: Config) -> Iterator[Finding]:
    """A new pose adapter at the input must train at some step."""
    if "pose" in config.model.fresh and (why := _why_pose_frozen(config)):
        yield Finding(
            ("model.pose", "model.fresh", "freeze", "method_options"),
            f' = "input": the new adapter (model.fresh) never trains, as {why}; set model.pose = "blocks"',
        )


def _why_pose_frozen(config: Config) -> str:
    """Why a pose adapter at the input never trains; empty where it trains, does not exist or is not used."""
    posed = [phase for phase in running(config).values() if phase.pose]
    if config.model.pose != "input" or not posed:
        return ""
    if inputs_rest(config, always=True):
        return "freeze.inputs_every = 0" if plugins.ranked(config.method) else 'method_options.inputs = "never"'
    if not config.freeze.outside:
        return "freeze.outside = false"
    return "" if any(phase.outside for phase in posed) else "no phase with poses has outside = true"


def _data(config: Config) -> Iterator[Finding]:
    data, shown = config.data, config.evaluate.resolution
    if isinstance(shown, str) and config.evaluate.clips:
        yield Finding(("evaluate.resolution",), f' = "{shown}": this task makes squares; give one side, such as 64')
        return
    if not data.rendered:
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
    if isinstance(phase.resolution, str):
        yield Finding(
            (f"{dotted}.resolution",),
            f' = "{phase.resolution}": this task trains on squares; give one side, such as 64',
        )
        return
    if phase.resolution % 8:
        yield Finding((f"{dotted}.resolution",), f" = {phase.resolution}: no multiple of 8")
    elif data.rendered and phase.resolution not in data.sizes:
        yield Finding(
            (f"{dotted}.resolution", "data.sizes"),
            f" = {phase.resolution}: not among data.sizes = {list(data.sizes)}, the sizes that are rendered",
        )
    if data.rendered and phase.frames > data.frames:
        yield Finding(
            (f"{dotted}.frames", "data.frames"),
            f" = {phase.frames}: rendered clips have only data.frames = {data.frames}",
        )
    clips = data.subjects * data.clips_per_subject
    if data.rendered and phase.batch > clips:
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


def _workloads(source: Any, table: str, name: str, phase: PhaseConfig, config: Config) -> Iterator[Finding]:
    """The sizes that a schedule or method gives a phase by its options, where they differ from the phase's own."""
    data, where = config.data, (table, f"phases.{name}")
    clips = data.subjects * data.clips_per_subject
    for resolution in dict.fromkeys(shape.resolution for shape in _shapes(source, phase)):
        if resolution != phase.resolution and resolution % 8:
            yield Finding(where, f": resolution {resolution} of phase {name} is no multiple of 8 (patch 2 x codec 4)")
        elif resolution != phase.resolution and data.rendered and resolution not in data.sizes:
            yield Finding(
                (*where, "data.sizes"),
                f": resolution {resolution} of phase {name} is not among data.sizes = {list(data.sizes)}, "
                "the sizes that are rendered",
            )
    for batch in dict.fromkeys(shape.batch for shape in _shapes(source, phase)):
        if batch != phase.batch and data.rendered and batch > clips:
            yield Finding(
                (*where, "data.subjects", "data.clips_per_subject"),
                f": batch {batch} of phase {name} is larger than the data set, "
                f"data.subjects * data.clips_per_subject = {clips} clips",
            )
    if phase.blocks == "temporal" and phase.frames > 1 and any(s.frames == 1 for s in _shapes(source, phase)):
        yield Finding(where, f": 1 frame in phase {name}, whose temporal blocks need at least 2")


def _shapes(source: Any, phase: PhaseConfig) -> tuple[Any, ...]:
    """Every shape that a phase may train at."""
    from entprog.core.types import Shape  # imports torch, which is too slow for the command line's help

    return tuple(source.shapes(Shape.of(phase.sides, phase.frames, phase.batch)))
