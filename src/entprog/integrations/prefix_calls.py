"""One call of the model with some blocks answered, and what the outputs of frozen blocks depend on."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from entprog.core.blocks import Blocks
from entprog.core.skip import PLAIN

__all__ = ["Kept", "Pass", "State", "in_backward", "nbytes", "random_state"]

SMALL = 2**20
"""Bytes of a buffer up to which its values are compared: DistributedDataParallel writes all before each forward."""
ANOTHER_ORDER = (
    "prefix_cache: the model calls its blocks in another order than at attach (layers that are left out at random, or "
    "with other inputs); leave prefix_cache out"
)


@dataclass
class Pass:
    """One call of the model: blocks below `entrance` are answered, outputs of those from there to `end` are noted.

    Attributes:
        answers: for each block below, what it returns; tensors of all but the last are `_Form`s.
        reached: called when the block below `end` has ended, `complete` when the model has.
        broken: whether blocks were not called once each and in order.
    """

    entrance: int
    end: int
    answers: list[Any]
    total: int
    reached: Callable[["Pass"], None] = lambda done: None
    complete: Callable[["Pass"], None] = lambda done: None
    count: int = 0
    broken: bool = False

    def call(self, place: int, run: Callable[[], Any]) -> Any:
        """The output of the block at `place`."""
        self.broken |= place != self.count
        self.count += 1
        if place < self.entrance:
            if self.broken:
                raise ValueError(ANOTHER_ORDER)
            return tree_map(_answered, self.answers[place])
        output = run()
        if place < self.end and not self.broken:
            if self.answers:
                self.answers[-1] = tree_map(_form, self.answers[-1])
            self.answers.append(tree_map(_form if place + 1 < self.end else _copied, output))
            if place + 1 == self.end:
                self.reached(self)
        return output

    def ended(self) -> None:
        """The model has returned."""
        self.broken |= self.count != self.total
        if self.broken and self.entrance:
            raise ValueError(ANOTHER_ORDER)
        if len(self.answers) == self.end:
            self.complete(self)


@dataclass(frozen=True)
class _Form:
    """A tensor whose values are not needed."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def _form(leaf: Any) -> Any:
    return _Form(leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _answered(leaf: Any) -> Any:
    """What a block returns that is not run; the model may write into it."""
    if isinstance(leaf, _Form):
        floating = leaf.dtype.is_floating_point or leaf.dtype.is_complex
        return torch.full(leaf.shape, torch.nan if floating else 0, dtype=leaf.dtype, device=leaf.device)
    return _copied(leaf)


def nbytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


@dataclass(frozen=True)
class Kept:
    """A call of the model: the leaves of its arguments, and what the blocks below the lowest active one return."""

    given: list[Any]
    answers: list[Any]

    def fits(self, leaves: list[Any]) -> bool:
        """Whether these are the arguments of that call; objects of unknown types are compared by type."""
        return len(leaves) == len(self.given) and all(map(same, leaves, self.given))


def same(new: Any, old: Any) -> bool:
    if isinstance(new, Tensor) and isinstance(old, Tensor):
        return (new.dtype, new.device, new.shape) == (old.dtype, old.device, old.shape) and torch.equal(new, old)
    return type(new) is type(old) and (new == old if isinstance(new, PLAIN) else True)


@dataclass
class State:
    """What the output of the frozen blocks depends on, besides the model's arguments."""

    entrance: int
    marks: list[Any]
    buffers: list[tuple[Tensor, tuple[int, int], Tensor | None]]

    @classmethod
    def of(cls, model: nn.Module, blocks: Blocks, entrance: int) -> "State":
        marks, buffers = cls._seen(model, blocks, entrance)
        return cls(entrance, marks, [(b, _mark(b), b.clone() if b.nbytes <= SMALL else None) for b in buffers])

    def holds(self, model: nn.Module, blocks: Blocks, entrance: int) -> bool:
        """Whether all is as it was; small buffers that were written or replaced may have the same values."""
        if entrance != self.entrance:
            return False
        marks, buffers = self._seen(model, blocks, entrance)
        if marks != self.marks or len(buffers) != len(self.buffers):
            return False
        for place, (new, (old, mark, values)) in enumerate(zip(buffers, self.buffers, strict=True)):
            if new is old and mark == _mark(new):
                continue
            if values is None or not same(new, values):
                return False
            self.buffers[place] = new, _mark(new), values
        return True

    @staticmethod
    def _seen(model: nn.Module, blocks: Blocks, entrance: int) -> tuple[list[Any], list[Tensor]]:
        """Marks of modes, frozen parameters and autocast, and the buffers, of all but the blocks from `entrance` on."""
        kind = next(model.parameters()).device.type
        marks: list[Any] = [torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)]
        buffers: list[Tensor] = []
        above = {block.module for block in list(blocks)[entrance:]}
        modules = [model]
        while modules:
            module = modules.pop()
            if module in above:
                continue
            marks.append(module.training)
            marks += [(id(p), *_mark(p)) for p in module._parameters.values() if p is not None and not p.requires_grad]
            buffers += [b for b in module._buffers.values() if b is not None]
            modules += [m for m in module._modules.values() if m is not None]
        return marks, buffers


def _mark(tensor: Tensor) -> tuple[int, int]:
    """Changes when a tensor is written or replaced; tensors of other classes may have no memory of their own."""
    version = 0 if tensor.is_inference() else tensor._version
    return version, tensor.data_ptr() if type(tensor) in (Tensor, nn.Parameter) else 0


def random_state(device: torch.device) -> tuple[Any, ...]:
    """State of the generators that a model may draw from, comparable by `==`."""
    own = torch.empty(0)
    if device.type not in ("cpu", "meta"):
        module = torch.get_device_module(device)
        own = module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)
    _, keys, *others = np.random.get_state()
    states = torch.get_rng_state().numpy().tobytes(), own.cpu().numpy().tobytes()
    return *states, random.getstate(), np.asarray(keys).tobytes(), *others


def in_backward() -> bool:
    """Checkpointing calls blocks again inside the backward."""
    return bool(torch._C._current_graph_task_id() != -1)
