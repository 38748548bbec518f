"""Tiny runs of `task = "pretrained"`, and what every family must show: one function a claim.

Used by the tests, and by tools/measure_families.py, which records the figures.
"""

import inspect
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from entprog.config.load import config_of
from entprog.config.schema import Config
from entprog.core.freeze import param_groups
from entprog.core.skip import Skipper
from entprog.core.swap import swapped_forward
from entprog.core.types import Draw, Shape
from entprog.profiling.meter import Meter, StepCost
from entprog.savings.frozen_storage import original
from entprog.savings.weight_precision import load_exactly
from entprog.tasks.base import fixed_draws
from entprog.tasks.finished_run import build_task
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.families.hunyuan_video15 import HunyuanVideo15
from entprog.tasks.pretrained.folder import read_configs
from entprog.tasks.pretrained.task import PretrainedTask
from entprog.toml.trees import at, laid_over
from entprog.train.checkpoint import load_checkpoint
from entprog.train.run import train
from family_checks import removed
from tiny_pipelines import saved
from tiny_windows import write_windows

SIZES: dict[str, tuple[int, tuple[int, int]]] = {
    **dict.fromkeys(("dit", "flux", "pixart", "pixart-sigma", "sd3", "unet-2d"), (1, (32, 32))),
    **dict.fromkeys(("latte", "svd", "unet-motion"), (3, (32, 32))),
    **dict.fromkeys(("cogvideox-5b-i2v", "cogvideox-2b", "cogvideox-5b"), (9, (48, 64))),
    **dict.fromkeys(("cogvideox-1.5", "cogvideox-1.5-i2v"), (21, (48, 64))),
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


@contextmanager
def short_texts() -> Iterator[None]:
    """HunyuanVideo 1.5 with texts of 44 tokens, not 1256, which would take most of a tiny model's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HunyuanVideo15, "text_tokens", 24)
        patch.setattr(HunyuanVideo15, "glyph_tokens", 20)
        yield


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


def x0_error(task: PretrainedTask, variant: Variant) -> float:
    """How far the clean latents that a perfect prediction implies are from the true ones."""
    draw = draw_of(task, variant, 4)
    shape = Shape.of(variant.sides, variant.frames, 4)
    clean = task.samples("train", variant.frames, 0).batch(0, shape).tensors["latents"]
    found = task.objective.x0(draw.target, draw.x, draw.tau)[:, -clean.shape[1] :]
    return float((found - clean).abs().max())


def adapters_change_nothing(task: PretrainedTask, variant: Variant) -> bool:
    """Whether a network with new adapters predicts what the bare one does, bit for bit, and with trained ones not."""
    draw = draw_of(task, variant)
    assert task.adapters is not None
    with torch.no_grad():
        adapted = task.predict(draw)
        with task.adapters.off():
            bare = task.predict(draw)
        with filled(task):
            return torch.equal(adapted, bare) and not torch.equal(task.predict(draw), bare)


def exact_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state, with the exact values of weights that are held rounded."""
    held = {name: original(parameter) for name, parameter in model.named_parameters()}
    return {name: held.get(name, tensor).detach().clone() for name, tensor in model.state_dict().items()}


@contextmanager
def filled(task: PretrainedTask) -> Iterator[None]:
    """Within the context, the adapters hold random numbers, as trained ones would."""
    assert task.adapters is not None
    new, random = task.adapters.tensors(), torch.Generator().manual_seed(0)
    task.adapters.load({name: 0.1 * torch.randn(tensor.shape, generator=random) for name, tensor in new.items()})
    try:
        yield
    finally:
        task.adapters.load({name: torch.zeros_like(tensor) for name, tensor in new.items()})


def skip_error(task: PretrainedTask, variant: Variant) -> float:
    """Largest difference between skipping a block and a network without it, over all blocks, adapters trained.

    Without it: its forward returns the states that came in, found by their shape; a block that changes their shape, or
    adds nothing of its own to them, has all parameters zero instead.
    """
    draw, blocks, worst = draw_of(task, variant), task.blocks(task.config.phases["video"]), 0.0
    with torch.no_grad(), filled(task):
        whole, skipped = task.predict(draw), {}
        with Skipper(blocks) as skipper:
            for block in blocks:
                with skipper.skip(block.name):
                    skipped[block.name] = task.predict(draw)
        for block in blocks:
            adapter = blocks.adapters.get(block.name)
            with removed(block.module, adapter, "") if adapter else passed_by(block.module):
                worst = max(worst, float((skipped[block.name] - task.predict(draw)).abs().max()))
            assert not torch.equal(skipped[block.name], whole), f"{block.name} does nothing"
    return worst


STATES = ("hidden_states", "input_tensor", "encoder_hidden_states")
"""What blocks of diffusers call the states that they pass on."""


def passed_by(module: nn.Module) -> AbstractContextManager[None]:
    """Within the context, the module returns the states that it got, each in the place of an output of its shape."""
    original, signature = module.forward, inspect.signature(module.forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        states = [given[name] for name in STATES if isinstance(given.get(name), Tensor)]
        outputs = original(*args, **kwargs)
        return tree_map_only(Tensor, lambda out: next(s for s in states if s.shape == out.shape), outputs)

    return swapped_forward(module, forward)


def frozen_stays(variant: Variant, run: Path, *, steps: int = 20, **changes: Any) -> bool:
    """Whether weights that were frozen in a stage have the same bits after it; blocks freeze halfway through."""
    before = exact_state(task_of(variant, **changes).model)
    fixed = {"schedule": {"name": "fixed", "options": {"m": [0.67, 0.34]}}, "phases__video__steps": steps}
    every = {"train__checkpointing_steps": steps // 2, "train__checkpoints_total_limit": 0}
    train(recipe(variant, run, **fixed, **every, **changes))
    for stage in (0, 1):
        state = load_checkpoint(run / f"checkpoint-{(stage + 1) * steps // 2}")["model"]
        moved = {name for name, value in state.items() if not torch.equal(value, before[name].to(value.dtype))}
        if not moved or not moved <= trained(run, stage):
            return False
        before = state
    return set(load_file(str(run / "final" / "delta.safetensors"))) <= trained(run, 0) | trained(run, 1)


def trained(run: Path, stage: int) -> set[str]:
    """Names of the parameters that a stage trained."""
    lines = (run / "1-video" / f"trainable-stage{stage}.txt").read_text().splitlines()
    return {line.split()[0] for line in lines if line.endswith(" trained")}


def step_cost(task: PretrainedTask, variant: Variant, share: float) -> StepCost:
    """A step of AdamW that trains the last `share` of the blocks and the output side (1: everything), on a meter."""
    blocks = task.blocks(task.config.phases["video"])
    count = max(1, round(share * len(blocks)))
    active = {id(p) for block in blocks[len(blocks) - count :] for p in block.parameters()}
    inside = {id(p) for block in blocks for p in block.parameters()}
    for name, parameter in task.model.named_parameters():
        last = name.startswith(task.family.head)
        parameter.requires_grad_(share == 1 or id(parameter) in active or (id(parameter) not in inside and last))
    before = exact_state(task.model)
    optimizer = torch.optim.AdamW(param_groups(task.model, blocks, lr=1e-3))
    draw = draw_of(task, variant)
    with Meter(task.model, optimizer, blocks=blocks) as meter:
        task.loss(draw).backward()
        optimizer.step()
        optimizer.zero_grad()
    load_exactly(task.model, before)
    return meter.cost()


def prefix_is_exact(task: PretrainedTask, variant: Variant) -> bool:
    """Whether the frozen prefix can be cached, and gradients with the cache are those without, bit for bit."""
    blocks = task.blocks(task.config.phases["video"])
    before = {name: parameter.requires_grad for name, parameter in task.model.named_parameters()}
    task.model.requires_grad_(False)
    for block in blocks[len(blocks) // 2 :]:
        block.module.requires_grad_(True)
    draw = draw_of(task, variant)
    cached = task.prefix(draw)
    found = []
    for given in (draw, cached):
        task.loss(given).backward()
        found.append({name: p.grad for name, p in task.model.named_parameters() if p.grad is not None})
        task.model.zero_grad(set_to_none=True)
    for name, parameter in task.model.named_parameters():
        parameter.requires_grad_(before[name])
    plain, again = found
    same = plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)
    assert same, "gradients with the cached prefix differ"
    return cached.hidden is not None


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


def resumes(variant: Variant, folder: Path, *, steps: int = 20, **changes: Any) -> bool:
    """Whether a run that goes on within its search ends as one that was never stopped."""
    point = 2
    search = {
        "schedule": {"name": "adaptive", "options": {"stages": 2, "search_steps": 4, "width": 2}},
        "phases__video__steps": steps, "train__checkpointing_steps": point, "train__checkpoints_total_limit": 0,
    }  # fmt: skip
    search |= changes
    whole = train(recipe(variant, folder / "whole", **search))
    again = shutil.copytree(whole, folder / "again", ignore=shutil.ignore_patterns("final", "totals.json"))
    train(recipe(variant, again, **search), resume_from_checkpoint=f"checkpoint-{point}")
    rows = [json.loads(line) for line in (again / "log.jsonl").read_text().splitlines()]
    assert rows[point]["searching"], "the checkpoint is in no search"
    return same_weights(whole, again)
