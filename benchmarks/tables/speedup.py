"""How many times less an arm takes to reach the reference's loss: at equal mean loss, and in the worst noise band."""

import math
from collections.abc import Callable, Sequence

from benchmarks.runner.run_plan import Budget
from benchmarks.runner.run_record import Record
from benchmarks.tables import comparison
from benchmarks.tables.analysis import MISSING, Analysis, Table, named
from benchmarks.tables.comparison import Cost, Crossing, Group
from benchmarks.tables.noise_bands import band_names
from benchmarks.tables.protocol import protocol_lines
from entprog.report import formats

TITLE = "Speed-up at the same loss"
NOT_REACHED = "not reached"
Loss = Callable[[Record], float]

WORST_BAND = (
    "worst band: the same for the loss in each fifth of the noise levels tau instead of the mean, and the smallest of "
    "the five; not reached: in the bands named, or in all, no run of any length reaches the other's loss"
)


def speedup(analysis: Analysis) -> Table | None:
    """A row for each arm that reaches the mean loss of at least the reference's second shortest run.

    For each length that the reference was run for, FLOPs and calibrated seconds (the latter only where the suite is
    calibrated), each at equal mean loss and in the worst band. Of several lengths the shortest is left out: an arm
    that has no shorter runs can't show at what cost it reaches that loss. None where no arm reaches any.
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
        groups = [group for (name, _), group in analysis.groups.items() if name == arm and group.records]
        if arm == reference or not any(_between(groups, end) for _, end in ends):
            continue
        cells = [text(groups, end, cost) for _, end in ends for _, cost in costs for text in (_at_mean, _in_worst)]
        rows.append((arm, *cells, _memory(groups, [end for _, end in ends])))
    if not rows:
        return None
    heads = [
        f"{_column(budget, end, name)}, {what}"
        for budget, end in ends
        for name, _ in costs
        for what in ("mean loss", "worst band")
    ]
    notes = (
        f"mean loss: how many times less the arm spends to reach the final mean loss of {reference} at each length, "
        "interpolated over log cost between the final losses of its runs of each length, each with its own decay; in "
        "brackets the lowest and the highest over seeds, each compared with the reference's run of the same seed",
        WORST_BAND,
        "not reached: not even by the longest run; or more: already the shortest run is below that loss",
        f"peak memory: the arm's largest, and how many times less than {reference}'s",
    )
    return Table(TITLE, ("arm", *heads, "peak memory"), tuple(rows), (*notes, *protocol_lines(analysis.suite)))


def both_ways(analysis: Analysis) -> Table:
    """At what cost each arm reaches the reference's final loss, and the reference the arm's."""
    settings = analysis.suite.settings
    cost = analysis.seconds or comparison.flops_of
    rows = []
    for budget in [budget for budget in analysis.budgets if not isinstance(budget, str)]:
        base = analysis.reference(budget)
        for group in analysis.at(budget) if base else []:
            if base is None or group.arm == settings.reference:
                continue
            own, others = (
                [found for (name, _), found in analysis.groups.items() if name == arm and found.records]
                for arm in (group.arm, settings.reference)
            )
            back = comparison.reached(_points(others, cost, comparison.loss_of), group.mean(comparison.loss_of))
            rows.append((
                group.arm, named(budget),
                faster(base.mean(cost), comparison.reached(_points(own, cost, comparison.loss_of), _mean_loss(base))),
                _in_worst(own, base, cost), slower(back, group.mean(cost)), _worst_back(others, group, cost),
            ))  # fmt: skip
    columns = ("arm", "budget", "to the reference's mean loss", "likewise, worst band", "to the arm's mean loss",
               "likewise, in the worst band")  # fmt: skip
    notes = (
        "how many times less the arm spends to reach the reference's final loss, and how many times more the reference "
        "spends to reach the arm's; above 1x the arm is faster",
        "interpolated over log cost between the final losses of runs of each length, each with its own decay, in "
        f"{'calibrated seconds' if analysis.seconds else 'FLOPs'}",
        WORST_BAND,
        "not reached: not even by the longest run; or more, or less: already the shortest run is below that loss",
    )
    title = "Time to the same loss"
    return Table(title, columns, tuple(rows), (*notes, *protocol_lines(analysis.suite)))


def faster(target: float, found: Crossing | None) -> str:
    """How many times less an arm takes than `target`, the reference's cost."""
    if found is None or math.isnan(target / found.cost):
        return MISSING if found else NOT_REACHED
    return formats.ratio(target / found.cost) + (" or more" if found.at_most else "")


