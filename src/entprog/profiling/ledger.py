"""Live bytes by category: which storages exist, what they are for, and which were live at the peak."""

import weakref
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

CATEGORIES = ("weights", "gradients", "optimizer", "activations", "temporaries")
"""Categories of live bytes; see `entprog.profiling.meter.Meter`."""

UNNAMED = ("activations", "temporaries")


@dataclass(slots=True, eq=False)
class Piece:
    """A storage: its bytes now, and its category, which once known holds for its whole life.

    `parts` are storages that were summed into this one; they get the same category. `watch` calls the
    ledger when the storage is freed.
    """

    size: int
    category: str
    parts: "tuple[Piece, ...]" = ()
    watch: "_Watch | None" = None
    live: bool = True


class _Watch(weakref.ref):
    """A weak reference that knows the key of what it refers to."""

    __slots__ = ("key",)
    key: int


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
        self._live: dict[int, Piece] = {}
        self._pending: dict[int, Piece] = {}
        # Every change since `_start`, so that the parts of the peak can be categorised later. Two plain lists
        # instead of one of pairs: many small live objects trigger the garbage collector.
        self._changed: list[Piece] = []
        self._by = array("q")
        self._start: dict[Piece, int] = {}
        self._restarts = 0
        self._peak_at = 0
        self._peak_held: dict[Piece, int] | None = None

    def live(self) -> dict[str, int]:
        """Bytes by category now."""
        return _sums((piece, piece.size) for piece in self._live.values())

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

    def add_all(self, values: Iterable[Any], *, pending: bool = False) -> None:
        """Count the tensors in nested values as `add` does: the inner loop of metering, several times an operation."""
        live, granularity = self._live, self.granularity
        for value in values:
            kind = KINDS[type(value)]
            if kind == "tensor":
                if value.layout is not torch.strided:
                    continue
                storage = value.untyped_storage()
                known = live.get(storage._cdata)
                if known is None:
                    if value.device.type == self.device:
                        self._add(storage, "temporaries", pending)
                elif -(-storage.nbytes() // granularity) * granularity != known.size:
                    self._add(storage, "temporaries", pending)
            elif kind == "sequence":
                if not (type(value) is list and value and type(value[0]) is int):  # most lists are sizes
                    self.add_all(value, pending=pending)
            elif kind == "mapping":
                self.add_all(value.values(), pending=pending)
            elif kind == "wrapper":
                self.add(value, pending=pending)

    def label(self, tensor: Tensor, category: str) -> list[Piece]:
        """Count the tensor's storages as `category`, and return those that had no category."""
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
        """A storage was resized in place."""
        if storage._cdata in self._live:
            self._add(storage, "", False)
            self.mark()

    def join(self, total: Tensor, *summands: Tensor) -> None:
        """`total` is a new sum: if it turns out to be a gradient, so are its summands."""
        keys = [tensor.untyped_storage()._cdata for tensor in (total, *summands) if self._counts(tensor)]
        pieces = [self._live[key] for key in keys if key in self._live]
        if len(pieces) == 1 + len(summands):
            pieces[0].parts = tuple(pieces[1:])

    def settle(self) -> None:
        """The backward pass has begun: what forward passes left are activations."""
        if not self._pending:
            return
        for piece in self._pending.values():
            piece.category = "activations"
        self._pending.clear()

    def mark(self) -> None:
        """Note the peak; called after each operation."""
        if self._total > self.peak:
            self.peak = self._total
            self._peak_at, self._peak_held = len(self._changed), None

    def held_at_peak(self) -> dict[Piece, int]:
        """Each storage that was live at the peak, with its bytes then."""
        return self._after(self._peak_at) if self._peak_held is None else self._peak_held

    def set_peak(self, held: dict[Piece, int]) -> None:
        """Set the peak from values measured elsewhere."""
        self.peak, self._peak_held = sum(held.values()), held

    # What a call that repeats needs (profiling/repeats.py).

    def piece(self, tensor: Tensor) -> Piece | None:
        """The piece of a tensor's storage, if it is counted."""
        return self._live.get(tensor.untyped_storage()._cdata)

    def pieces(self) -> set[Piece]:
        """Everything that is live."""
        return set(self._live.values())

    def knows(self, tensor: Tensor, category: str = "") -> bool:
        """Whether the tensor's storage is counted at its present size (and in the category)."""
        piece = self.piece(tensor) if self._counts(tensor) else None
        same = piece is not None and piece.size == self.rounded(tensor.untyped_storage().nbytes())
        return same and category in ("", piece.category)  # type: ignore[union-attr]

    def place(self) -> tuple[int, int]:
        """The present place in the history."""
        return self._restarts, len(self._changed)

    def since(self, place: tuple[int, int]) -> list[tuple[Piece, int]] | None:
        """All changes since a place; None where the history was restarted since."""
        restarts, count = place
        if restarts != self._restarts:
            return None
        return list(zip(self._changed[count:], self._by[count:], strict=True))

    def pass_by(self, size: int) -> None:
        """Temporaries of so many bytes come and go; the peak is noted while they are there."""
        piece = Piece(size, "temporaries", live=False)
        self._change(piece, size)
        self.mark()
        self._change(piece, -size)

    def count(self, tensor: Tensor) -> Piece:
        """The piece of a tensor's storage, pending if it is new."""
        return self._add(tensor.untyped_storage(), "temporaries", True)

    def _counts(self, tensor: Tensor) -> bool:
        return tensor.device.type == self.device and tensor.layout == torch.strided

    def _add(self, storage: torch.UntypedStorage, category: str, pending: bool) -> Piece:
        key, size = storage._cdata, self.rounded(storage.nbytes())
        piece = self._live.get(key)
        if piece is not None:
            if size != piece.size:
                self._change(piece, size - piece.size)
                piece.size = size
            return piece
        watch = _Watch(storage, self._free)
        watch.key = key
        self._live[key] = piece = Piece(size, category, (), watch)
        if pending:
            self._pending[key] = piece
        self._change(piece, size)
        return piece

    def _free(self, watch: _Watch) -> None:
        piece = self._live.pop(watch.key)
        piece.watch, piece.live = None, False
        self._pending.pop(watch.key, None)
        self._change(piece, -piece.size)

    def _change(self, piece: Piece, by: int) -> None:
        self._total += by
        self._changed.append(piece)
        self._by.append(by)
        if len(self._changed) > self.LONGEST:
            # Keep what the peak and the present need and restart the history, which would grow with the run.
            self._peak_held = self.held_at_peak()
            self._start, self._changed, self._by = self._after(len(self._changed)), [], array("q")
            self._restarts += 1

    def _after(self, count: int) -> dict[Piece, int]:
        held = dict(self._start)
        for piece, by in zip(self._changed[:count], self._by, strict=False):
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
        if isinstance(part, Tensor):  # a sharded tensor lists its mesh, too
            yield from plain(part)


class _Kinds(dict[type, Literal["tensor", "wrapper", "sequence", "mapping", "other"]]):
    """How `Ledger.add_all` treats values of a type; cached by type, since the check is slow."""

    def __missing__(self, kind: type) -> str:
        if issubclass(kind, Tensor):
            plain = kind in (Tensor, torch.nn.Parameter) or not hasattr(kind, "__tensor_flatten__")
            self[kind] = "tensor" if plain else "wrapper"
        elif issubclass(kind, tuple | list):
            self[kind] = "sequence"
        else:
            self[kind] = "mapping" if issubclass(kind, dict) else "other"
        return self[kind]


KINDS = _Kinds()


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
