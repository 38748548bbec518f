"""The curves of the report: loss over steps and over seconds, memory over steps."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from entprog.report import charts, formats
from entprog.report.charts import Axis, Point
from entprog.report.collect import CATEGORIES, Run, Step, number

COLOURS = 6


def colour(index: int) -> str:
    """The colour of the run at `index`, as a CSS variable."""
    return f"var(--run-{index % COLOURS})"


def spans(run: Run, by: str) -> list[tuple[str, float, float]]:
    """(phase, from, to) of the phases of a run along "step" or "elapsed"."""
    found = []
    for name, group in groupby(run.steps, key=lambda step: step.phase):
        part = list(group)
        begin = part[0].step if by == "step" else part[0].elapsed - (finite(part[0].seconds) or 0.0)
        found.append((name, float(begin), float(part[-1].step + 1 if by == "step" else part[-1].elapsed)))
    return found


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def loss(runs: Sequence[Run], by: str) -> str:
    """Training loss of all runs over "step" or "elapsed" seconds, with the holdout losses as dots."""
    drawn = [run for run in runs if run.steps]
    if not drawn:
        return ""
    seconds = by == "elapsed"
    ends = [spans(run, by)[-1][2] for run in drawn]
    x = _time_axis(max(ends)) if seconds else Axis(0.0, max(ends), "step", kind="step")
    lines = [(run, list(_loss_parts(run, by))) for run in runs]
    low, high = _loss_range([part for _, parts in lines for part in parts], runs)
    y = Axis(low, high, "loss (noise-prediction MSE)")
    paths, marks, outside, broken = [], [], 0, 0
    for index, (run, parts) in enumerate(lines):
        ink = f'style="color:{colour(index)}"'
        for raw, smoothed in parts:
            known = [point for point in raw if math.isfinite(point[1])]
            outside += sum(not low <= value <= high for _, value in known)
            paths.append(f'<path class="raw" {ink} d="{charts.path(charts.bucket(known), x, y)}"/>')
            curve = charts.bucket([point for point in smoothed if math.isfinite(point[1])])
            name = escape(run.label)
            paths.append(f'<path class="line" {ink} data-label="{name}" d="{charts.path(curve, x, y)}"/>')
        for step in run.steps:
            if not math.isfinite(step.loss):
                broken += 1
                at = x.place(step.elapsed if seconds else step.step)
                if broken <= 50:  # a run that went on with NaN needs no thousand crosses
                    words = f"{run.label}: loss is NaN or infinite at step {step.step}"
                    marks.append(charts.mark(at, 0.96, "var(--alarm)", words, "cross"))
        for at, value, title in _holdouts(run, by):
            marks.append(charts.mark(x.place(at), y.place(value), colour(index), title))
    note = "Faint: every step. Line: moving average, restarted in each phase. Dots: holdout loss."
    if outside:
        note += f" Outside the frame: {outside} of the single steps."
    if broken:
        note += f" Crosses: {broken} steps with a loss that is NaN or infinite."
    bands = spans(max(drawn, key=lambda run: len(run.steps)) if not seconds else drawn[0], by)
    if seconds and len(drawn) > 1:
        note += f" Bands: the phases of {escape(drawn[0].label)}."
    keys = charts.legend([(run.label, colour(i)) for i, run in enumerate(runs) if run.steps])
    title = "Loss over time" if seconds else "Loss over steps"
    return charts.plot(title, x, y, paths, marks, bands, note=note, legend=keys)


def _time_axis(end: float) -> Axis:
    if end < 90:
        return Axis(0.0, end, "training time (s)", kind="seconds")
    small = 1 if end < 5400 else 60
    label = "training time (min:s)" if small == 1 else "training time (h:min)"
    return Axis(0.0, end, label, lambda t: f"{t // small // 60:.0f}:{t // small % 60:02.0f}", "seconds")


def _loss_parts(run: Run, by: str) -> Iterator[tuple[list[Point], list[Point]]]:
    """Raw and smoothed points of each phase."""
    for _, group in groupby(run.steps, key=lambda step: step.phase):
        part = list(group)
        places = [step.elapsed if by == "elapsed" else float(step.step) for step in part]
        values = [step.loss for step in part]
        even = charts.smooth(values, max(4.0, len(part) / 25))
        yield list(zip(places, values, strict=True)), list(zip(places, even, strict=True))


def _loss_range(parts: Sequence[tuple[list[Point], list[Point]]], runs: Sequence[Run]) -> tuple[float, float]:
    """All smoothed and holdout values, and all but the most extreme single steps."""
    raw = sorted(value for part, _ in parts for _, value in part if math.isfinite(value))
    if not raw:
        return 0.0, 1.0
    even = [value for _, part in parts for _, value in part if math.isfinite(value)]
    dots = [value for run in runs for _, value, _ in _holdouts(run, "step")]
    cut = len(raw) // 200
    low, high = min(raw[cut], *even, *dots), max(raw[-1 - cut], *even, *dots)
    margin = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if 0 <= low < 0.25 * high else low - margin), high + margin


def _holdouts(run: Run, by: str) -> Iterator[tuple[float, float, str]]:
    for event in run.events_of("holdout"):
        value, at = number(event.get("loss")), number(event.get("elapsed" if by == "elapsed" else "step"))
        if math.isfinite(value) and math.isfinite(at):
            where = f"{event.get('phase', '')} step {event.get('step', '?')}"
            log_loss = number(event.get("log_loss"))
            watched = f" (mean log of the bands {log_loss:.3f})" if math.isfinite(log_loss) else ""
            yield at, value, f"{run.label}: holdout loss {formats.significant(value)}{watched} at {where}"


def memory(run: Run, high: float) -> str:
    """Live bytes by category, stacked, with the peak of each step as a line; `high` is shared by all runs."""
    steps = run.steps
    if not any(math.isfinite(step.bytes_peak) or step.live for step in steps):
        return ""
    x = Axis(0.0, float(steps[-1].step + 1), "step", kind="step")
    y = Axis(0.0, 1.06 * high, "memory (binary units)", formats.size, "bytes", 4)
    parts = [part for part in columns(steps) if any(step.live for step in part)]
    below = [(float(part[0].step), 0.0) for part in parts]
    paths = []
    for place in range(len(CATEGORIES)):
        most = [max(finite(step.live[place]) or 0.0 for step in part if step.live) for part in parts]
        above = [(at, low + more) for (at, low), more in zip(below, most, strict=True)]
        area = charts.band(charts.stairs(above, x.high), charts.stairs(below, x.high), x, y)
        paths.append(f'<path class="area" style="color:var(--live-{place})" d="{area}"/>')
        below = above
    tops = [(float(part[0].step), max(finite(s.bytes_peak) or 0.0 for s in part)) for part in columns(steps)]
    peaks = charts.stairs([point for point in tops if point[1]], x.high)
    if peaks:
        paths.append(f'<path class="line peak" data-label="peak" d="{charts.path(peaks, x, y)}"/>')
    entries = [(name, f"var(--live-{place})") for place, name in enumerate(CATEGORIES)] if parts else []
    keys = charts.legend(entries, "box") + charts.legend([("peak of the step", "currentColor")] if peaks else [])
    return charts.plot(run.label, x, y, paths, (), spans(run, "step"), height=200, legend=keys)


def columns(steps: Sequence[Step]) -> list[Sequence[Step]]:
    """The steps as columns of the map: each step, or buckets of steps in long runs."""
    width = max(1, math.ceil(len(steps) / charts.POINTS))
    return [steps[i : i + width] for i in range(0, len(steps), width)]
