"""Blocks: the pieces of a network that can be skipped, ranked and frozen, each by its exact name."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, overload

from torch import nn

__all__ = ["Block", "Blocks", "discover_blocks", "outside_parameters", "shortened", "unknown_block"]

Role = Callable[[Mapping[str, Any]], str]
Adapter = Callable[[Mapping[str, Any]], Any]


def always_denoising(arguments: Mapping[str, Any]) -> str:
    """The role of every call in a model without a reference pass."""
    return "denoising"


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A sub-network with the exact dotted name that `model.get_submodule` knows it by."""

    name: str
    module: nn.Module

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.module.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters under their full name in the model."""
        return self.module.named_parameters(prefix=self.name)


class Blocks(Sequence[Block]):
    """Blocks in declared order, which is the order of execution wherever the model declares it so.

    Args:
        blocks: the blocks; names and parameters must not overlap.
        role: returns the pass that a call belongs to, "denoising" or "reference", from the bound arguments of the
            call (by parameter name, defaults filled in, `*args` as "args[0]", ..., `**kwargs` by key).
        adapters: for blocks whose identity can't be found by the probe (they change the shape, or their identity
            is zero): block name -> function of the bound arguments that returns the output of the skipped
            block.

    Raises:
        ValueError: two blocks have one name, are nested, or share a parameter; an adapter names an unknown block.
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        *,
        role: Role = always_denoising,
        adapters: Mapping[str, Adapter] | None = None,
    ) -> None:
        self._blocks = tuple(blocks)
        self._by_name = {block.name: block for block in self._blocks}
        self.role = role
        self.adapters = dict(adapters or {})
        if len(self._by_name) < len(self._blocks):
            names = [block.name for block in self._blocks]
            raise ValueError(f"blocks named twice: {sorted({n for n in names if names.count(n) > 1})}")
        for name in self.adapters:
            if name not in self._by_name:
                raise unknown_block(name, self._by_name)
        _refuse_nested(self._by_name)
        _refuse_shared_parameters(self._blocks)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)

    def __contains__(self, item: object) -> bool:
        return item in self._by_name or any(item is block for block in self._blocks)

    @overload
    def __getitem__(self, key: int | str) -> Block: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Block, ...]: ...
    def __getitem__(self, key: int | str | slice) -> Block | tuple[Block, ...]:
        """A block by exact name or index, or several by slice.

        Raises:
            ValueError: no block has this name.
        """
        if isinstance(key, str):
            if key not in self._by_name:
                raise unknown_block(key, self._by_name)
            return self._by_name[key]
        return self._blocks[key]

    def __repr__(self) -> str:
        return f"Blocks({list(self.names)})"


def discover_blocks(
    model: nn.Module,
    pattern: str | Sequence[str] | None = None,
    *,
    role: Role | None = None,
    adapters: Mapping[str, Adapter] | None = None,
) -> Blocks:
    """Find the blocks of a model; the same model always gives the same blocks in the same order.

    1. The model's own declaration: `entprog_blocks`, a method or attribute that gives names or name -> module
       (and optionally `entprog_role` and `entprog_adapters`, see `Blocks`). A pattern then chooses among the
       declared.
    2. `pattern`: dotted names in which `*` matches exactly one whole component, never a part of one:
       "blocks.*" matches blocks.0, but neither blocks.0.attn nor xblocks.0. Several patterns keep their
       order.
    3. A guess: the outermost module lists with at least two members of one class that has a forward. Lists with less
       than a tenth of the parameters of the largest are treated as side paths (embedders, refiners) and left out.
       An `nn.Sequential` counts as a list where the lists of the model are side paths beside it. Where no list has
       members of one class only, lists of several classes count, without their members of torch's own classes (the
       levels of a U-Net in which blocks and a convolution that halves the sides follow each other).

    Raises:
        ValueError: nothing matches (the message lists the module lists of the model), or blocks overlap.
    """
    declared = _declared(model)
    role = role or _attribute(model, "entprog_role") or always_denoising
    adapters = adapters if adapters is not None else _attribute(model, "entprog_adapters")
    if pattern is not None:
        patterns = [pattern] if isinstance(pattern, str) else list(pattern)
        found = _matching(model, patterns, declared)
    elif declared is not None:
        found = declared
    else:
        found = _guess(model)
    if not found:
        raise ValueError(f"no block found in {type(model).__name__}; {_module_lists(model)}")
    return Blocks(
        (Block(name, module) for name, module in found.items()),
        role=role,
        adapters={name: adapter for name, adapter in (adapters or {}).items() if name in found},
    )


def unknown_block(name: str, known: Iterable[str]) -> ValueError:
    """The error for an unknown block name, with the nearest known name."""
    names = list(known)
    near = get_close_matches(name, names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; the {len(names)} blocks are {shortened(names)}"
    return ValueError(f"no block is named {name!r}{hint}")


def outside_parameters(model: nn.Module, blocks: Blocks) -> dict[str, nn.Parameter]:
    """Parameters of the model that belong to no block, by name."""
    owned = {id(parameter) for block in blocks for parameter in block.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) not in owned}


def _declared(model: nn.Module) -> dict[str, nn.Module] | None:
    """The declaration of the model, or those of its outermost submodules that declare blocks (wrapped models)."""
    declaring = [name for name, module in model.named_modules() if hasattr(module, "entprog_blocks")]
    outermost = [n for n in declaring if not any(n != o and n.startswith(o + "." if o else "") for o in declaring)]
    if not outermost:
        return None
    found: dict[str, nn.Module] = {}
    for prefix in outermost:
        module = model.get_submodule(prefix)
        declaration: Any = module.entprog_blocks
        declaration = declaration() if callable(declaration) else declaration
        children = dict(module.named_modules())
        for name in declaration:
            if name not in children:
                raise ValueError(
                    f"{type(module).__name__}.entprog_blocks declares {name!r}, which is not one of its modules"
                )
            found[f"{prefix}.{name}" if prefix else name] = children[name]
    return found


