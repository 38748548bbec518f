"""The cheapest way to run a step within a number of bytes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from entprog.profiling.meter import StepCost


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a step: what it trains and what it does to save memory.

    Attributes:
        active: the blocks that train.
        checkpointing: whether activations are recomputed in the backward pass.
        states: what happens to optimizer states of frozen blocks: "keep", "drop" or "offload".
        pieces: equal micro-batches that the batch is split into; gradients add up, so the effective batch is the same.
    """

    active: tuple[str, ...]
    checkpointing: bool = False
    states: str = "keep"
    pieces: int = 1


@dataclass(frozen=True, slots=True)
class Fit:
    """Result of `fit`.

    Attributes:
        option: the first that fits; where none does, the one that needs the fewest bytes.
        cost: its measured cost; `cost.peak` excludes what was reserved.
        fits: whether it fits.
        tried: every option that was measured, with its peak.
    """

    option: Option
    cost: StepCost
    fits: bool
    tried: tuple[tuple[Option, int], ...]


def fit(options: Iterable[Option], measure: Callable[[Option], StepCost], budget: int, *, reserved: int = 0) -> Fit:
    """The first of `options` whose measured peak, with `reserved` bytes beside it, is at most `budget` bytes.

    Args:
        options: at least one, the cheapest in time first; measured one by one until one fits.
        measure: returns the cost of a step of an option; under FakeTensorMode nothing is allocated.
        reserved: bytes that are in use whatever the option: EMA weights, fixed draws.
    """
    tried: list[tuple[Option, StepCost]] = []
    for option in options:
        tried.append((option, measure(option)))
        if tried[-1][1].peak + reserved <= budget:
            break
    best, cost = min(tried, key=lambda each: each[1].peak)
    fits = tried[-1][1].peak + reserved <= budget
    if fits:
        best, cost = tried[-1]
    return Fit(best, cost, fits, tuple((option, one.peak) for option, one in tried))


def ways(active: Sequence[str], batch: int, *, states: str = "keep", checkpointing: bool = False) -> list[Option]:
    """All ways to run one workload, the cheapest first.

    Splitting a batch into pieces costs no FLOPs, recomputation a forward pass: so pieces come first, the fewest
    before the most, and then the same with checkpointing.

    Args:
        batch: samples of the whole batch; pieces are its divisors.
        checkpointing: already on: then nothing is tried without it.
    """
    pieces = [n for n in range(1, batch + 1) if batch % n == 0]
    return [
        Option(tuple(active), recompute, states, n)
        for recompute in ([True] if checkpointing else [False, True])
        for n in pieces
    ]
