"""What one training step does, op by op: bytes that come and go, and operations, unit by unit of the network."""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from entprog.plan.low_rank import adapter_parameters
from entprog.profiling.operations import operation_flops
from entprog.savings.frozen_storage import original


@dataclass(frozen=True, slots=True)
class Operation:
    """A kind of operation with the shapes it ran on; equal ones cost the same.

    `arguments` hold what it takes to run it again on tensors of these shapes: for each tensor its shape, strides
    and type. `flops` counts matrix products and attention, `bytes` what it reads and writes.
    """

    name: str
    arguments: tuple[Any, ...]
    flops: int
    bytes: int
    dtype: torch.dtype
    is_view: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Bytes that appear (positive) or go, of a category; `unit` is where their storage was born, None outside."""

    delta: int
    category: str
    unit: int | None
    storage: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment that sharding acts on; changes no bytes by itself.

    Attributes:
        kind: "enter" and "leave" of a call in the forward pass; "back", when its output's gradient is there; "grown",
            when a parameter's is.
        unit: of the network; None for the network itself, and for what lies outside of its blocks.
        block: place of the block in the unit.
        shape, size: of a parameter that has its gradient: bytes of a value are `size`.
        adapter: whether that parameter is an adapter's.
        returns: of "enter": whether the call will give a gradient to its inputs.
        call: of "back": which call of the block it belongs to, from 1.
    """

    kind: str
    unit: int | None
    block: int = 0
    shape: tuple[int, ...] = ()
    size: int = 0
    adapter: bool = False
    returns: bool = False
    call: int = 0


@dataclass(slots=True)
class Chunk:
    """What happened between two marks: inside a unit of the network, or outside all of them (None)."""

    unit: int | None
    backward: bool
    events: list[Event | Mark] = field(default_factory=list)
    operations: Counter[Operation] = field(default_factory=Counter)


class Recorder(TorchDispatchMode):
    """Records while it is entered; works on real tensors and under FakeTensorMode alike.

    Args:
        model: its parameters are there all the time and are no events; their gradients are.
        units: for each unit the modules that belong to it; a unit is what may repeat along the depth.
        in_backward: whether each gradient is used and freed as soon as it is there.
    """

    def __init__(self, model: nn.Module, units: Iterable[Iterable[nn.Module]], *, in_backward: bool = False) -> None:
        super().__init__()
        self.in_backward = in_backward
        self.model = model
        self.units = [list(modules) for modules in units]
        self.chunks = [Chunk(None, False)]
        self.backward = False
        self._live: dict[int, tuple[int, str, int | None, int, Any]] = {}
        self._static = {p.untyped_storage()._cdata for p in model.parameters()}
        # Weights that frozen storage has taken aside are no part of what a device holds.
        self._static |= {original(p).untyped_storage()._cdata for p in model.parameters()}
        self._static |= {b.untyped_storage()._cdata for b in model.buffers()}
        self._adapters = set(map(id, adapter_parameters(model)))
        self._born = 0
        self._described: dict[Any, Operation] = {}
        self._hooks: list[Any] = []
        self._calls: Counter[tuple[int | None, int]] = Counter()
        self._owner: dict[int, tuple[int | None, int]] = {
            id(p): (place, i)
            for place, modules in enumerate(self.units)
            for i, module in enumerate(modules)
            for p in module.parameters()
        }

    def __enter__(self) -> "Recorder":
        calls: list[tuple[int | None, int, nn.Module]] = [(None, 0, self.model)]
        calls += [(place, i, module) for place, modules in enumerate(self.units) for i, module in enumerate(modules)]
        for place, i, module in calls:
            enter, leave = partial(self._entered, place, i), partial(self._left, place, i)
            self._hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            self._hooks.append(module.register_forward_hook(leave))
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._relabel))
                if parameter.grad is not None:
                    self._static.add(parameter.grad.untyped_storage()._cdata)
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def begin_backward(self) -> None:
        """Say that the backward pass comes next: modules that run from now on only recompute."""
        self.backward = True
        self._mark(None)

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        chunk = self.chunks[-1]
        chunk.operations[self._operation(func, args, kwargs, out)] += 1
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return out

    def _operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Operation:
        arguments = (_described(args), tuple((name, _described(value)) for name, value in kwargs.items()))
        key = (func, arguments)
        if key not in self._described:
            packet = func._overloadpacket
            flops = operation_flops(packet, args, kwargs, out)
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            view = bool(func.is_view) or packet.__name__ in ("_unsafe_view", "_reshape_alias")
            moved = 0 if view else sum(_touched(tensor) for tensor in tensors)
            floats = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
            dtype = floats[0] if floats else torch.float32
            self._described[key] = Operation(str(func), arguments, flops, moved, dtype, view)
        return self._described[key]

    def _entered(
        self, place: int | None, block: int, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        if self.backward:
            return
        if place is not None:
            self._mark(place)
        inputs = (each for each in tree_leaves((args, named)) if isinstance(each, Tensor))
        returns = torch.is_grad_enabled() and any(each.requires_grad for each in inputs)
        self.chunks[-1].events.append(Mark("enter", place, block, returns=returns))

    def _left(self, place: int | None, block: int, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.backward:
            return
        self._calls[place, block] += 1
        call = self._calls[place, block]
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf.register_hook(partial(self._gradient_came, place, block, call))
        self.chunks[-1].events.append(Mark("leave", place, block))
        if place is not None:
            self._mark(None)

    def _gradient_came(self, place: int | None, block: int, call: int, gradient: Tensor) -> None:
        if place is not None:
            self._mark(place)
        self.chunks[-1].events.append(Mark("back", place, block, call=call))

    def _mark(self, place: int | None) -> None:
        if self.chunks[-1].unit != place or self.chunks[-1].backward != self.backward:
            self.chunks.append(Chunk(place, self.backward))

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live or key in self._static:
            return
        size, unit = storage.nbytes(), self.chunks[-1].unit
        self._born += 1
        self._live[key] = (size, "activations", unit, self._born, weakref.ref(storage, partial(self._free, key)))
        self.chunks[-1].events.append(Event(size, "activations", unit, self._born))

    def _free(self, key: int, gone: Any = None) -> None:
        size, category, unit, number, _ = self._live.pop(key)
        self.chunks[-1].events.append(Event(-size, category, unit, number))

    def _relabel(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        place, block = self._owner.get(id(parameter), (None, 0))
        shape, size, adapter = tuple(parameter.shape), parameter.grad.element_size(), id(parameter) in self._adapters
        self.chunks[-1].events.append(Mark("grown", place, block, shape, size, adapter))
        key = parameter.grad.untyped_storage()._cdata
        entry = self._live.get(key)
        if entry is not None and entry[1] == "activations":
            size, _, unit, number, reference = entry
            self._live[key] = (size, "gradients", unit, number, reference)
            events = self.chunks[-1].events
            events += [Event(-size, "activations", unit, -number), Event(size, "gradients", unit, -number)]
        if self.in_backward:
            parameter.grad = None


def _touched(tensor: Tensor) -> int:
    """Bytes of a tensor that an operation reads or writes: what is expanded is there once."""
    count = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= length if stride else 1
    return count * tensor.element_size()


def _described(value: Any) -> Any:
    """Tensors by shape, strides and type; all else as it is, in tuples."""
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), tuple(value.stride()), value.dtype)
    if isinstance(value, list | tuple):
        return ("list", *(_described(item) for item in value))
    return value