def _attribute(model: nn.Module, name: str) -> Any:
    """The attribute of the outermost module that has it."""
    return next((getattr(module, name) for module in model.modules() if hasattr(module, name)), None)


def _matching(
    model: nn.Module, patterns: Sequence[str], declared: Mapping[str, nn.Module] | None
) -> dict[str, nn.Module]:
    """Modules by pattern, in the order of the patterns, then of the model."""
    found: dict[str, nn.Module] = {}
    matched_by: dict[str, str] = {}
    modules = declared if declared is not None else dict(model.named_modules())
    for pattern in patterns:
        wanted = pattern.split(".")
        if any("*" in part and part != "*" for part in wanted):
            raise ValueError(f"pattern {pattern!r}: '*' matches one whole component; write 'blocks.*'")
        hits = {name: module for name, module in modules.items() if _matches(name, wanted)}
        if not hits and declared is not None:
            raise ValueError(
                f"pattern {pattern!r} matches none of the blocks that {type(model).__name__} declares: "
                f"{shortened(declared)}"
            )
        if not hits:
            raise ValueError(f"pattern {pattern!r} matches no module; {_module_lists(model, pattern)}")
        for name, module in hits.items():
            if isinstance(module, nn.ModuleList | nn.ModuleDict):
                raise ValueError(f"pattern {pattern!r} matches the list {name!r} itself; write {name + '.*'!r}")
            if name in found:
                raise ValueError(f"block {name!r} is matched twice: by {matched_by[name]!r} and by {pattern!r}")
            found[name], matched_by[name] = module, pattern
    return found


def _matches(name: str, wanted: Sequence[str]) -> bool:
    parts = name.split(".")
    return len(parts) == len(wanted) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=True))


def _guess(model: nn.Module) -> dict[str, nn.Module]:
    lists, sequences = _stacks(model, nn.ModuleList), _stacks(model, nn.Sequential)
    if _largest(lists) * 10 < _largest(sequences):
        lists = sequences
    if not lists:
        lists = _stacks(model, nn.ModuleList, of_one_class=False)
    largest = _largest(lists)
    return {
        f"{name}.{i}" if name else str(i): member
        for name, stack in lists.items()
        for i, member in stack.items()
        if largest and _total(stack) * 10 >= largest
    }


def _stacks(
    model: nn.Module, kind: type[nn.ModuleList] | type[nn.Sequential], *, of_one_class: bool = True
) -> dict[str, dict[str, nn.Module]]:
    """The outermost lists of this kind with at least two members that have a forward; by name, members by index."""
    stacks: dict[str, dict[str, nn.Module]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, kind) or _inside(name, stacks):
            continue
        members = {i: member for i, member in module.named_children() if of_one_class or not _of_torch(member)}
        uniform = not of_one_class or len({type(member) for member in members.values()}) == 1
        if uniform and len(members) >= 2 and all(map(_has_forward, members.values())):
            stacks[name] = members
    return stacks


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _has_forward(module: nn.Module) -> bool:
    return getattr(module.forward, "__func__", None) is not nn.Module.forward


def _inside(name: str, outer: Iterable[str]) -> bool:
    return any(name.startswith(each + "." if each else "") for each in outer)


def _largest(stacks: Mapping[str, Mapping[str, nn.Module]]) -> int:
    return max(map(_total, stacks.values()), default=0)


def _total(stack: Mapping[str, nn.Module]) -> int:
    return sum(map(_count, stack.values()))


def _module_lists(model: nn.Module, pattern: str = "") -> str:
    lists: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential) and len(module) > 1 and not _inside(name, lists):
            lists[name] = module
    if not lists:
        return "the model has no module list: name its blocks one by one, or declare entprog_blocks() on it"
    rows = [
        f"  {name + '.' if name else ''}*: {len(module)} x {'/'.join(sorted({type(m).__name__ for m in module}))}, "
        f"{_count(module):,} parameters"
        for name, module in lists.items()
    ]
    near = get_close_matches(pattern, [f"{name}.*" for name in lists], 1, cutoff=0.3)
    hint = f"\ndid you mean {near[0]!r}?" if near else ""
    return "name its blocks (blocks=); its module lists are\n" + "\n".join(rows) + hint


def _refuse_nested(names: Iterable[str]) -> None:
    known = set(names)
    for name in known:
        parts = name.split(".")
        for i in range(1, len(parts)):
            outer = ".".join(parts[:i])
            if outer in known:
                raise ValueError(f"block {name!r} is inside block {outer!r}; choose one of the two")


def _refuse_shared_parameters(blocks: Sequence[Block]) -> None:
    owner: dict[int, tuple[str, str]] = {}
    for block in blocks:
        for name, parameter in block.named_parameters():
            other, first = owner.setdefault(id(parameter), (block.name, name))
            if other != block.name:
                raise ValueError(
                    f"blocks {other!r} and {block.name!r} share a parameter ({first} is {name}): neither can "
                    "be frozen alone; make one block of them or leave both out"
                )


def _count(module: nn.Module) -> int:
    return sum(math.prod(p.shape) for p in module.parameters())


def shortened(names: Iterable[str], most: int = 12) -> str:
    """Names for a message: the first `most` of them, and the total count."""
    listed = list(names)
    more = f", ... ({len(listed)} in all)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
