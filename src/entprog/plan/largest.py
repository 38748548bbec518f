"""The most blocks, frames and pixels that still fit a device."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from entprog.core.types import Ranking, Shape
from entprog.plan.estimate import Planner
from entprog.plan.orders import rankings
from entprog.plan.rows import Largest, PhasePlan, Row
from entprog.profiling.subject import Case

FRAMES, RESOLUTION = 257, 1024
"""The most that is looked at."""

CLEARLY = 1.005
"""A share of the memory that is too much, even if it is not quite exact."""

TRIALS = 12
"""Simulations of one search at most; what it finds fits in any case."""


def largest_m(planner: Planner, plan: PhasePlan, order: str) -> list[Largest]:
    """How many blocks may train at the phase's shape, in each order; nothing where adapters train in all of them."""
    found: list[Largest] = []
    if planner.adapters and not planner.ranked:
        return found
    case, count = planner.case(plan.settings), len(plan.blocks)
    for title, ranking in rankings(order, plan.blocks, plan.name).items():

        def share(m: int, ranking: Ranking = ranking) -> float:
            return _share(planner, plan, case, ranking.top(m))

        place = search(share, 1, count, count)
        found.append(Largest("m", place, place == count, title, place or 0))
    return found


def largest_shape(planner: Planner, plan: PhasePlan, order: str) -> list[Largest]:
    """How many frames, and how many pixels, one at a time, for the largest stage that fits (or else the smallest)."""
    stages = [row for row in plan.rows if row.kind == "stage"] or [row for row in plan.rows if row.kind == "full"]
    fitting = [row for row in stages if row.fits]
    row = max(fitting, key=lambda row: (row.m, row.peak)) if fitting else min(stages, key=lambda row: row.peak)
    active, case, found = _active(planner, plan, row, order), planner.case(plan.settings), []
    title, kept = row.order, row.bytes["weights"] + row.bytes["optimizer"]
    grids: list[tuple[str, list[Shape]]] = [("resolution", planner.subject.resolutions(case.shape, RESOLUTION))]
    if plan.settings.blocks != "spatial":
        frames = planner.subject.frames(case.shape, FRAMES)
        grids.insert(0, ("frames", [replace(case.shape, frames=count) for count in frames]))
    for what, grid in grids:
        if len(grid) < 2:  # the network takes one size only
            continue

        def share(place: int, grid: Sequence[Shape] = grid) -> float:
            return _share(planner, plan, replace(case, shape=grid[place]), active)

        start = max((i for i, shape in enumerate(grid) if getattr(shape, what) <= getattr(case.shape, what)), default=0)

        def size(place: int, grid: Sequence[Shape] = grid) -> float:
            height, width = grid[place].sides
            return float(height * width * grid[place].frames)

        place = search(share, 0, len(grid) - 1, start, size, kept / max(1, planner.hardware.usable))
        value = None if place is None else getattr(grid[place], what)
        width = 0 if place is None or what == "frames" else grid[place].width
        found.append(Largest(what, value, place == len(grid) - 1, title, row.m, width))
    return found


def search(
    share: Callable[[int], float],
    low: int,
    high: int,
    start: int,
    size: Callable[[int], float] = float,
    kept: float | None = None,
) -> int | None:
    """The largest place from `low` to `high` whose share of the memory is at most 1, None where there is none.

    `share` grows with the place, nearly along a line in `size`: guesses follow the line between what fits and what
    doesn't (or between two that fit), and halve what is left each fourth time. It ends where the next place is known to
    be too large, or lies clearly beyond 1 on that line. After `TRIALS` calls the best so far stands.

    Args:
        kept: share that does not grow with the size (weights and optimizer states), for a first guess; unknown if None.
    """
    fits: tuple[int, float] | None = None
    over: tuple[int, float] | None = None
    below: tuple[int, float] | None = None
    place = start
    for trial in range(TRIALS):
        value = share(place)
        if value <= 1:
            below, fits = fits, (place, value)
        else:
            over = (place, value)
        if (fits is not None and fits[0] == high) or (over is not None and over[0] == low):
            break
        if fits is None:
            assert over is not None
            place = low if over[0] - low <= 2 else max(low, min(over[0] - 1, int(over[0] / over[1])))
        elif over is None:
            if below is not None:
                slope = (fits[1] - below[1]) / (size(fits[0]) - size(below[0]))
                kept = fits[1] - slope * size(fits[0])
                if kept + slope * size(fits[0] + 1) > CLEARLY:
                    break
            place = min(high, max(fits[0] + 1, 2 * fits[0] + 1))
            if kept is not None and kept < fits[1]:
                limit = size(fits[0]) * (1 - kept) / (fits[1] - kept)
                place = max((p for p in range(fits[0] + 1, place) if size(p) <= limit), default=fits[0] + 1)
        else:
            if over[0] - fits[0] == 1:
                break
            first, slope = size(fits[0]), (over[1] - fits[1]) / (size(over[0]) - size(fits[0]))
            if trial > 2 and fits[1] + slope * (size(fits[0] + 1) - first) > CLEARLY:
                break
            if trial % 4 == 3:
                place = (fits[0] + over[0]) // 2
            else:
                inside = range(fits[0] + 1, over[0])
                place = max((p for p in inside if fits[1] + slope * (size(p) - first) <= 1), default=inside[0])
    return None if fits is None else fits[0]


def _share(planner: Planner, plan: PhasePlan, case: Case, chosen: Sequence[str]) -> float:
    """Share of the device's usable memory that a step takes."""
    active, adapted = planner.parts(case, plan.blocks, chosen)
    return planner.step(case, active, adapted=adapted).peak / max(1, planner.hardware.usable)


def _active(planner: Planner, plan: PhasePlan, row: Row, order: str) -> Sequence[str]:
    found = rankings(order, plan.blocks, plan.name)
    return found.get(row.order, next(iter(found.values()))).top(row.m)
