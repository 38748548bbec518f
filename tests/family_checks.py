"""What every family of pretrained networks must do, on a tiny pipeline: captured calls, conditions, skipping."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from entprog.core.blocks import Blocks, discover_blocks
from entprog.core.skip import Skipper
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.families.base import Family, Latent
from entprog.tasks.pretrained.folder import read_configs
from tiny_pipelines import saved


@dataclass
class Loaded:
    """A tiny pipeline on disk, with its family and its network."""

    folder: Path
    family: Family
    network: nn.Module

    @classmethod
    def of(cls, variant: str) -> "Loaded":
        configs = read_configs(saved(variant))
        kind = getattr(diffusers, configs.network["_class_name"])
        network = kind.from_pretrained(saved(variant) / configs.component, low_cpu_mem_usage=False).eval()
        return cls(saved(variant), family_of(configs), network)

    def blocks(self) -> Blocks:
        names = self.family.block_names(self.network) or list(self.family.patterns)
        adapters = getattr(self.family, "skip_adapters", lambda network: {})(self.network)
        return discover_blocks(self.network, names or None, adapters=adapters)

    def predict(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        given = self.family.inputs(x, time, condition)
        return self.family.output(self.network(**given, return_dict=False)[0], x)

    def pipeline(self, **parts: Any) -> Any:
        index = self.family.configs.index["_class_name"]
        found = getattr(diffusers, index).from_pretrained(self.folder, low_cpu_mem_usage=False, **parts)
        found.set_progress_bar_config(disable=True)
        return found


@dataclass
class Captured:
    """The calls of a network: its arguments by name."""

    calls: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def captured(network: nn.Module) -> Iterator[Captured]:
    """Note the arguments of each call of the network."""
    import inspect

    found, signature = Captured(), inspect.signature(type(network).forward)

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        bound = dict(signature.bind(module, *args, **kwargs).arguments)
        bound.pop("self")
        found.calls.append({name: copied(value) for name, value in bound.items()})

    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


@torch.no_grad()
def conditions_of(family: Family, pipeline: Any, prompts: Sequence[str], latent: Latent, **settings: str) -> Any:
    """The conditions of samples with these prompts, by the pipeline's text encoders."""
    texts = family.padded([family.encode_text(pipeline, prompt) for prompt in prompts])
    return family.condition({}, texts, latent, **settings)


def copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def assert_same_call(call: Mapping[str, Any], given: Mapping[str, Any], batch: int, *, guided: bool = False) -> None:
    """What a pipeline fed its network is what the family gives: every tensor equal, nothing besides.

    Arguments that are None or empty in the pipeline's call count as absent. A time without batch axis counts for each
    sample. With `guided`, the conditional half of the pipeline's batch is compared.
    """
    theirs = {name: value for name, value in call.items() if filled(value) and name != "return_dict"}
    ours = {name: value for name, value in given.items() if filled(value)}
    assert theirs.keys() == ours.keys(), (sorted(theirs), sorted(ours))
    for name, value in theirs.items():
        assert_equal(name, value, ours[name], batch, guided)


def filled(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(filled(entry) for entry in value.values())
    return value is not None


def assert_equal(name: str, theirs: Any, ours: Any, batch: int, guided: bool) -> None:
    if isinstance(theirs, Mapping):
        for key in theirs:
            assert_equal(f"{name}.{key}", theirs[key], ours[key], batch, guided)
        return
    if not isinstance(theirs, Tensor):
        assert theirs == ours, name
        return
    if theirs.dim() == 0:
        theirs = theirs.expand(batch)
    elif guided and len(theirs) == 2 * len(ours):
        theirs = theirs[len(ours) :]
    assert theirs.shape == ours.shape, (name, theirs.shape, ours.shape)
    apart = float((theirs.double() - ours.double()).abs().max())
    assert apart == 0, f"{name}: {apart}"


def assert_conditions(family: Family, found: Mapping[str, Tensor], latent: Latent, **settings: str) -> None:
    """`condition` returns what `conditions` announces, each with its shape."""
    said = {c.name: c for c in family.conditions(latent, **settings)}
    assert found.keys() == said.keys(), (sorted(found), sorted(said))
    for name, tensor in found.items():
        assert tuple(tensor.shape[1:]) == said[name].shape, name
        assert said[name].integer == (not tensor.is_floating_point()), name


def assert_recovers(family: Family, latent: Latent) -> None:
    """The objective of the folder adds noise and takes it back."""
    objective = family.objective(tokens=int(torch.tensor(family.tokens(latent)).prod()))
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(5, *latent.shape, generator=generator) for _ in range(2))
    tau = torch.tensor([0.05, 0.2, 0.5, 0.7, 0.8])
    x, target = objective.add(clean, noise, tau), objective.target(clean, noise, tau)
    apart = (objective.x0(target, x, tau) - clean).abs().amax((1, 2, 3, 4))
    assert float(apart.max()) <= 1e-5, apart


def assert_skips(loaded: Loaded, run: Callable[[], Tensor], *, shared: str = "") -> None:
    """Blocks run in their declared order, and a skipped one does what the model without it would do.

    Args:
        shared: part of the names of block parameters that are used outside their block, too.
    """
    blocks = loaded.blocks()
    with torch.no_grad(), Skipper(blocks) as skipper:
        whole = run()
        assert [name for name, _ in skipper.order] == list(blocks.names)
        for block in blocks:
            with skipper.skip(block.name):
                skipped = run()
            with removed(block.module, skipper.blocks.adapters.get(block.name), shared):
                assert torch.equal(skipped, run()), block.name
            assert not torch.equal(skipped, whole), block.name


@contextmanager
def removed(module: nn.Module, adapter: Callable[[Mapping[str, Any]], Any] | None, shared: str) -> Iterator[None]:
    """A block without its branches: parameters zero, but those of a shortcut that its adapter runs, and `shared`."""
    shortcut = getattr(getattr(module, "spatial_res_block", module), "conv_shortcut", None) if adapter else None
    spared = {id(p) for p in shortcut.parameters()} if shortcut is not None else set()
    spared |= {id(p) for name, p in module.named_parameters() if shared and shared in name}
    kept = {p: p.detach().clone() for p in module.parameters() if id(p) not in spared}
    with torch.no_grad():
        for parameter in kept:
            parameter.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in kept.items():
                parameter.copy_(value)