def slower(found: Crossing | None, own: float) -> str:
    """How many times more the reference takes than `own`, the arm's cost."""
    if found is None or math.isnan(found.cost / own):
        return MISSING if found else NOT_REACHED
    return formats.ratio(found.cost / own) + (" or less" if found.at_most else "")


def _column(budget: Budget, end: Group, name: str) -> str:
    return f"{named(budget)} ({_mean_loss(end):.4f}): {name}"


def _between(groups: Sequence[Group], end: Group) -> bool:
    """Whether an arm reaches this mean loss, and not already by its shortest run."""
    found = comparison.reached(_points(groups, comparison.flops_of, comparison.loss_of), _mean_loss(end))
    return found is not None and not found.at_most


def _at_mean(groups: Sequence[Group], end: Group, cost: Cost) -> str:
    """Of the means over seeds, with the range of the seeds."""
    whole = comparison.reached(_points(groups, cost, comparison.loss_of), _mean_loss(end))
    text = faster(end.mean(cost), whole)
    if whole is None or text == MISSING:
        return text
    ratios = []
    for seed, record in zip(end.seeds, end.records, strict=True):
        found = comparison.reached(_seed_points(groups, cost, seed), comparison.loss_of(record))
        ratios.append(_ratio(cost(record), found))
    if len(ratios) < 2:
        return text
    least, most = (formats.ratio(ratio) if ratio else NOT_REACHED for ratio in (min(ratios), max(ratios)))
    return f"{text} ({least} to {most})"


def _in_worst(groups: Sequence[Group], end: Group, cost: Cost) -> str:
    """The least speed-up of the five bands, and of which band; all that are not reached."""
    known: list[tuple[float, str, str]] = []
    missed = []
    for name, target, points in _bands(groups, end, cost):
        found = comparison.reached(points, target)
        if found is None:
            missed.append(name)
        else:
            known.append((end.mean(cost) / found.cost, faster(end.mean(cost), found), name))
    if missed:
        return NOT_REACHED if not known else f"{NOT_REACHED} (tau {', '.join(missed)})"
    return _of_band(min(known, default=None))


def _worst_back(others: Sequence[Group], group: Group, cost: Cost) -> str:
    """How many times more the reference takes than the arm, in the band where that is least."""
    own = group.mean(cost)
    known = [
        (found.cost / own, slower(found, own), name)
        for name, target, points in _bands(others, group, cost)
        if (found := comparison.reached(points, target)) is not None
    ]
    return _of_band(min(known)) if known else NOT_REACHED


def _of_band(found: tuple[float, str, str] | None) -> str:
    if found is None or math.isnan(found[0]):
        return MISSING
    return f"{found[1]} (tau {found[2]})"


def _bands(groups: Sequence[Group], end: Group, cost: Cost) -> list[tuple[str, float, list[tuple[float, float]]]]:
    """(name, loss at the end, an arm's (cost, loss) of each length) of every band that has draws."""
    found = []
    for band, name in enumerate(band_names()):
        loss = comparison.band_loss(band)
        if not math.isnan(end.mean(loss)):
            found.append((name, end.mean(loss), _points(groups, cost, loss)))
    return found


def _points(groups: Sequence[Group], cost: Cost, loss: Loss) -> list[tuple[float, float]]:
    """(cost, loss) of an arm's lengths, means over seeds."""
    return [(group.mean(cost), group.mean(loss)) for group in groups]


def _seed_points(groups: Sequence[Group], cost: Cost, seed: int) -> list[tuple[float, float]]:
    """The same of one seed."""
    records = [group.records[group.seeds.index(seed)] for group in groups if seed in group.seeds]
    return [(cost(record), comparison.loss_of(record)) for record in records]


def _mean_loss(group: Group) -> float:
    return group.mean(comparison.loss_of)


def _ratio(target: float, found: Crossing | None) -> float:
    """The speed-up of one seed; 0 where it does not reach the loss."""
    return 0.0 if found is None or math.isnan(found.cost) else target / found.cost


def _memory(groups: Sequence[Group], ends: Sequence[Group]) -> str:
    own, reference = (
        max(comparison.peak_of(record) for group in some for record in group.records) for some in (groups, ends)
    )
    return f"{formats.size(own)} ({formats.ratio(reference / own)} less)"
