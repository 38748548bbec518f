"""Calls of a block without gradient that repeat: metered once for each form, then run outside the dispatch mode."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode, _pop_mode_temporarily
from torch.utils._pytree import tree_flatten, tree_leaves

from entprog.core.swap import swapped_forward
from entprog.profiling.ledger import Ledger, Piece, tensors

TO_COPY = torch.ops.aten._to_copy

PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.Size)

DEPENDS_ON_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}

Counts = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class CallCost:
    """What a call of one form costs, relative to what is live when it begins.

    Attributes:
        counts: FLOPs by block and pass.
        beside: bytes that the call frees before it ends, at its peak: the largest sum of what it made.
        outputs: places of the outputs that were live then.
        casts: each parameter whose copy autocast keeps after the call, and whether the copy was live then.
    """

    counts: Counts
    beside: int
    outputs: tuple[int, ...]
    casts: tuple[tuple[Tensor, bool], ...]


class Repeats:
    """Swaps the forward of blocks so that calls of a form that was metered before run unmetered, and count the same.

    A form is the block, the sizes, strides and types of its inputs, its other arguments and autocast with the copies of
    weights that it keeps. The cost of a call follows from its form if, as metered, the call used only its
    inputs and the model's weights, left only its outputs and autocast's copies behind, and none of its operations had
    an output size or a Python value that depends on tensors' values. Any other call is metered each time, and so are
    calls with gradients.

    Args:
        mode: the meter's dispatch mode.
        ledger, counts: those of the meter; they get what an unmetered call would have added.
    """

    def __init__(self, mode: TorchDispatchMode, ledger: Ledger, counts: Counts) -> None:
        self._mode, self._ledger, self._counts = mode, ledger, counts
        self._known: dict[Any, CallCost | None] = {}
        self._watch: _Watched | None = None
        self._casts: dict[int, Piece] = {}

    @contextmanager
    def of(self, module: nn.Module) -> Iterator[None]:
        """Within the context, calls of the module that repeat run unmetered."""
        original = module.forward

        @wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            form = self._form(module, args, kwargs)
            if form is None:
                return original(*args, **kwargs)
            if form not in self._known:
                return self._metered(form, module, original, args, kwargs)
            cost = self._known[form]
            if cost is None:
                return original(*args, **kwargs)
            with _pop_mode_temporarily():
                out = original(*args, **kwargs)
                self._count(cost, out)
            return out

        with swapped_forward(module, forward):
            yield

    def before(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """An operation ran; called before its tensors are counted."""
        if self._watch is not None:
            self._watch.before(operation, args, kwargs)

    def after(self, operation: Any, args: tuple[Any, ...], out: Any) -> None:
        """The operation's tensors are counted."""
        if self._watch is not None:
            self._watch.own.update(tensor.untyped_storage()._cdata for tensor in tensors(out) if _is_plain(tensor))
        if operation is TO_COPY and isinstance(args[0], nn.Parameter) and _is_plain(out):
            piece = self._ledger.piece(out)
            if piece is not None:
                self._casts[id(args[0])] = piece

    def _form(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """What the cost of a call depends on; None where the call must be metered."""
        outside = self._watch is None and _get_current_dispatch_mode() is self._mode
        if not outside or torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            return None
        leaves, structure = tree_flatten((args, kwargs))
        parts: list[Any] = []
        places: dict[int, int] = {}
        for leaf in leaves:
            if type(leaf) in PLAIN:
                parts.append((type(leaf), leaf))
                continue
            if not _is_plain(leaf) or not self._ledger.knows(leaf):
                return None
            place = places.setdefault(leaf.untyped_storage()._cdata, len(places))
            parts.append((leaf.shape, leaf.stride(), leaf.storage_offset(), leaf.dtype, place))
        for tensor in (*module.parameters(), *module.buffers()):
            if not _is_plain(tensor) or not self._ledger.knows(tensor, "weights"):
                return None
            cast = id(tensor) in self._casts and self._casts[id(tensor)].live
            parts.append((id(tensor), tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad, cast))
        device = self._ledger.device
        autocast = (
            torch.is_autocast_enabled(device),
            torch.get_autocast_dtype(device),
            torch.is_autocast_cache_enabled(),
        )
        return id(module), structure, tuple(parts), _settings(module), autocast

    def _metered(self, form: Any, module: nn.Module, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        before = {name: list(counts) for name, counts in self._counts.items()}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ids = {id(p) for p in module.parameters()}
        casts = {piece for key, piece in self._casts.items() if key in ids}
        self._watch = watch = _Watched(self._ledger, inputs, casts)
        try:
            out = original(*args, **kwargs)
        finally:
            self._watch = None
        counts = {
            name: [now - then for now, then in zip(counts, before.get(name, (0, 0, 0)), strict=True)]
            for name, counts in self._counts.items()
        }
        owned = {id(p): p for p in module.parameters()}
        made = {piece: owned[key] for key, piece in self._casts.items() if piece.live and key in owned}
        if not watch.restarted():
            self._known[form] = watch.cost(out, counts, made)
        return out

    def _count(self, cost: CallCost, out: Any) -> None:
        for name, added in cost.counts.items():
            counts = self._counts.setdefault(name, [0, 0, 0])
            counts[:] = [a + b for a, b in zip(counts, added, strict=True)]
        outputs, ledger = _outputs(out), self._ledger
        assert outputs is not None, "a call of the same form has the same outputs"
        for then in (True, False):
            ledger.add_all([t for place, t in enumerate(outputs) if (place in cost.outputs) is then], pending=True)
            for parameter, live in cost.casts:
                if live is then:
                    self._casts[id(parameter)] = ledger.count(_kept_copy(parameter))
            if then:
                ledger.pass_by(cost.beside)
        ledger.mark()


@dataclass
class _Watched:
    """A call that is metered in order to know what others of its form cost."""

    ledger: Ledger
    inputs: list[Tensor]
    copies: set[Piece]
    own: set[int] = field(default_factory=set)
    repeats: bool = True

    def __post_init__(self) -> None:
        self.own.update(tensor.untyped_storage()._cdata for tensor in self.inputs)
        self._place = self.ledger.place()
        self._earlier = self.ledger.pieces()

    def before(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cast = operation is TO_COPY and isinstance(args[0], nn.Parameter)  # autocast records a gradient for those
        if (torch.is_grad_enabled() and not cast) or torch._C._current_graph_task_id() != -1:
            self.repeats = False
        if _depends_on_values(operation):
            self.repeats = False
        for tensor in tensors((args, kwargs)):
            if not _is_plain(tensor):
                self.repeats = False
            elif tensor.untyped_storage()._cdata not in self.own:
                known = self.ledger.knows(tensor, "weights") or self.ledger.piece(tensor) in self.copies
                self.repeats = self.repeats and known

    def restarted(self) -> bool:
        return self.ledger.since(self._place) is None

    def cost(self, out: Any, counts: Counts, casts: Mapping[Piece, Tensor]) -> CallCost | None:
        """The cost of a call of this form; None where it does not follow from the form."""
        outputs = _outputs(out)
        if not self.repeats or outputs is None:
            return None
        now = high = 0
        sizes: dict[Piece, int] = {}
        held: dict[Piece, int] = {}
        for piece, by in self.ledger.since(self._place) or ():
            if piece in self._earlier:  # resized, or freed
                return None
            sizes[piece] = sizes.get(piece, 0) + by
            now += by
            if now > high:
                high, held = now, {one: size for one, size in sizes.items() if size}
        left = {piece: size for piece, size in sizes.items() if size}
        made = [self.ledger.piece(tensor) for tensor in outputs]
        kept = [piece for piece in left if piece not in made]
        if None in made or any(piece not in casts for piece in kept):
            return None
        return CallCost(
            counts, sum(size for piece, size in held.items() if piece not in left),
            tuple(place for place, piece in enumerate(made) if piece in held),
            tuple((casts[piece], piece in held) for piece in kept),
        )  # fmt: skip


def _kept_copy(parameter: Tensor) -> Tensor:
    """The copy of a parameter that autocast keeps, by an operation without a value; inside that autocast."""
    with _Inputs() as inputs:
        torch.matmul(parameter.new_empty(0, parameter.shape[-2 if parameter.ndim > 1 else 0]), parameter)
    return next(t for t in inputs.found if t.numel() == parameter.numel() and t.dtype != parameter.dtype)


class _Inputs(TorchDispatchMode):
    """Collects the tensors that operations read."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found += tensors((args, kwargs))
        return func(*args, **(kwargs or {}))


def _is_plain(value: Any) -> bool:
    return type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided


def _settings(module: nn.Module) -> tuple[Any, ...]:
    """Attributes of a module and those within that hold plain values, and what replaces the forward of one within."""
    found: list[Any] = []
    for part in module.modules():
        found.append(id(vars(part).get("forward")) if part is not module else None)
        found += [(name, value) for name, value in vars(part).items() if type(value) in PLAIN]
        found += [len(part._forward_hooks), len(part._forward_pre_hooks)]
    return tuple(found)


def _outputs(out: Any) -> list[Tensor] | None:
    """The tensors of an output, None where it holds anything else of which tensors may be a part."""
    leaves = [leaf for leaf in tree_leaves(out) if type(leaf) not in PLAIN]
    return leaves if all(type(leaf) is Tensor for leaf in leaves) else None


_SEEN: dict[Any, bool] = {}


def _depends_on_values(operation: Any) -> bool:
    """Whether an operation's output size, or a Python value that it returns, may depend on the values of tensors."""
    if operation not in _SEEN:
        overloads = [getattr(operation, name) for name in operation.overloads()] if _is_packet(operation) else []
        _SEEN[operation] = not overloads or any(DEPENDS_ON_VALUES & set(overload.tags) for overload in overloads)
    return _SEEN[operation]


def _is_packet(operation: Any) -> bool:
    return isinstance(operation, torch._ops.OpOverloadPacket)
