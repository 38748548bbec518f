"""Which blocks to train at which cost: position matters, since the backward ends at the lowest active block.

Shape legend: L blocks, m of them active.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from entprog.core.types import Ranking


@dataclass(frozen=True, slots=True)
class PassCosts:
    """Cost of one training step as a function of its active set S, in seconds, FLOPs or bytes.

        cost(S) = alone[lowest(S)] + sum of added[b] over the other blocks b of S

    `alone[b]` is the cost of a step that trains b only: the forward, the gradients of all inputs from the loss down to
    b, and b's own weights. `added[b]` is what b's weights add to a backward that passes through b anyway. Exact where
    the blocks are a chain, as every transformer's denoising blocks are.

    Attributes:
        order: all blocks, the lowest first: the order of execution.
        alone, added: as above, each at least 0, for every block.
    """

    order: tuple[str, ...]
    alone: Mapping[str, float]
    added: Mapping[str, float]

    def __post_init__(self) -> None:
        for values in (self.alone, self.added):
            if missing := [name for name in self.order if not values.get(name, -1.0) >= 0]:
                raise ValueError(f"costs of blocks: {missing[0]!r} has no cost of at least 0")

    @classmethod
    def chain(
        cls, order: Sequence[str], forward: float, weights: Mapping[str, float], inputs: Mapping[str, float]
    ) -> "PassCosts":
        """Costs by parts: a forward pass, each active block's weight gradients, each traversed block's input gradients.

        The backward traverses every block from the loss down to the lowest active one, inclusive.
        """
        names = tuple(order)
        alone = {b: forward + weights[b] + sum(inputs[c] for c in names[k:]) for k, b in enumerate(names)}
        return cls(names, alone, dict(weights))

    def of(self, active: Sequence[str]) -> float:
        """The cost of a step that trains `active`, at least one block."""
        chosen = set(active)
        inside = [name for name in self.order if name in chosen]
        return self.alone[inside[0]] + sum(self.added[name] for name in inside[1:])


@dataclass(frozen=True)
class Selection(Ranking):
    """A ranking whose `top(m)` returns not its first m blocks but the m with the most importance per cost.

    Attributes:
        sets: for m = 1..L the blocks to train, in the ranking's order.
    """

    sets: tuple[tuple[str, ...], ...] = field(default=())

    def top(self, m: int) -> tuple[str, ...]:
        """The m blocks with the most importance per cost (0 < m <= L)."""
        return self.sets[m - 1] if super().top(m) else ()


def select_blocks(ranking: Ranking, importance: Mapping[str, float], costs: PassCosts) -> Selection:
    """The best set of every size, with the order of `ranking` kept for everything else."""
    sets = []
    for m in range(1, len(ranking.names) + 1):
        chosen = set(best_set(importance, costs, m))
        sets.append(tuple(name for name in ranking.names if name in chosen))
    return Selection(ranking.names, tuple(sets))


def plain_ranking(ranking: Ranking) -> dict[str, Any]:
    """A ranking as plain values, for a checkpoint."""
    sets = ranking.sets if isinstance(ranking, Selection) else ()
    return {"names": list(ranking.names), "sets": [list(chosen) for chosen in sets]}


def ranking_from_plain(values: Mapping[str, Any]) -> Ranking:
    """The inverse of `plain_ranking`."""
    names, sets = tuple(values["names"]), tuple(tuple(chosen) for chosen in values["sets"])
    return Selection(names, sets) if sets else Ranking(names)


def best_set(importance: Mapping[str, float], costs: PassCosts, m: int | None = None) -> tuple[str, ...]:
    """The active set S that maximises sum of importance / cost(S), exactly.

    Every lowest block is tried. With it fixed the cost is a constant plus a sum over the others, so for any rate r
    the best others maximise the sum of (importance - r * added): the largest m - 1 of them. The maximum is the r at
    which the best set's importance equals r times its cost (Dinkelbach 1967), reached in a few rounds.

    An importance below 0 counts as 0: a negative score is as a rule noise around zero (see its standard error), and
    a negative sum would make the most expensive set look best. Among sets of equal value, as where all importances
    are 0, the cheapest wins, and then the one with the larger plain importance.

    Args:
        m: active blocks; None for any number of them.

    Returns:
        Names in the order of execution.
    """
    if m is not None and not 0 < m <= len(costs.order):
        raise ValueError(f"m = {m}: choose from 1 to {len(costs.order)}, the number of blocks")
    worth = {name: max(importance[name], 0.0) for name in costs.order}

    def value(chosen: Sequence[str]) -> tuple[float, float, float]:
        cost = costs.of(chosen)
        rate = sum(worth[name] for name in chosen) / cost if cost > 0 else math.inf
        return rate, -cost, sum(importance[name] for name in chosen)

    best: tuple[str, ...] = ()
    for k, lowest in enumerate(costs.order):
        above = costs.order[k + 1 :]
        if m is not None and len(above) < m - 1:
            break
        rate = 0.0
        while True:
            # Ties are broken by cost, then by plain importance, then by position: never by chance.
            others = sorted(above, key=_gain(worth, importance, costs, rate))
            count = m - 1 if m is not None else sum(worth[b] > rate * costs.added[b] for b in others)
            chosen = (lowest, *sorted(others[:count], key=costs.order.index))
            if not best or value(chosen) > value(best):
                best = chosen
            if not math.isfinite(value(chosen)[0]) or value(chosen)[0] <= rate:
                break
            rate = value(chosen)[0]
    return best


def deepest_sets(ranking: Ranking, order: Sequence[str], m: int) -> list[tuple[str, ...]]:
    """For each lowest block the set of m with the highest-ranked others, the lowest block first.

    Fallbacks for a set that does not fit in memory: each further set shortens the backward. The first is the
    ranking's own choice.
    """
    place = {name: k for k, name in enumerate(ranking.names)}
    first = ranking.top(m)
    start = min(order.index(name) for name in first)
    sets = [tuple(sorted(first, key=order.index))]
    for k in range(start + 1, len(order) - m + 1):
        others = sorted(order[k + 1 :], key=place.__getitem__)[: m - 1]
        sets.append((order[k], *sorted(others, key=order.index)))
    return sets


def _gain(
    worth: Mapping[str, float], importance: Mapping[str, float], costs: PassCosts, rate: float
) -> Callable[[str], Any]:
    place = {name: k for k, name in enumerate(costs.order)}
    return lambda b: (-(worth[b] - rate * costs.added[b]), costs.added[b], -importance[b], place[b])
