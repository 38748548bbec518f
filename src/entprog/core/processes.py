"""What the processes of torch.distributed agree on. In one process each function returns what it is given."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["average_gradients", "by_first", "decided", "first", "gathered", "in_turn", "largest_bucket", "mean",
           "numbers", "own_folder", "rank", "several", "shared", "sharers", "sharing", "wait", "world"]  # fmt: skip

T = TypeVar("T")
R = TypeVar("R")
BUCKET = 2**24
"""Values of gradients that are averaged at once, 64 MiB in float32; a larger gradient is averaged alone."""

_SHARING: ContextVar[bool] = ContextVar("sharing", default=False)


def several() -> bool:
    """Whether this is one of several processes of a group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's place in the group; 0 in one process."""
    return dist.get_rank() if several() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if several() else 1


def first() -> bool:
    """Whether this process writes logs, samples and pages."""
    return rank() == 0


def wait() -> None:
    """Until every process is here."""
    if several():
        dist.barrier()


def own_folder(folder: Path) -> Path:
    """A folder for what each process keeps for itself: the first's, or another beside it."""
    return folder.with_name(f"{folder.name}-{rank()}") if rank() else folder


def gathered(value: T) -> list[T]:
    """What each process gave, in the order of the ranks."""
    if not several():
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


def numbers(values: Sequence[float]) -> list[list[float]]:
    """A list of numbers of each process, equally long in all, in the order of the ranks."""
    if not several():
        return [list(values)]
    own = torch.tensor(values, dtype=torch.float64)
    found = torch.empty(world(), len(values), dtype=torch.float64)
    dist.all_gather(list(found), own)
    return found.tolist()


def decided(value: T) -> T:
    """What the first process gave."""
    if not several():
        return value
    held: list[Any] = [value]
    dist.broadcast_object_list(held, src=0)
    chosen: T = held[0]
    return chosen


def by_first(work: Callable[[], None]) -> None:
    """`work` in the first process only; where it fails with an OSError, all raise it."""
    failed: OSError | None = None
    if first():
        try:
            work()
        except OSError as error:
            failed = error
    if several():
        reason = decided(None if failed is None else str(failed))
        failed = failed or (None if reason is None else OSError(reason))
    if failed is not None:
        raise failed


def mean(values: Sequence[float]) -> list[float]:
    """The mean over processes of each number; the same bits in all of them."""
    if not several():
        return list(values)
    return [sum(column) / len(column) for column in zip(*numbers(values), strict=True)]


def shared(items: Sequence[Any], read: Callable[[Any], T]) -> list[T]:
    """`read` of each item, in order; process r of n reads every n-th from the r-th on, and all get every result.

    Each process calls `read` equally often, as a sharded model needs: some read an item once more.
    """
    if not several() or not items:
        return [read(item) for item in items]
    count, place = world(), rank()
    rounds = -(-len(items) // count)
    mine = [read(items[min(k * count + place, len(items) - 1)]) for k in range(rounds)]
    everybody = gathered(mine)
    return [everybody[k % count][k // count] for k in range(len(items))]


@contextmanager
def sharing() -> Iterator[None]:
    """Inside, `in_turn` divides its items among the processes, which must all have the same ones."""
    before = _SHARING.set(True)
    try:
        yield
    finally:
        _SHARING.reset(before)


def sharers() -> int:
    """Among how many processes `in_turn` divides its items."""
    return world() if _SHARING.get() else 1


def in_turn(items: Sequence[T], read: Callable[[T], R]) -> Iterator[R]:
    """`read` of each item, in order; inside `sharing` n processes read n items at a time, and all get every result.

    Each process calls `read` equally often, as a sharded model needs: where n does not divide the items, some read the
    last one once more. A caller may stop early if it does so in all processes.
    """
    count = sharers()
    if count == 1:
        yield from map(read, items)
        return
    for begin in range(0, len(items), count):
        own = read(items[min(begin + rank(), len(items) - 1)])
        yield from gathered(own)[: len(items) - begin]


@torch.no_grad()
def average_gradients(gradients: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over processes; all of them must give the same tensors in the same order."""
    if not several():
        return
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (gradient.dtype != bucket[0].dtype or size + gradient.numel() > BUCKET):
            _average(bucket)
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    if bucket:
        _average(bucket)


def largest_bucket(gradients: Iterable[tuple[int, int, int]]) -> int:
    """The most bytes that `average_gradients` copies at once.

    Args:
        gradients: values of a gradient, bytes of a value, and how many such gradients there are.
    """
    largest: Counter[int] = Counter()
    together: Counter[int] = Counter()
    for values, size, times in gradients:
        largest[size] = max(largest[size], values)
        together[size] += values * times
    return max((size * max(largest[size], min(together[size], BUCKET)) for size in together), default=0)


def _average(bucket: Sequence[Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
    dist.all_reduce(flat)
    flat /= world()
    parts = torch.split(flat, [gradient.numel() for gradient in bucket])
    for gradient, part in zip(bucket, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
