"""What a block returns when its residual branches add nothing, found by the zero-parameter probe."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import TreeSpec, keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

__all__ = ["Identity", "bind", "find_identity"]

REMEDY = (
    'use a score that skips nothing ("gradient"), name other blocks%s, or give an adapter: '
    "discover_blocks(..., adapters={%r: function of the bound arguments -> output})"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """For each output of a block the input that it equals, as an index among the leaves of the bound arguments.

    `sources` has one index for each output leaf, None for an output that is None; `dtypes` the output's
    types, which differ from the input's under autocast.
    """

    structure: TreeSpec
    sources: tuple[int | None, ...]
    dtypes: tuple[torch.dtype | None, ...]

    def apply(self, arguments: Mapping[str, Any]) -> Any:
        """The output of the block with its residual branches taken out, without computing the block."""
        leaves, _ = tree_flatten(dict(arguments))
        outputs = [
            None if source is None else leaves[source].to(dtype)
            for source, dtype in zip(self.sources, self.dtypes, strict=True)
        ]
        return tree_unflatten(outputs, self.structure)


def bind(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults filled in, `*args` as "args[0]", ... and `**kwargs` by key."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            arguments.update({f"{name}[{i}]": item for i, item in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(value)
        else:
            arguments[name] = value
    return arguments


def find_identity(
    name: str,
    module: nn.Module,
    forward: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Identity:
    """Call a block with every parameter zero and map each output to the input that it equals.

    A residual block then passes its inputs through exactly, whatever their order and however they are passed.
    The probe runs once more with its candidate inputs perturbed, which rules out outputs that equal an input by
    chance (both zero, one tensor passed twice). Deterministic; parameters, buffers and the random state do not
    change.

    Args:
        name: the block's name, for messages.
        forward: the block's own forward (the one on `module` may be swapped).

    Raises:
        ValueError: an output equals none of the inputs, or several that can't be distinguished.
    """
    probed = _Probed(module, forward)
    signature = inspect.signature(forward)
    leaves, structure = tree_flatten((tuple(args), dict(kwargs)))
    outputs, form = probed(leaves, structure)
    candidates = [_equal_to(output, leaves) for output in outputs]
    perturbed = _perturb(leaves, {place for places in candidates for place in places})
    outputs_again, _ = probed(perturbed, structure)
    # Leaves are counted in (args, kwargs) so far; the identity counts them in the bound arguments.
    marks = [object() for _ in leaves]
    bound = tree_flatten_with_path(bind(signature, *tree_unflatten(marks, structure)))[0]
    place_of = {id(mark): place for place, (_, mark) in enumerate(bound)}
    name_of = {id(mark): keystr(path[:1])[2:-2] + keystr(path[1:]) for path, mark in bound}
    paths = [name_of[id(mark)] for mark in marks]
    sources: list[int | None] = []
    for i, (output, again) in enumerate(zip(outputs, outputs_again, strict=True)):
        if output is None:
            sources.append(None)
            continue
        following = [place for place in candidates[i] if _same(again, perturbed[place])]
        if len(following) != 1:
            raise ValueError(_no_identity(name, module, i, output, leaves, paths, following))
        sources.append(place_of[id(marks[following[0]])])
    dtypes = tuple(output.dtype if isinstance(output, Tensor) else None for output in outputs)
    return Identity(form, tuple(sources), dtypes)


class _Bare(nn.Module):
    """Disable the block's own hooks during a probe."""

    def __init__(self, block: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.block = block
        self.call = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)


class _Probed:
    """The block as a function of its inputs' leaves, all parameters zero."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self.bare = _Bare(module, forward)

    def __call__(self, leaves: list[Any], structure: TreeSpec) -> tuple[list[Any], TreeSpec]:
        copies = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(copies, structure)
        state: dict[str, Tensor] = {n: _zeros(p) for n, p in self.bare.named_parameters()}
        state.update({n: b.clone() for n, b in self.bare.named_buffers()})
        devices = {v.device for v in state.values() if v.device.type == "cuda"}
        with torch.random.fork_rng(devices=sorted(devices, key=str)), torch.no_grad():
            output = functional_call(self.bare, state, args, kwargs)
        return tree_flatten(output)


def _zeros(parameter: Tensor) -> Tensor:
    """As the block sees it when it runs: a plain tensor, where it is a sharded one (DTensor) or a quantized one."""
    if type(parameter) not in (Tensor, nn.Parameter):
        return torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    return torch.zeros_like(parameter)


def _equal_to(output: Any, leaves: Sequence[Any]) -> list[int]:
    if output is None:
        return []
    return [place for place, leaf in enumerate(leaves) if _same(output, leaf)]


def _same(output: Any, leaf: Any) -> bool:
    if not isinstance(output, Tensor) or not isinstance(leaf, Tensor):
        return False
    if output.shape != leaf.shape or output.device != leaf.device:
        return False
    return torch.equal(output, leaf.to(output.dtype))


def _perturb(leaves: Sequence[Any], places: set[int]) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    changed = list(leaves)
    for place in sorted(places):
        leaf = leaves[place]
        if leaf.is_floating_point():
            noise = torch.randn(leaf.shape, generator=generator).to(leaf.device, leaf.dtype)
            changed[place] = leaf.detach() + noise
    return changed


def _no_identity(
    name: str,
    module: nn.Module,
    place: int,
    output: Any,
    leaves: Sequence[Any],
    paths: Sequence[str],
    following: Sequence[int],
) -> str:
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    seen = ", ".join(
        f"{path} {tuple(leaf.shape)}" for path, leaf in zip(paths, leaves, strict=True) if isinstance(leaf, Tensor)
    )
    start = f"block {name!r} ({type(module).__name__}) can't be skipped: output {place}, {shape}, "
    if any(isinstance(leaf, Tensor) and bool(leaf.isnan().any()) for leaf in leaves):
        return f"{start}its inputs hold NaN: the model's weights or its own inputs are not finite"
    if following:
        start += f"follows several inputs that can't be distinguished: {[paths[i] for i in following]}"
    else:
        start += f"equals none of its tensor inputs with all parameters zero ({seen})"
    return f"{start}; {REMEDY % (_blocks_inside(name, module), name)}"


def _blocks_inside(name: str, module: nn.Module) -> str:
    """The largest list inside a block that can't be skipped, as a pattern for `blocks=`."""
    lists = {
        path: sum(p.numel() for p in part.parameters())
        for path, part in module.named_modules(prefix=name)
        if isinstance(part, nn.ModuleList | nn.Sequential) and len(part) and path != name
    }
    if not lists:
        return ""
    parts = max(lists, key=lambda path: lists[path]).split(".")
    return f" (blocks={'.'.join('*' if part.isdigit() else part for part in [*parts, '0'])!r})"
