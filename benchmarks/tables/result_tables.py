"""Tables by budget and by question: results, levers, memory caps, learning rates, and what searches chose."""

import math
from collections.abc import Callable, Sequence

from benchmarks.runner.run_plan import EQUAL_STEPS, Budget
from benchmarks.runner.run_record import Record
from benchmarks.tables import chance, comparison
from benchmarks.tables.analysis import MISSING, Analysis, Table, named
from benchmarks.tables.comparison import Group
from benchmarks.tables.protocol import protocol_lines
from entprog.profiling.units import parse_bytes
from entprog.report import formats

METRICS = {
    "l1": "L1",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "pose_error": "pose error",
    "frechet_frames": "Frechet (Lite0) frames",
    "frechet_clips": "Frechet (Lite0) clips",
}


def results(analysis: Analysis, budget: Budget) -> Table:
    """Every arm at one budget: loss, its difference to the reference, quality, cost, memory."""
    groups, base = analysis.at(budget), analysis.reference(budget)
    shown = measured(groups)
    time = "calibrated s" if analysis.seconds else "s as measured"
    names = (METRICS.get(name, name.replace("_", " ")) for name in shown)
    columns = ("arm", "seeds", "loss", "minus reference", "FLOPs", time, "peak", "mean memory", *names, "steps", "rate")
    rows = []
    for group in groups:
        cells = [group.arm, f"{len(group.records)}" + (f" ({group.diverged} diverged)" if group.diverged else "")]
        cells += [spread(group, comparison.loss_of), apart(group, base)]
        cells.append(compared(group, base, comparison.flops_of, formats.flops))
        cells.append(compared(group, base, analysis.seconds or measured_seconds, formats.seconds))
        cells.append(compared(group, base, comparison.peak_of, formats.size))
        cells.append(compared(group, base, comparison.mean_bytes_of, formats.size))
        cells += [spread(group, comparison.quality_of(name), 2 if name == "psnr" else 4) for name in shown]
        cells += [steps(group), f"x{group.records[0]['factor']:g}"]
        rows.append(tuple(cells))
    marked = {(best(groups, comparison.loss_of), 2)} if groups else set()
    share = analysis.suite.settings.equal_steps
    if not isinstance(budget, str):
        title = f"At {budget:g} x the cost of {analysis.suite.name}'s recipe"
    else:
        title = "At equal steps" + (f", {share:g} x the recipe's" if share != 1 else "")
    notes = [*protocol_lines(analysis.suite), *unmatched(groups, base, budget)]
    return Table(title, columns, tuple(rows), tuple(notes), frozenset(marked))


def measured(groups: Sequence[Group]) -> list[str]:
    """The metrics that all of these runs have, those of METRICS first."""
    names = [
        set((record["exam"] or {}).get("quality", {}).get("metrics", {}))
        for group in groups
        for record in group.records
    ]
    shared = set.intersection(*names) if names else set()
    return [name for name in METRICS if name in shared] + sorted(shared - METRICS.keys())


def chained(analysis: Analysis, budget: Budget) -> Table | None:
    """What each change brings: arms that differ by one thing each, every one compared with the one above it."""
    groups = {group.arm: group for group in analysis.at(budget)}
    known = [groups[arm] for arm in analysis.suite.settings.chain if arm in groups]
    if len(known) < 2:
        return None
    base, rows = known[0], []
    for before, group in zip([None, *known], known, strict=False):
        rows.append((
            group.arm, analysis.suite.arms[group.arm].about, spread(group, comparison.loss_of), apart(group, before),
            compared(group, before, comparison.peak_of, formats.size), compared(group, before, per_step, formats.flops),
            compared(group, base, comparison.peak_of, formats.size), compared(group, base, per_step, formats.flops),
        ))  # fmt: skip
    columns = ("arm", "what it changes", "loss", "minus the arm above", "peak (ratio to the arm above)",
               "FLOPs a step (ratio to the arm above)", "peak (ratio to the first)",
               "FLOPs a step (ratio to the first)")  # fmt: skip
    title = f"One lever at a time, {named(budget)}"
    return Table(title, columns, tuple(rows), tuple(protocol_lines(analysis.suite)))


def per_step(record: Record) -> float:
    """FLOPs of a run by its steps, scoring and search included."""
    return comparison.flops_of(record) / sum(record["steps"].values())


def capped(analysis: Analysis, cap: str) -> Table | None:
    """The arms that stay below a cap, best loss first, at every budget."""
    limit = parse_bytes(cap) or 0
    rows = []
    for budget in analysis.budgets:
        groups = [g for g in analysis.at(budget) if max(map(comparison.peak_of, g.records)) <= limit]
        base = analysis.reference(budget)
        for group in sorted(groups, key=lambda group: group.mean(comparison.loss_of)):
            memory = compared(group, base, comparison.peak_of, formats.size)
            flops = compared(group, base, comparison.flops_of, formats.flops)
            loss = spread(group, comparison.loss_of)
            rows.append((named(budget), group.arm, loss, apart(group, base), memory, flops))
    columns = ("budget", "arm", "loss", "minus reference", "peak", "FLOPs")
    return Table(f"Arms that take at most {cap}", columns, tuple(rows), tuple(protocol_lines(analysis.suite)))


