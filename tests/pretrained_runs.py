"""Tiny runs of `task = "pretrained"`, and what every family must show: one function a claim.

Used by the tests, and by tools/measure_families.py, which records the figures.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from entprog.config.load import config_of
from entprog.config.schema import Config
from entprog.core.freeze import param_groups
from entprog.core.skip import Skipper
from entprog.core.types import Draw, Shape
from entprog.profiling.meter import Meter
from entprog.tasks.base import fixed_draws
from entprog.tasks.finished_run import build_task
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.folder import read_configs
from entprog.tasks.pretrained.task import PretrainedTask
from entprog.toml.trees import at, laid_over
from entprog.train.run import train
from tiny_pipelines import saved
from tiny_windows import write_windows

SIZES: dict[str, tuple[int, tuple[int, int]]] = {
    **dict.fromkeys(("dit", "flux", "pixart", "pixart-sigma", "sd3", "unet-2d"), (1, (32, 32))),
    "latte": (3, (32, 32)),
    **dict.fromkeys(("cogvideox-5b-i2v",), (5, (48, 64))),
}
"""Frames, height and width of a variant's windows, where they are not 5, 32 and 32."""


@dataclass(frozen=True)
class Variant:
    """A tiny pipeline with a data set for it."""

    name: str
    model: Path
    data: Path
    frames: int
    sides: tuple[int, int]

    @property
    def size(self) -> str:
        """Such as "48x64"."""
        return f"{self.sides[0]}x{self.sides[1]}"

    @classmethod
    def make(cls, name: str, folder: Path) -> "Variant":
        frames, sides = SIZES.get(name, (5, (32, 32)))
        model, data = saved(name), folder / f"{name}-data"
        if not data.is_dir():
            write_windows(data, model, frames=frames, sides=sides)
        return cls(name, model, data, frames, sides)

    @property
    def native(self) -> bool:
        """Whether the model has inputs for a reference image."""
        return family_of(read_configs(self.model)).native_reference


def recipe(variant: Variant, run: Path, **changes: Any) -> Config:
    """A run of 8 steps: a third of the blocks, then two thirds; `changes` by dotted key with "__" for the dots."""
    tree: dict[str, Any] = {
        "task": "pretrained", "output_dir": str(run), "data": {"path": str(variant.data)},
        "model": {"pretrained": str(variant.model), "reference": "native" if variant.native else "none"},
        "phases": {"video": {
            "resolution": variant.size, "frames": variant.frames, "steps": 8, "batch": 2, "learning_rate": 1e-3,
        }},
        "ranking": {"score": "gradient", "samples": 2},
        "schedule": {"name": "fixed", "options": {"m": [0.34, 0.67]}},
        "train": {"mixed_precision": "no", "holdout_clips": 2, "checkpointing_steps": 0, "threads": 1},
        "evaluate": {"clips": 0, "frames": variant.frames, "resolution": variant.size, "videos": 1},
        "sample": {"num_inference_steps": 2},
    }  # fmt: skip
    for key, value in changes.items():
        tree = {**tree, key: value} if isinstance(value, dict) else laid_over(tree, at(key.replace("__", "."), value))
    return config_of(tree)


def task_of(variant: Variant, **changes: Any) -> PretrainedTask:
    """The task of a recipe, in its phase."""
    config = recipe(variant, Path("unused"), **changes)
    task = build_task(config)
    assert isinstance(task, PretrainedTask)
    task.enter(config.phases["video"])
    return task


def draw_of(task: PretrainedTask, variant: Variant, samples: int = 2) -> Draw:
    """A fixed draw of the training data."""
    shape = Shape.of(variant.sides, variant.frames, samples)
    return fixed_draws(task, task.samples("train", variant.frames, 0), shape, samples, 0)[0]


