"""Inline SVG that keeps its text size at any width.

A plot is an SVG without a view box: everything is placed in percent and nothing scales with the page.
Only the paths live in an inner SVG of 1000 x 1000 units that is stretched over the plot, with strokes that
do not stretch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

POINTS = 600
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis; its `kind` ("number", "bytes", "seconds", "step") decides how values are printed."""

    low: float
    high: float
    label: str
    text: Callable[[float], str] | None = None
    kind: str = "number"
    count: int = 5

    def place(self, value: float) -> float:
        """Where a value lies, 0 at the low end, 1 at the high end; values outside stay outside."""
        return (value - self.low) / ((self.high - self.low) or 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values inside the axis, about `count` of them, and how each is printed."""
        values = ticks(self.low, self.high, self.count, self.kind)
        if self.text:
            return [(value, self.text(value)) for value in values]
        if self.kind == "step" and self.high >= 10_000:
            return [(value, f"{value / 1000:g}k" if value else "0") for value in values]
        apart = values[1] - values[0] if len(values) > 1 else abs(self.high) or 1.0
        decimals = max(0, math.ceil(-math.log10(apart) - 1e-9))
        return [(value, f"{value:.{decimals}f}") for value in values]


def ticks(low: float, high: float, count: int = 5, kind: str = "number") -> list[float]:
    """Round values from `low` to `high` by 1, 2 or 5; binary steps for bytes, clock steps for seconds."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    wanted = span / count
    if kind == "seconds" and wanted > 5:
        clock = [10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200]
        step = float(next((s for s in clock if s >= wanted), 86400 * math.ceil(wanted / 86400)))
    elif kind == "bytes":
        unit = 1024.0 ** max(0, math.floor(math.log(max(wanted, 1.0), 1024)))
        step = unit * _round_step(wanted / unit)
    else:
        step = _round_step(wanted)
        if kind == "step":
            step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _round_step(wanted: float) -> float:
    power = 10.0 ** math.floor(math.log10(wanted))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= wanted * 0.85))


def bucket(points: Sequence[Point], limit: int = POINTS) -> list[Point]:
    """At most about `limit` points that keep the outline: the lowest and highest of each bucket, in order."""
    if len(points) <= limit:
        return list(points)
    width = 2 * len(points) / limit
    kept: list[Point] = []
    for i in range(limit // 2):
        part = range(int(i * width), min(int((i + 1) * width), len(points)))
        low, high = min(part, key=lambda j: points[j][1]), max(part, key=lambda j: points[j][1])
        kept += [points[j] for j in sorted({low, high})]
    return kept


def smooth(values: Sequence[float], span: float) -> list[float]:
    """Exponential moving average over about `span` values, unbiased from the first on; NaN is passed over."""
    keep = 1 - 1 / max(1.0, span)
    mean = weight = 0.0
    result = []
    for value in values:
        if math.isfinite(value):
            mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(mean / weight if weight else float("nan"))
    return result


def stairs(points: Sequence[Point], end: float) -> list[Point]:
    """The same values held until the next point, the last one until `end`; stretches of one value merged."""
    kept: list[Point] = []
    for place, value in points:
        if not kept or kept[-1][1] != value:
            kept += [(place, kept[-1][1]), (place, value)] if kept else [(place, value)]
    return [*kept, (end, kept[-1][1])] if kept else kept


def path(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Path data of a line through `points`, in units of the inner SVG."""
    return "M" + "L".join(f"{_unit(x.place(a))},{_unit(1 - y.place(b))}" for a, b in points) if points else ""


def band(upper: Sequence[Point], lower: Sequence[Point], x: Axis, y: Axis) -> str:
    """Path data of the area between two lines over the same x."""
    back = [(a, b) for a, b in reversed(lower)]
    return path([*upper, *back], x, y) + "Z" if upper else ""


def _unit(share: float) -> str:
    return f"{1000 * max(-1.0, min(2.0, share)):.1f}".removesuffix(".0")


def cent(share: float) -> str:
    """A share of the plot as a percentage for an SVG attribute."""
    return f"{100 * share:.2f}%"


def mark(x: float, y: float, colour: str, title: str, shape: str = "dot") -> str:
    """A mark at shares (x, y) of the plot, y upwards: a dot, or a cross for what cannot be drawn (NaN)."""
    if shape == "cross":
        body = '<path d="M-5,-5L5,5M-5,5L5,-5" class="cross"/>'
    else:
        body = '<circle r="3.2" class="dot"/>'
    return (
        f'<svg x="{cent(x)}" y="{cent(1 - y)}" class="mark" style="color:{colour}">'
        f"<g><title>{escape(title)}</title>{body}</g></svg>"
    )


def plot(
    title: str,
    x: Axis,
    y: Axis,
    paths: Sequence[str],
    marks: Sequence[str] = (),
    bands: Sequence[tuple[str, float, float]] = (),
    *,
    height: int = 250,
    note: str = "",
    legend: str = "",
) -> str:
    """A figure with its title, axes with units, phase bands (name, from, to) behind, and its legend.

    `paths` are SVG paths in units of the inner SVG, `marks` come from `mark`.
    """
    grid, names = [], []
    for i, (name, low, high) in enumerate(bands):
        left, right = max(0.0, x.place(low)), min(1.0, x.place(high))
        grid.append(
            f'<rect x="{cent(left)}" width="{cent(right - left)}" height="100%" class="band{i % 2}"/>',
        )
        names.append(f'<span style="left:{cent(left)};width:{cent(right - left)}">{escape(name)}</span>')
    for value, words in y.ticks():
        at = cent(1 - y.place(value))
        grid.append(f'<line x2="100%" y1="{at}" y2="{at}" class="grid"/>')
        grid.append(f'<text x="-8" y="{at}" dy=".32em" text-anchor="end">{escape(words)}</text>')
    for value, words in x.ticks():
        at = cent(x.place(value))
        grid.append(f'<line x1="{at}" x2="{at}" y1="100%" y2="100%" class="tick"/>')
        grid.append(f'<text x="{at}" y="100%" dy="18" text-anchor="middle">{escape(words)}</text>')
    label = f"{title}. Horizontal: {x.label}. Vertical: {y.label}."
    data = f'data-x="{x.low:.6g},{x.high:.6g},{x.kind}" data-y="{y.low:.6g},{y.high:.6g},{y.kind}"'
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>{legend}</figcaption>'
        f'<div class="axis-y">{escape(y.label)}</div>'
        f'<div class="bands">{"".join(names)}</div>'
        f'<div class="plot" style="height:{height}px" {data}>'
        f'<svg role="img" aria-label="{escape(label)}" width="100%" height="100%">{"".join(grid)}'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">'
        f"{''.join(paths)}</svg>{''.join(marks)}</svg></div>"
        f'<div class="axis-x">{escape(x.label)}</div>'
        f"{f'<p class=note>{note}</p>' if note else ''}</figure>"
    )


def legend(entries: Sequence[tuple[str, str]], shape: str = "line") -> str:
    """The key of a chart: (name, colour) pairs; `shape` is "line" or "box"."""
    keys = "".join(
        f'<span><i class="{shape}" style="--c:{colour}"></i>{escape(name)}</span>' for name, colour in entries
    )
    return f'<span class="legend">{keys}</span>'
