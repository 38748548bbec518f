"""Run a model without some of its blocks, and reuse the outputs of an earlier run where inputs are unchanged."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from entprog.core.blocks import Block, Blocks, unknown_block
from entprog.core.identity import Identity, bind, find_identity
from entprog.core.swap import swapped_forward

__all__ = ["ROLES", "Call", "Skipper"]

ROLES = ("denoising", "reference")

# Values of these types are compared by equality; any other object may hide state that has changed.
PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True, slots=True)
class Call:
    """One recorded call of a block; `Skipper.identity` computes what the block would have returned if skipped.

    `autocast` is the device type and dtype of autocast during the call, if it was on.
    """

    role: str
    arguments: Mapping[str, Any]
    output: Any
    leaves: tuple[Any, ...]
    structure: TreeSpec
    versions: tuple[int, ...]
    autocast: tuple[str, torch.dtype] | None = None

    @classmethod
    def of(cls, role: str, arguments: Mapping[str, Any], inputs: tuple[Any, Any], output: Any) -> "Call":
        leaves, structure = tree_flatten(inputs)
        versions = _versions([*leaves, *tree_leaves(output)])
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}
        cast = [(kind, torch.get_autocast_dtype(kind)) for kind in devices if torch.is_autocast_enabled(kind)]
        return cls(role, arguments, output, tuple(leaves), structure, versions, cast[0] if cast else None)

    def precision(self) -> AbstractContextManager[Any]:
        """The autocast in which the call was made."""
        return torch.autocast(self.autocast[0], self.autocast[1]) if self.autocast else nullcontext()

    def answers(self, inputs: tuple[Any, Any]) -> bool:
        """Whether `inputs` equal those of this call bit for bit, and no recorded tensor was modified since."""
        leaves, structure = tree_flatten(inputs)
        return (
            structure == self.structure
            and self.versions == _versions([*self.leaves, *tree_leaves(self.output)])
            and all(_equal(new, old) for new, old in zip(leaves, self.leaves, strict=True))
        )


class Skipper:
    """A context in which blocks can be skipped, and their calls recorded and replayed.

    A skipped block passes its inputs on as it would if all its parameters were zero (see `find_identity`), or
    returns the output of its adapter in `blocks.adapters`. The forwards of the blocks are swapped inside the
    context and restored at its end. Skipping also works inside `torch.utils.checkpoint`: keep the backward
    inside the `skip` context, or the recomputation does not skip.

    `record` and `replay` each hold one forward, without gradient. In a replay, a call whose inputs equal those
    of the recorded call (same block, same call number) bit for bit returns the recorded output; any other call
    runs. So the output is identical to that of a plain run, but blocks before a skipped block cost nothing.
    State in attributes of a block, and randomness inside blocks, are not noticed: use the evaluation mode.

    Attributes:
        executed, skipped, replayed: number of calls of each block; recomputation in a backward pass is not
            counted.
        order: (block name, role) in the order of their first call.
        calls: recorded calls, by block name.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self.executed = dict.fromkeys(blocks.names, 0)
        self.skipped = dict.fromkeys(blocks.names, 0)
        self.replayed = dict.fromkeys(blocks.names, 0)
        self.order: list[tuple[str, str]] = []
        self._seen: set[tuple[str, str]] = set()
        self.calls: dict[str, list[Call]] = {}
        self._identities: dict[tuple[str, str], list[tuple[TreeSpec, tuple[bool, ...], Identity]]] = {}
        self._originals: dict[str, Callable[..., Any]] = {}
        self._skipping: dict[str, frozenset[str]] = {}
        self._mode = "run"
        self._place: dict[str, int] = {}
        self._stack: ExitStack | None = None

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise ValueError("this Skipper is already active; make a second one")
        with ExitStack() as stack:
            for block in self.blocks:
                stack.enter_context(swapped_forward(block.module, self._switch(block)))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        self.calls = {}
        if stack is not None:
            stack.close()

    @property
    def roles(self) -> set[str]:
        """The roles of the calls so far."""
        return {role for _, role in self.order}

    @property
    def uncalled(self) -> tuple[str, ...]:
        """Names of the blocks that no forward has called so far."""
        called = {name for name, _ in self.order}
        return tuple(name for name in self.blocks.names if name not in called)

    @contextmanager
    def skip(self, names: str | Iterable[str], roles: Sequence[str] = ROLES) -> Iterator[None]:
        """Skip the calls of the named blocks whose role is among `roles`.

        Raises:
            ValueError: an unknown block or role; at the call, a block that can't be skipped.
        """
        chosen = (names,) if isinstance(names, str) else tuple(names)
        for name in chosen:
            if name not in self.executed:
                raise unknown_block(name, self.executed)
        for role in roles:
            if role not in ROLES:
                raise ValueError(f"role {role!r}: choose from {', '.join(ROLES)}")
        before = self._skipping
        self._skipping = before | {name: before.get(name, frozenset()) | frozenset(roles) for name in chosen}
        try:
            yield
        finally:
            self._skipping = before

    @contextmanager
    def record(self) -> Iterator[None]:
        """Keep the inputs and outputs of every block call of one forward, in place of any earlier record."""
        self.calls = {name: [] for name in self.executed}
        with self._one_forward("record"):
            yield

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Answer the block calls of one forward from the record where their inputs are unchanged."""
        if not self.calls:
            raise ValueError("replay() without a record: run the forward once inside record() first")
        with self._one_forward("replay"):
            yield

    def identity(self, name: str, call: Call) -> Any:
        """What block `name` would have returned in a recorded call if it had been skipped."""
        args, kwargs = tree_unflatten(list(call.leaves), call.structure)
        with call.precision():
            return self._passed_on(self.blocks[name], call.role, call.arguments, args, kwargs)

    @contextmanager
    def _one_forward(self, mode: str) -> Iterator[None]:
        if torch.is_grad_enabled():
            raise ValueError(f"{mode}() keeps no graph: use it under torch.no_grad()")
        if self._stack is None or self._mode != "run":
            raise ValueError(f"{mode}() belongs inside `with Skipper(blocks)`, and not inside {self._mode}()")
        self._mode, self._place = mode, dict.fromkeys(self.executed, 0)
        try:
            yield
        finally:
            self._mode = "run"

    def _switch(self, block: Block) -> Any:
        """The forward that replaces that of `block`."""
        name = block.name
        original = self._originals[name] = block.module.forward
        signature = inspect.signature(original)

        @wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            # Checkpointing calls blocks again inside the backward: same decision, not counted.
            first = torch._C._current_graph_task_id() == -1
            arguments = bind(signature, args, kwargs)
            role = self.blocks.role(arguments)
            if first:
                self._note(name, role)
            place = self._place.get(name, 0)
            self._place[name] = place + 1
            if role in self._skipping.get(name, ()):
                self.skipped[name] += first
                return self._passed_on(block, role, arguments, args, kwargs)
            if self._mode == "replay" and place < len(self.calls[name]):
                call = self.calls[name][place]
                if call.answers((args, kwargs)):
                    self.replayed[name] += 1
                    return call.output
            self.executed[name] += first
            output = original(*args, **kwargs)
            if self._mode == "record":
                self.calls[name].append(Call.of(role, arguments, (args, kwargs), output))
            return output

        return forward

    def _passed_on(
        self,
        block: Block,
        role: str,
        arguments: Mapping[str, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if block.name in self.blocks.adapters:
            return self.blocks.adapters[block.name](arguments)
        leaves, structure = tree_flatten(arguments)
        tensors = tuple(isinstance(leaf, Tensor) for leaf in leaves)
        known = self._identities.setdefault((block.name, role), [])
        for other_structure, other_tensors, identity in known:
            if other_structure == structure and other_tensors == tensors:
                return identity.apply(arguments)
        identity = find_identity(block.name, block.module, self._originals[block.name], args, kwargs)
        known.append((structure, tensors, identity))
        return identity.apply(arguments)

    def _note(self, name: str, role: str) -> None:
        if (name, role) in self._seen:
            return
        if role not in ROLES:
            raise ValueError(f"blocks.role gave {role!r} for block {name!r}: choose from {', '.join(ROLES)}")
        self._seen.add((name, role))
        self.order.append((name, role))


def _versions(leaves: Iterable[Any]) -> tuple[int, ...]:
    """How often each tensor was modified in place; inference tensors have no version and can't be modified."""
    return tuple(leaf._version for leaf in leaves if isinstance(leaf, Tensor) and not leaf.is_inference())


def _equal(new: Any, old: Any) -> bool:
    if isinstance(new, Tensor) and isinstance(old, Tensor):
        return new is old or (
            (new.dtype, new.device, new.shape, new.stride()) == (old.dtype, old.device, old.shape, old.stride())
            and torch.equal(new, old)
        )
    return type(new) is type(old) and isinstance(new, PLAIN) and bool(new == old)
