"""Calls of a network by its family's own pipeline, captured on a tiny folder, beside what `Family.inputs` gives."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from entprog.core.blocks import Blocks, discover_blocks
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.families.base import Family, Latent
from entprog.tasks.pretrained.folder import read_configs
from tiny_pipelines import saved


@dataclass
class Captured:
    """What a run of a pipeline fed the network: keyword arguments of each call, latents and time of each step; and its
    result."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    times: list[Tensor] = field(default_factory=list)
    result: Tensor | None = None


class Opened:
    """A tiny folder: pipeline, network in evaluation mode and family."""

    def __init__(self, name: str, component: str = "transformer") -> None:
        folder = saved(name)
        self.pipeline: Any = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.family: Family = family_of(read_configs(folder, component))
        self.network: nn.Module = self.family.prepared(getattr(self.pipeline, component).eval())

    @property
    def blocks(self) -> Blocks:
        """As the task finds them."""
        return discover_blocks(self.network, self.family.patterns or None)

    def predict(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """As the task does."""
        given = self.family.inputs(x, time, condition)
        return self.family.output(self.network(**given, return_dict=False)[0], x)

    @torch.no_grad()
    def run(self, **settings: Any) -> Captured:
        """Runs the pipeline; latents are those that it gives its scheduler at each step, in its own layout."""
        found, step = Captured(), self.pipeline.scheduler.step
        parameters = inspect.signature(step)

        def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            assert not args
            leaves, spec = tree_flatten(kwargs)
            found.calls.append(spec.unflatten([v.clone() if isinstance(v, Tensor) else v for v in leaves]))

        def stepped(*args: Any, **kwargs: Any) -> Any:
            given = parameters.bind(*args, **kwargs).arguments
            found.latents.append(given["sample"].clone())
            found.times.append(torch.as_tensor(given["timestep"]).clone())
            return step(*args, **kwargs)

        hook = self.network.register_forward_pre_hook(before, with_kwargs=True)
        self.pipeline.scheduler.step = stepped
        try:
            with posterior_mode():
                (found.result,) = self.pipeline(output_type="latent", return_dict=False, **settings)
        finally:
            hook.remove()
            del self.pipeline.scheduler.step
        return found


@contextmanager
def posterior_mode():
    """VAEs give the mode of the posterior, as our codec does, where a pipeline would sample it."""
    sample = DiagonalGaussianDistribution.sample
    DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()
    try:
        yield
    finally:
        DiagonalGaussianDistribution.sample = sample


IGNORED = {"return_dict", "attention_kwargs", "joint_attention_kwargs"}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], within: float = 0.0) -> list[str]:
    """Names of arguments that differ; `theirs` may also pass None for what is left out."""
    wrong = [name for name, value in theirs.items() if name not in {*ours, *IGNORED} and value is not None]
    for name, value in ours.items():
        mine, form = tree_flatten(value)
        other, other_form = tree_flatten(theirs.get(name))
        if form != other_form or not all(_equal(a, b, within) for a, b in zip(mine, other, strict=True)):
            wrong.append(name)
    return sorted(wrong)


def _equal(ours: Any, theirs: Any, within: float) -> bool:
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        return type(ours) is type(theirs) and ours == theirs
    if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
        return False
    return torch.equal(ours, theirs) or (within > 0 and bool((ours - theirs).abs().max() <= within))


def shapes_of(family: Family, latent: Latent, **modes: str) -> dict[str, tuple[int, ...]]:
    """What `conditions` says."""
    return {condition.name: condition.shape for condition in family.conditions(latent, **modes)}


@contextmanager
def seen_inputs(module: nn.Module, note: Callable[[dict[str, Any]], None]):
    """Calls `note` with the arguments of each call of a module; positional ones are named by their place."""

    def before(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note({str(place): value for place, value in enumerate(args)} | kwargs)

    hook = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