def x0_error(variant: Variant) -> float:
    """How far the clean latents that a perfect prediction implies are from the true ones."""
    task = task_of(variant)
    draw = draw_of(task, variant, 4)
    clean = (
        task.samples("train", variant.frames, 0).batch(0, Shape.of(variant.sides, variant.frames, 4)).tensors["latents"]
    )
    found = task.objective.x0(draw.target, draw.x, draw.tau)[:, -clean.shape[1] :]
    return float((found - clean).abs().max())


def adapters_change_nothing(variant: Variant, **changes: Any) -> bool:
    """Whether a network with new adapters predicts what the bare one does, bit for bit."""
    task = task_of(variant, **changes)
    draw = draw_of(task, variant)
    assert task.adapters is not None
    with torch.no_grad():
        adapted = task.predict(draw)
        with task.adapters.off():
            return torch.equal(adapted, task.predict(draw))


def skip_error(variant: Variant) -> float:
    """Largest difference between skipping a block and a network whose block returns its input, over all blocks."""
    task = task_of(variant)
    draw, blocks = draw_of(task, variant), task.blocks(task.config.phases["video"])
    with torch.no_grad(), Skipper(blocks) as skipper:
        worst = 0.0
        for block in blocks:
            with skipper.skip(block.name):
                once = task.predict(draw)
                with skipper.record():
                    pass
                worst = max(worst, float((once - task.predict(draw)).abs().max()))
        return worst


def frozen_stays(variant: Variant, run: Path, **changes: Any) -> bool:
    """Whether a run with a stage change moved no weight but those of its active blocks and of the output side."""
    train(recipe(variant, run, **changes))
    active = {line for file in run.glob("1-video/trainable-*.txt") for line in file.read_text().split()}
    moved = set(load_file(str(run / "final" / "delta.safetensors")))
    return bool(moved) and moved <= active


def step_cost(variant: Variant, share: float) -> tuple[float, float]:
    """FLOPs and peak bytes of a step that trains the last `share` of the blocks, inputs at rest (1: everything)."""
    task = task_of(variant)
    blocks = task.blocks(task.config.phases["video"])
    count = max(1, round(share * len(blocks)))
    active = {id(p) for block in blocks[len(blocks) - count :] for p in block.parameters()}
    inside = {id(p) for block in blocks for p in block.parameters()}
    for name, parameter in task.model.named_parameters():
        last = name.startswith(task.family.head)
        parameter.requires_grad_(share == 1 or id(parameter) in active or (id(parameter) not in inside and last))
    optimizer = torch.optim.AdamW(param_groups(task.model, blocks, lr=1e-3))
    draw = draw_of(task, variant)
    for _ in range(2):
        with Meter(task.model, optimizer, blocks=blocks) as meter:
            task.loss(draw).backward()
            optimizer.step()
            optimizer.zero_grad()
    cost = meter.cost()
    return cost.flops, cost.peak


def same_weights(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same weights, bit for bit."""
    names = ("delta.safetensors", "entprog_adapters.safetensors")
    for name in names:
        one, other = (_read(run / "final" / name) for run in (a, b))
        if one.keys() != other.keys() or not all(torch.equal(one[key], other[key]) for key in one):
            return False
    return True


def _read(path: Path) -> Mapping[str, Tensor]:
    return load_file(str(path)) if path.is_file() else {}


def resumes(variant: Variant, folder: Path, **changes: Any) -> bool:
    """Whether a run that goes on from a checkpoint in its search ends as one that was never stopped."""
    search = {
        "schedule": {"name": "adaptive", "options": {"stages": 2, "search_steps": 4, "estimator": "supernet"}},
        "phases__video__steps": 12, "train__checkpointing_steps": 1, "train__checkpoints_total_limit": 0, **changes,
    }  # fmt: skip
    whole = train(recipe(variant, folder / "whole", **search))
    again = shutil.copytree(whole, folder / "again", ignore=shutil.ignore_patterns("final", "totals.json"))
    train(recipe(variant, again, **search), resume_from_checkpoint="checkpoint-2")
    return same_weights(whole, again)
