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
    title = row.order
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
        place = search(share, 0, len(grid) - 1, start)
        value = None if place is None else getattr(grid[place], what)
        width = 0 if place is None or what == "frames" else grid[place].width
        found.append(Largest(what, value, place == len(grid) - 1, title, row.m, width))
    return found


def search(share: Callable[[int], float], low: int, high: int, start: int) -> int | None:
    """The largest place from `low` to `high` whose share of the memory is at most 1, None where there is none.

    `share` grows with the place, nearly along a line or a parabola: guesses follow the line between what fits and
    what doesn't, and halve what is left each third time. After `TRIALS` calls the best so far stands.
    """
    fits: tuple[int, float] | None = None
    over: tuple[int, float] | None = None
    place = start
    for trial in range(TRIALS):
        value = share(place)
        if value <= 1:
            fits = (place, value)
        else:
            over = (place, value)
        if fits is not None and (fits[0] == high or (over is not None and over[0] - fits[0] == 1)):
            break
        if over is not None and over[0] == low:
            break
        if fits is None:
            assert over is not None
            place = low if over[0] - low <= 2 else max(low, min(over[0] - 1, int(over[0] / over[1])))
        elif over is None:
            place = min(high, max(fits[0] + 1, 2 * fits[0] + 1))
        else:
            step = (over[0] - fits[0]) * (0.5 if trial % 3 == 2 else (1 - fits[1]) / (over[1] - fits[1]))
            place = min(over[0] - 1, max(fits[0] + 1, fits[0] + int(step)))
    return None if fits is None else fits[0]


def _share(planner: Planner, plan: PhasePlan, case: Case, chosen: Sequence[str]) -> float:
    """Share of the device's usable memory that a step takes."""
    active, adapted = planner.parts(case, plan.blocks, chosen)
    return planner.step(case, active, adapted=adapted).peak / max(1, planner.hardware.usable)


def _active(planner: Planner, plan: PhasePlan, row: Row, order: str) -> Sequence[str]:
    found = rankings(order, plan.blocks, plan.name)
    return found.get(row.order, next(iter(found.values()))).top(row.m)
