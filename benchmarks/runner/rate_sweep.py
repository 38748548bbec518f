"""The sweep of an arm's learning rate: three values, then further ones until the best has a worse one on each side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from entprog.core.bands import mean_log


@dataclass(frozen=True, slots=True)
class Sweep:
    """How far a sweep is.

    Attributes:
        missing: factors to try next; empty once it is over.
        best: the factor of the lowest loss, once it is over.
        interior: whether lower and higher factors were tried and are worse.
        tried: all factors of the sweep, ascending.
        losses: of those that are known.
    """

    missing: tuple[float, ...]
    best: float | None
    interior: bool
    tried: tuple[float, ...]
    losses: Mapping[float, float]


def sweep(rates: Sequence[float], losses: Mapping[float, float], widen: int) -> Sweep:
    """The state of a sweep that began with `rates`, from the losses that are known.

    It goes on by the same ratio beyond the end that is best, at most `widen` times a side. Of equal losses the
    smaller rate wins; a run that diverged has an infinite one.
    """
    ladder = list(rates)
    if len(ladder) < 2:  # nothing to sweep
        return Sweep((), ladder[0], False, tuple(ladder), losses)
    down, up = rates[1] / rates[0], rates[-1] / rates[-2]
    below = above = 0
    while True:
        missing = tuple(rate for rate in ladder if rate not in losses)
        if missing:
            return Sweep(missing, None, False, tuple(ladder), losses)
        best = min(ladder, key=lambda rate: (losses[rate], rate))
        if best == ladder[0] and below < widen:
            ladder.insert(0, rounded(ladder[0] / down))
            below += 1
        elif best == ladder[-1] and above < widen:
            ladder.append(rounded(ladder[-1] * up))
            above += 1
        else:
            return Sweep((), best, best not in (ladder[0], ladder[-1]), tuple(ladder), losses)


def rounded(factor: float) -> float:
    """To four digits, so that a factor is the same however it came about."""
    return float(f"{factor:.4g}")


def best_by_bands(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The rate of each arm, of the rows of kind "tune": the lowest mean logarithm of the loss over its noise bands.

    So each band weighs alike.
    """
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        if row["kind"] == "tune":
            found.setdefault(row["arm"], {})[row["learning_rate"]] = mean_log(row["bands"])
    return {arm: min(scores, key=lambda rate: scores[rate]) for arm, scores in found.items()}
