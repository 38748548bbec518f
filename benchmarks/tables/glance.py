"""All arms at a glance: one table over the budgets, best first, and one picture a budget."""

import math

from benchmarks.runner.run_plan import EQUAL_STEPS, Budget
from benchmarks.tables import comparison
from benchmarks.tables.analysis import MISSING, Analysis, Table, named
from benchmarks.tables.comparison import Group
from benchmarks.tables.dotplot import Panel, dotplot
from benchmarks.tables.protocol import protocol_lines
from benchmarks.tables.result_tables import measured_seconds, steps, unmatched
from entprog.report import formats


def summary(analysis: Analysis) -> Table | None:
    """Losses at all budgets; what a run at the recipe's whole budget, or the largest there is, takes."""
    main = _main(analysis)
    if main is None:
        return None
    budgets = analysis.at_a_glance or [main]
    base = analysis.reference(main)
    arms = [arm for arm in analysis.suite.settings.arms if any(_group(analysis, arm, budget) for budget in budgets)]
    time = "calibrated s" if analysis.seconds else "s as measured"
    less = f"minus {analysis.suite.settings.reference}"
    columns = ("arm", "seeds", *(f"loss, {named(budget)}" for budget in budgets), less, "FLOPs", time, "peak", "steps")
    rows = []
    for arm in sorted(arms, key=lambda arm: _loss(_group(analysis, arm, main))):
        group = _group(analysis, arm, main)
        cells = [arm, _seeds(analysis, arm, budgets)]
        cells += [_spread(_group(analysis, arm, budget)) for budget in budgets]
        if group is None:
            rows.append((*cells, *[MISSING] * 5))
            continue
        seconds = group.mean(analysis.seconds or measured_seconds)
        rows.append((
            *cells, _apart(group, base), formats.flops(group.mean(comparison.flops_of)),
            MISSING if math.isnan(seconds) else formats.seconds(seconds),
            formats.size(max(map(comparison.peak_of, group.records))), steps(group),
        ))  # fmt: skip
    notes = (
        f"{less}, FLOPs, seconds, peak and steps at {named(main)}; differences are over the seeds that both arms have, "
        "± the larger of the standard errors over clips and over seeds; in brackets: less than twice that error",
        *unmatched(analysis.at(main), base, main),
        *protocol_lines(analysis.suite),
    )
    return Table(f"{analysis.suite.name} at a glance", columns, tuple(rows), notes)


def glance(analysis: Analysis, budget: Budget) -> str:
    """A picture of every arm's loss, time and memory compared with the reference's, best loss first."""
    base = analysis.reference(budget)
    if base is None:
        return ""
    groups = sorted(analysis.at(budget), key=_loss)
    losses: list[tuple[float, float] | None] = []
    for group in groups:
        if group.arm == base.arm:
            losses.append((0.0, 0.0))
            continue
        if not comparison.paired(group, base):
            losses.append(None)
            continue
        found = comparison.difference(group, base)
        losses.append((found.mean, 2 * _error(found)))
    seconds = analysis.seconds
    cost = seconds or comparison.flops_of
    panels = [
        Panel(f"loss minus that of {base.arm}, ± two standard errors", losses, _signed, 0.0, 2.0),
        Panel(
            f"{'seconds' if seconds else 'FLOPs'}, {base.arm} = 1",
            [_of(group.mean(cost) / base.mean(cost)) for group in groups], _times, 1.0,
        ),
        Panel(
            f"peak memory, {base.arm} = 1",
            [_of(group.mean(comparison.peak_of) / base.mean(comparison.peak_of)) for group in groups], _times, 1.0,
        ),
    ]  # fmt: skip
    few = [group.arm for group in groups if len(group.records) < len(base.records)]
    note = f"left of the line is better; {len(base.records)} seeds" + (f", fewer of {len(few)} arms" if few else "")
    title = f"{analysis.suite.name}, {named(budget)}: all arms compared with {base.arm}"
    return dotplot(title, note, [group.arm for group in groups], panels, strong=base.arm)


def _main(analysis: Analysis) -> Budget | None:
    """The largest of the suite's own budgets, those of single arms aside, at which the reference has run.

    Equal steps where there is none.
    """
    able = [budget for budget in analysis.suite.settings.budgets if analysis.reference(budget)]
    return max(able) if able else EQUAL_STEPS if analysis.reference(EQUAL_STEPS) else None


def _group(analysis: Analysis, arm: str, budget: Budget) -> Group | None:
    found = analysis.groups.get((arm, budget))
    return found if found is not None and found.records else None


def _loss(group: Group | None) -> float:
    return math.inf if group is None else group.mean(comparison.loss_of)


def _seeds(analysis: Analysis, arm: str, budgets: list[Budget]) -> str:
    """How many at each budget; one number where they are the same."""
    groups = [_group(analysis, arm, budget) for budget in budgets]
    counts = [len(group.records) for group in groups if group is not None]
    return str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts))


def _spread(group: Group | None) -> str:
    if group is None:
        return MISSING
    around = group.spread(comparison.loss_of)
    return f"{group.mean(comparison.loss_of):.4f}" + ("" if math.isnan(around) else f" ± {around:.4f}")


def _apart(group: Group, base: Group | None) -> str:
    if base is None or group.arm == base.arm or not comparison.paired(group, base):
        return MISSING
    found = comparison.difference(group, base)
    text = f"{found.mean:+.4f} ± {_error(found):.4f}"
    return text if found.clear else f"[{text}]"


def _error(found: comparison.Difference) -> float:
    return max(error for error in (found.by_clip, found.by_seed) if not math.isnan(error))


def _of(ratio: float) -> tuple[float, float] | None:
    return None if math.isnan(ratio) else (ratio, 0.0)


def _signed(value: float) -> str:
    return f"{value:+g}" if value else "0"


def _times(value: float) -> str:
    return f"{value:g}x"
