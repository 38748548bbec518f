"""Live bytes by category: which storages there are, what they are for, and what was there at the peak."""

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

CATEGORIES = ("weights", "gradients", "optimizer", "activations", "temporaries")
"""What live bytes are told apart by; `entprog.profiling.meter.Meter` says how."""

UNNAMED = ("activations", "temporaries")


@dataclass(slots=True, eq=False)
class Piece:
    """A storage: its bytes now, and what it is known as. A later insight holds for its whole life.

    `parts` are storages that were added up to this one, so that they are what it turns out to be.
    """

    size: int
    category: str
    parts: "tuple[Piece, ...]" = ()


class Ledger:
    """Counts each storage once, however many views it has, from when it is first seen until it is freed.

    Args:
        device: type of the device whose memory counts.
        granularity: sizes are rounded up to multiples of this many bytes.
    """

    LONGEST = 200_000

    def __init__(self, device: str, granularity: int) -> None:
        self.device, self.granularity = device, granularity
        self.peak = 0
        self._total = 0
        self._live: dict[int, tuple[Piece, Any]] = {}
        self._pending: dict[int, Piece] = {}
        # Every change since `_start`, so that the parts of the peak can be named once all is known about them.
        self._changes: list[tuple[Piece, int]] = []
        self._start: dict[Piece, int] = {}
        self._peak_at = 0
        self._peak_held: dict[Piece, int] | None = None

    def live(self) -> dict[str, int]:
        """Bytes by category now."""
        return _sums((piece, piece.size) for piece, _ in self._live.values())

    def at_peak(self) -> dict[str, int]:
        """Bytes by category when their sum was largest."""
        return _sums(self.held_at_peak().items())

    def add(self, tensor: Tensor, category: str = "temporaries", *, pending: bool = False) -> None:
        """Count the tensor's storage if it is new, and its new size if it was resized.

        `pending` storages become activations if they are still there at `settle`.
        """
        for part in plain(tensor):
            if self._counts(part):
                self._add(part.untyped_storage(), category, pending)

    def label(self, tensor: Tensor, category: str) -> list[Piece]:
        """Count the tensor's storages as `category`, and return those that were not known as such."""
        renamed = []
        for part in plain(tensor):
            if self._counts(part):
                storage = part.untyped_storage()
                new = storage._cdata not in self._live
                piece = self._add(storage, category, False)
                self._pending.pop(storage._cdata, None)
                if new or piece.category in UNNAMED:
                    _name(piece, category)
                    renamed.append(piece)
        return renamed

    def resized(self, storage: torch.UntypedStorage) -> None:
        """A storage has got another size by itself."""
        if storage._cdata in self._live:
            self._add(storage, "", False)
            self.mark()

    def join(self, total: Tensor, *summands: Tensor) -> None:
        """`total` is a new sum: if it turns out to be a gradient, so were its summands."""
        keys = [tensor.untyped_storage()._cdata for tensor in (total, *summands) if self._counts(tensor)]
        pieces = [self._live[key][0] for key in keys if key in self._live]
        if len(pieces) == 1 + len(summands):
            pieces[0].parts = tuple(pieces[1:])

    def settle(self) -> None:
        """The backward pass goes on: what forward passes left are activations."""
        for piece in self._pending.values():
            piece.category = "activations"
        self._pending.clear()

    def mark(self) -> None:
        """Note the peak; called after each operation."""
        if self._total > self.peak:
            self.peak = self._total
            self._peak_at, self._peak_held = len(self._changes), None

    def held_at_peak(self) -> dict[Piece, int]:
        """Each storage that was there at the peak, with its bytes then."""
        return self._after(self._peak_at) if self._peak_held is None else self._peak_held

    def set_peak(self, held: dict[Piece, int]) -> None:
        """What was there at the peak, known from elsewhere."""
        self.peak, self._peak_held = sum(held.values()), held

    def _counts(self, tensor: Tensor) -> bool:
        return tensor.device.type == self.device and tensor.layout == torch.strided

    def _add(self, storage: torch.UntypedStorage, category: str, pending: bool) -> Piece:
        key, size = storage._cdata, self.rounded(storage.nbytes())
        if key in self._live:
            piece = self._live[key][0]
            if size != piece.size:
                self._change(piece, size - piece.size)
                piece.size = size
            return piece
        piece = Piece(size, category)
        self._live[key] = piece, weakref.ref(storage, partial(self._free, key))
        if pending:
            self._pending[key] = piece
        self._change(piece, size)
        return piece

    def _free(self, key: int, gone: Any = None) -> None:
        piece, _ = self._live.pop(key)
        self._pending.pop(key, None)
        self._change(piece, -piece.size)

    def _change(self, piece: Piece, by: int) -> None:
        self._total += by
        self._changes.append((piece, by))
        if len(self._changes) > self.LONGEST:
            # Keep what the peak and the present hold, and begin anew: a long run needs no long history.
            self._peak_held = self.held_at_peak()
            self._start, self._changes = self._after(len(self._changes)), []

    def _after(self, count: int) -> dict[Piece, int]:
        held = dict(self._start)
        for piece, by in self._changes[:count]:
            held[piece] = held.get(piece, 0) + by
            if not held[piece]:
                del held[piece]
        return held

    def rounded(self, size: int) -> int:
        return -(-size // self.granularity) * self.granularity


def _name(piece: Piece, category: str) -> None:
    piece.category = category
    for part in piece.parts:
        if part.category in UNNAMED:
            _name(part, category)
    piece.parts = ()


def plain(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that a sharded or quantised tensor holds, or the tensor itself."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        part = getattr(tensor, name)
        if isinstance(part, Tensor):  # a sharded tensor names its mesh, too
            yield from plain(part)


def tensors(values: Any) -> Iterator[Tensor]:
    """Tensors in nested tuples, lists and dictionaries."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from tensors(value)
    elif isinstance(values, dict):
        for value in values.values():
            yield from tensors(value)


def _sums(pieces: Iterable[tuple[Piece, int]]) -> dict[str, int]:
    sums = dict.fromkeys(CATEGORIES, 0)
    for piece, size in pieces:
        sums[piece.category] += size
    return sums
