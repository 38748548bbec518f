"""Bytes that a step of `MuonAdamW` takes of sharded matrices, followed matrix by matrix without running it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

from entprog.optimizers._orthogonal import TOGETHER
from entprog.optimizers.base import Gathering

__all__ = ["muon_gathering"]

Parts = tuple[int, int, int]
"""Shape of a matrix as `in_rows` gives it."""


def muon_gathering(
    parameters: Iterable[tuple[Sequence[int], int, bool]], rows: int, *, shards: int, cuda: bool
) -> Gathering:
    """What one step gathers, and its peak: whole matrices that wait for others of their shape, and temporaries.

    Args:
        parameters: shape of the whole, bytes of a value, and whether Muon steps it if it has two dimensions.
        rows: see `MuonAdamW`.
        shards: processes that each parameter is divided over, along its first dimension.
        cuda: whether matrices are orthogonalised in bfloat16.
    """
    step = _Step(cuda)
    for shape, size, matrix in parameters:
        held = -(-shape[0] // shards)
        own = held * prod(shape[1:]) * size
        if matrix and len(shape) == 2:
            m, n = shape
            parts = (m // rows, rows, n) if rows and n > rows and m % rows == 0 else (1, m, n)
            step.add(parts, size, own, own * shards)
        else:
            step.note(own)  # the denominator of AdamW's step
    step.end()
    return Gathering(step.peak, step.carried)


@dataclass
class _Step:
    """The step while it runs: `live` are bytes of whole matrices that wait to be orthogonalised, by shape."""

    cuda: bool
    peak: int = 0
    carried: int = 0
    live: int = 0
    waiting: dict[tuple[int, int], list[tuple[Parts, int, int, int]]] = field(default_factory=dict)

    def note(self, more: int) -> None:
        self.peak = max(self.peak, self.live + more)

    def add(self, parts: Parts, size: int, own: int, whole: int) -> None:
        """Gather one matrix from `own` bytes of each process; those of its shape step first if they are many."""
        self.note(own + whole)  # the update, in parts and whole
        self.carried += whole
        self.live += whole
        waiting = self.waiting.setdefault(parts[1:], [])
        if sum(prod(other) for other, *_ in waiting) + prod(parts) > TOGETHER:
            self._flush(waiting)
        waiting.append((parts, size, own, whole))

    def end(self) -> None:
        """Step all that waits; what was gathered goes only after the last."""
        everything = self.live
        for waiting in self.waiting.values():
            self.live = everything
            self._flush(waiting)

    def _flush(self, waiting: list[tuple[Parts, int, int, int]]) -> None:
        if not waiting:
            return
        values = sum(prod(parts) for parts, *_ in waiting)
        _, m, n = waiting[0][0]
        gram = sum(parts[0] for parts, *_ in waiting) * min(m, n) ** 2
        size = waiting[0][1]
        inner = 2 if self.cuda else size
        joined = values * size
        # In an iteration: what is iterated on, before and after, the Gram matrix and its polynomial.
        self.note(joined + (2 * values + 2 * gram) * inner)
        if inner != size:  # the result in the type of the matrices
            self.note(joined + values * inner + joined)
        self.note(joined + max(own for _, _, own, _ in waiting))
        self.live -= sum(whole for *_, whole in waiting)
        waiting.clear()
