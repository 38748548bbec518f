"""How many times less an arm takes to get where the reference gets, with the range of the seeds."""

import math
from collections.abc import Sequence

from benchmarks.runner.run_plan import Budget
from benchmarks.tables import comparison
from benchmarks.tables.comparison import Cost, Crossing, Group
from benchmarks.tables.protocol import protocol_lines
from benchmarks.tables.result_tables import MISSING, Analysis, Table, faster, named
from entprog.report import formats

TITLE = "Speed-up at the same loss"


def speedup(analysis: Analysis) -> Table | None:
    """A line an arm that gets to the reference's loss, be it only that of its second shortest run.

    Two columns for each length that the reference was run for, FLOPs and calibrated seconds; the latter only where the
    suite is calibrated. Of several lengths the shortest is left out: who has no shorter runs can't show what it takes
    to get there. None where no arm gets anywhere.
    """
    reference = analysis.suite.settings.reference
    ends = [
        (budget, group)
        for budget in analysis.budgets
        if not isinstance(budget, str) and (group := analysis.reference(budget)) is not None
    ]
    ends = ends[1:] or ends
    costs = [("FLOPs", comparison.flops_of), *([("time", analysis.seconds)] if analysis.seconds else [])]
    rows = []
    for arm in analysis.suite.settings.arms:
        mine = [group for (name, _), group in analysis.groups.items() if name == arm and group.records]
        if arm == reference or not any(_between(arm, analysis, end) for _, end in ends):
            continue
        cells = [_told(mine, end, cost) for _, end in ends for _, cost in costs]
        rows.append((arm, *cells, _memory(mine, [end for _, end in ends])))
    if not rows:
        return None
    columns = ("arm", *(_column(budget, end, name) for budget, end in ends for name, _ in costs), "peak memory")
    notes = (
        f"how many times less it costs the arm to get where {reference} ends at each length, by straight lines over "
        "log cost through the final losses of runs of each length, each with its own decay; in brackets the least and "
        "the most of the seeds, each seed's runs against the reference's of the same seed",
        "not reached: not by the longest run; or more: the shortest run is beyond it already",
        f"peak memory: the arm's largest, and how many times less than {reference}'s",
    )
    return Table(TITLE, columns, tuple(rows), (*notes, *protocol_lines(analysis.suite)))


def _column(budget: Budget, end: Group, name: str) -> str:
    return f"{named(budget)} ({end.mean(comparison.loss_of):.4f}): {name}"


def _between(arm: str, analysis: Analysis, end: Group) -> bool:
    """Whether the arm gets to this loss, and not by its shortest run already."""
    found = comparison.reached(
        comparison.by_budget(arm, analysis.groups, comparison.flops_of), end.mean(comparison.loss_of)
    )
    return found is not None and not found.at_most


def _told(mine: Sequence[Group], end: Group, cost: Cost) -> str:
    """Of the means, with the range of the seeds."""
    whole = comparison.reached(_points(mine, cost, None), end.mean(comparison.loss_of))
    text = faster(end.mean(cost), whole)
    if whole is None or text == MISSING:
        return text
    ratios = []
    for seed, record in zip(end.seeds, end.records, strict=True):
        found = comparison.reached(_points(mine, cost, seed), comparison.loss_of(record))
        ratios.append(_ratio(cost(record), found))
    if len(ratios) < 2:
        return text
    least, most = (formats.ratio(r) if r else "not reached" for r in (min(ratios), max(ratios)))
    return f"{text} ({least} to {most})"


def _points(mine: Sequence[Group], cost: Cost, seed: int | None) -> list[tuple[float, float]]:
    """(cost, loss) of an arm's lengths: of one seed, or means over seeds."""
    if seed is None:
        return [(group.mean(cost), group.mean(comparison.loss_of)) for group in mine]
    records = [group.records[group.seeds.index(seed)] for group in mine if seed in group.seeds]
    return [(cost(record), comparison.loss_of(record)) for record in records]


def _ratio(target: float, found: Crossing | None) -> float:
    """0 where a seed does not get there."""
    return 0.0 if found is None or math.isnan(found.cost) else target / found.cost


def _memory(mine: Sequence[Group], ends: Sequence[Group]) -> str:
    own, theirs = (max(comparison.peak_of(r) for group in groups for r in group.records) for groups in (mine, ends))
    return f"{formats.size(own)} ({formats.ratio(theirs / own)} less)"