def sweeps(analysis: Analysis) -> Table:
    """The learning rates that were tried, with the loss on the tuning exam of each."""
    rows = []
    for (arm, budget), state in analysis.plan.sweeps.items():
        centre = analysis.suite.arms[arm].lr_factor
        tried = []
        for rate in state.tried:
            loss = state.losses.get(rate)
            said = "to come" if loss is None else "diverged" if math.isinf(loss) else formats.significant(loss)
            tried.append(f"x{centre * rate:.3g} {said}")
        end = "under way" if state.best is None else "inside" if state.interior else "AT AN END"
        chosen = MISSING if state.best is None else f"x{centre * state.best:.3g}"
        rows.append((arm, named(budget), "; ".join(tried), chosen, end))
    columns = ("arm", "budget", "rate (multiple of the recipe's) and loss", "chosen", "best rate")
    return Table("Learning rates", columns, tuple(rows), tuple(protocol_lines(analysis.suite)))


def choosers(analysis: Analysis) -> Table:
    """Whether the choices of each arm that searches differ from choices at random."""
    rows = []
    for budget in analysis.budgets:
        for group in analysis.at(budget):
            found = chance.check(chance.searches(group.records))
            if found is not None:
                rows.append((
                    group.arm, named(budget), str(found.searches), f"{found.ratio:.3f}", f"{found.chance:.3f}",
                    f"{found.p_ratio:.3f}", f"{found.p_gain:.3f}",
                ))  # fmt: skip
    columns = ("arm", "budget", "searches", "best over mean", "permuted", "p (ratio)", "p (gains)")
    notes = (
        "best over mean: the best candidate's efficiency minus the mean over candidates, in units of their mean size; "
        "permuted: the same when each holdout reading is given to a random candidate and costs are kept (mean of 2000 "
        "permutations); p (ratio): share of permutations with at least that value; p (gains): share in which gains "
        "differ as much between cheap and expensive candidates; where it is large, choices follow from costs alone",
    )
    return Table(
        "Does the chooser see more than chance?", columns, tuple(rows), (*notes, *protocol_lines(analysis.suite))
    )


def unmatched(groups: Sequence[Group], base: Group | None, budget: Budget) -> list[str]:
    """Notes on what differs although it should not: the weights that runs started from, the cost of arms."""
    if base is None:
        return []
    started = sorted({str(record.get("base", ""))[:8] for group in groups for record in group.records})
    found = []
    if len(started) > 1:  # made again on another kind of processor
        found.append(f"started from different weights ({', '.join(started)}); only runs from the same ones are paired")
    for group in groups if budget != EQUAL_STEPS else ():
        ratio = group.mean(comparison.flops_of) / base.mean(comparison.flops_of)
        if abs(ratio - 1) > 0.02:
            found.append(
                f"{group.arm} took {ratio:.3f} x the reference's FLOPs: its search chose otherwise than in tuning"
            )
    return found


def measured_seconds(record: Record) -> float:
    """Wall seconds of the run; noisy on a shared machine."""
    return float(record["totals"]["seconds"])


def spread(group: Group, of: Callable[[Record], float], digits: int = 5) -> str:
    """Mean and standard deviation over seeds."""
    value, around = group.mean(of), group.spread(of)
    if math.isnan(value):
        return MISSING
    return f"{value:.{digits}f}" + ("" if math.isnan(around) else f" +- {around:.{digits}f}")


def apart(group: Group, base: Group | None) -> str:
    """The paired difference to the reference, with both standard errors; in brackets where it is not clear."""
    if base is None or group.arm == base.arm or not comparison.paired(group, base):
        return MISSING
    found = comparison.difference(group, base)
    errors = f"{found.by_clip:.5f} / " + (MISSING if math.isnan(found.by_seed) else f"{found.by_seed:.5f}")
    text = f"{found.mean:+.5f} (se {errors})"
    return text if found.clear else f"[{text}]"


def compared(group: Group, base: Group | None, of: Callable[[Record], float], text: Callable[[float], str]) -> str:
    """A cost, and what it is of the reference's."""
    value = group.mean(of)
    if math.isnan(value):
        return MISSING
    if base is None or group.arm == base.arm:
        return text(value)
    return f"{text(value)} ({formats.ratio(value / base.mean(of))})"


def steps(group: Group) -> str:
    """Steps by phase."""
    return " + ".join(str(count) for count in group.records[0]["steps"].values())


def best(groups: Sequence[Group], of: Callable[[Record], float]) -> int:
    """The place of the lowest mean."""
    return min(range(len(groups)), key=lambda i: groups[i].mean(of))
