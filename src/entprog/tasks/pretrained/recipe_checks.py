"""Settings that are wrong or without effect when the task is a pretrained model, whatever model it is."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from entprog.config.checks import Finding, and_others, running
from entprog.config.schema import Config, ModelConfig, PhaseConfig
from entprog.methods.config_checks import inputs_rest, sizes_from

OWN = ("pretrained", "revision", "component", "family", "dtype", "weights", "pose", "reference", "flow_shift",
       "timestep_sampling", "timestep_range", "drop")  # fmt: skip
"""Keys of [model] that this task reads."""

DROP = 0.1
"""Rate of `model.drop` for a condition that it does not name."""


def problems(config: Config) -> Iterator[Finding]:
    """All errors that can be found without the model's files."""
    model = config.model
    if not model.pretrained.strip():
        yield Finding(
            ("model.pretrained",), ' = "": name a folder in diffusers\' layout (model_index.json, transformer/, vae/), '
            'or a hub id such as "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"',
        )  # fmt: skip
    if model.reference not in ("native", "frame", "none"):
        yield Finding(
            ("model.reference",), f' = "{model.reference}": a pretrained model takes "native", "frame" or "none"'
        )
    for condition, rate in model.drop.items():
        if not 0 <= rate < 1:
            yield Finding((f"model.drop.{condition}",), f" = {rate}: a share of the samples, at least 0 and below 1")
    if model.weights == "bf16" and model.dtype != "bf16":
        yield Finding(
            ("model.weights", "model.dtype"), f' = "bf16": trained weights would be held coarser than frozen ones, '
            f'model.dtype = "{model.dtype}"; set model.dtype = "bf16", or model.weights = "float32"',
        )  # fmt: skip
    part = model.timestep_range
    if part and not (len(part) == 2 and 0 <= part[0] < part[1] <= 1):
        yield Finding(("model.timestep_range",), f" = {list(part)}: expected two numbers from 0 to 1, the lower first")
    if config.sample.scheduler != "native":
        yield Finding(
            ("sample.scheduler",),
            f' = "{config.sample.scheduler}": a pretrained model is sampled by its own; set "native"',
        )
    source, options = sizes_from(config)
    for name, phase in running(config).items():
        if phase.blocks != "all":
            yield Finding(
                (f"phases.{name}.blocks",), f' = "{phase.blocks}": a pretrained model has one kind of blocks; set '
                '"all", and ranking.pattern to choose among them',
            )  # fmt: skip
        own = _shape(phase)
        if any((s.sides, s.frames, s.tokens) != (own.sides, own.frames, 1.0) for s in source.shapes(own)):
            yield Finding(
                (options,), f": another resolution, frame count or share of tokens in phase {name} than "
                f"{own.size} px and {own.frames} frames, which the data set stores; leave these options out",
            )  # fmt: skip


def _shape(phase: PhaseConfig) -> Any:
    from entprog.core.types import Shape  # imports torch, which is too slow for the command line's help

    return Shape.of(phase.sides, phase.frames, phase.batch)


def missing(config: Config) -> Iterator[Finding]:
    """Files that a run needs and that are not there, or do not go together.

    Of a hub id only the form is judged: nothing is fetched here.
    """
    data, model = config.data, config.model
    said = {finding.keys[0] for finding in problems(config)}
    if not data.path:
        yield Finding(
            ("data.path",), ' = "": a pretrained model trains on a folder made by: entprog prepare VIDEOS FOLDER '
            f"--codec {model.pretrained or 'MODEL'} --text {model.pretrained or 'MODEL'}",
        )  # fmt: skip
    elif not Path(data.path).is_dir():
        yield Finding(
            ("data.path",), f" = {data.path!r}: no such folder; make it with: entprog prepare VIDEOS {data.path} "
            f"--codec {model.pretrained} --text {model.pretrained}",
        )  # fmt: skip
    if model.pretrained.strip():
        yield from (finding for finding in _of_files(config) if finding.keys[0] not in said)


def _of_files(config: Config) -> Iterator[Finding]:
    """What the model's configuration files and the data set say; no weight is read."""
    from entprog.tasks.pretrained.folder import is_hub_id  # these import torch
    from entprog.tasks.pretrained.task import bare_task

    name = config.model.pretrained
    if not Path(name).expanduser().is_dir() and is_hub_id(name):
        return
    there = Path(config.data.path).is_dir() and bool(config.data.path)
    try:
        task = bare_task(config if there else replace(config, data=replace(config.data, path="")))
        lines = task.problems_of_files()
    except ValueError as error:
        lines = [str(error)]
    yield from map(_finding, lines)


def _finding(line: str) -> Finding:
    """A line that begins with a key of the recipe, or with the file that is wrong."""
    key = re.match(r"(model|data|phases|evaluate|sample)(\.[\w-]+)+|schedule\.options|method_options", line)
    return Finding((key[0],), line[key.end() :]) if key else Finding(("model.pretrained",), f": {line}")


def without_effect(config: Config, given: set[str]) -> Iterator[Finding]:
    """Settings without effect; `given` holds the dotted keys that the user wrote."""
    known = [f"model.{name}" for name in ModelConfig.__dataclass_fields__ if name not in OWN]
    idle = [key for key in known if key in given]
    if idle:
        yield Finding((idle[0],), f'{and_others(idle)}: no effect, as task = "pretrained"')
    idle = [key for key in sorted(given) if key.startswith("data.") and key != "data.path"]
    if idle:
        yield Finding((idle[0],), f"{and_others(idle)}: no effect, as data.path is opened as it is")
    by = config.sample.guided_by
    if by and "sample.guided_by" in given and config.sample.guidance_scale == 1:
        yield Finding(
            ("sample.guided_by", "sample.guidance_scale"), f' = "{by}": no effect, as sample.guidance_scale = 1: there '
            "is no second call",
        )  # fmt: skip
    if by and config.model.drop.get(by, DROP) == 0:  # type: ignore[call-overload]
        yield Finding(
            ("sample.guided_by", f"model.drop.{by}"), f' = "{by}": training never leaves it out, as model.drop.{by} = '
            "0, so the second call is nothing that the model has learned; set it to .1",
        )  # fmt: skip
    if config.train.reference_cache != "off" and "train.reference_cache" in given:
        yield Finding(
            ("train.reference_cache",), f' = "{config.train.reference_cache}": no effect: a pretrained model has no '
            "Siamese reference pass",
        )  # fmt: skip
    if config.model.pose == "input" and not inputs_rest(config, always=False):
        yield Finding(
            ("model.pose", "freeze.inputs_every"), ' = "input": its adapter stands before the blocks and trains, so '
            'the backward runs through every block, whichever are active; "blocks" spares that',
        )  # fmt: skip
    if config.model.pose == "input" and inputs_rest(config, always=True):
        yield Finding(
            ("model.pose", "freeze.inputs_every"), ' = "input": its adapter never trains, as input-side parameters '
            'rest; set freeze.inputs_every = 1, or model.pose = "blocks"',
        )  # fmt: skip
