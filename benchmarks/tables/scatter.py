"""Charts of a suite as standalone SVG, for Markdown and for the page alike: lines and dots, named where they end."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from entprog.report.charts import ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 460, 84, 170, 64, 52
GAP = 16
"""Between two names."""

GREY = "#c2c7ce"

COLOURS = ("#0b6bb5", "#cf5208", "#0a8a66", "#a3508c", "#8a6a00", "#4b5563", "#b3261e", "#3b7d9e", "#6a8f00", "#7d4fc4")
STYLE = (
    "text{font:13px system-ui,-apple-system,'Segoe UI','Liberation Sans',sans-serif;fill:#333}"
    ".title{font-size:17px;font-weight:600;fill:#111}.grid{stroke:#e6e6e6}.tick{fill:#666}"
    ".line{fill:none;stroke-linejoin:round}.error{stroke-width:1.5}.lead{stroke-width:.8;opacity:.6}"
)


@dataclass(frozen=True)
class Series:
    """Points (x, y, error of y), joined by a line.

    `strong` is drawn heavier, for what others are compared with; `quiet` in grey and without its name.
    """

    name: str
    points: Sequence[tuple[float, float, float]]
    strong: bool = False
    quiet: bool = False


def chart(
    title: str, x_label: str, y_label: str, series: Sequence[Series], *, x_text: Callable[[float], str],
    kind: str = "number", logarithmic: bool = False, dots: bool = True,
) -> str:  # fmt: skip
    """A standalone SVG 900 px wide and 460 high, or as high as its names need; "" where there is nothing to draw.

    Args:
        x_text: how a value on the horizontal axis is written.
        kind: what the horizontal axis counts ("number", "bytes"), for round steps.
        logarithmic: whether that axis is.
        dots: whether each point is marked, with its error.
    """
    points = [point for each in series for point in each.points]
    if not points:
        return ""
    height = max(HEIGHT, TOP + BOTTOM + GAP * sum(bool(each.points) and not each.quiet for each in series))
    scale = math.log10 if logarithmic else float
    xs = [scale(x) for x, _, _ in points]
    lows, highs = [y - e for _, y, e in points], [y + e for _, y, e in points]
    x_low, x_high = _wider(min(xs), max(xs))
    y_low, y_high = _wider(min(lows), max(highs))

    def across(x: float) -> float:
        return LEFT + (scale(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return height - BOTTOM - (y - y_low) / (y_high - y_low) * (height - TOP - BOTTOM)

    body = [_grid_y(y, up(y)) for y in ticks(y_low, y_high)]
    values = _decades(x_low, x_high) if logarithmic else ticks(x_low, x_high, 5, kind)
    body += [
        f'<text x="{across(x):.1f}" y="{height - BOTTOM + 20}" text-anchor="middle" class="tick">'
        f"{escape(x_text(x))}</text>"
        for x in values
    ]
    names: list[tuple[float, float, str, str]] = []
    order = [each for each in series if each.quiet] + [each for each in series if not each.quiet]
    named = [each for each in order if not each.quiet]
    for each in order:
        if not each.points:
            continue
        colour = GREY if each.quiet else COLOURS[named.index(each) % len(COLOURS)]
        placed = [(across(x), up(y), up(y - e) - up(y)) for x, y, e in each.points]
        if len(placed) > 1:
            path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)
            width = 3.5 if each.strong else 2
            # In the style attribute, as the style sheet of a page around the picture would override the other.
            body.append(f'<path d="{path}" class="line" style="stroke:{colour};stroke-width:{width}"/>')
        for (x, y, e), (_, value, _) in zip(placed, each.points, strict=True):
            if dots and e:
                ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{y - e:.1f}" y2="{y + e:.1f}"'
                body.append(f'<line {ends} class="error" style="stroke:{colour}"/>')
            if dots:
                label = escape(f"{each.name}: {value:.5g}")
                radius = 6 if each.strong else 4
                body.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"><title>{label}</title></circle>'
                )
        x, y, _ = max(placed)
        if not each.quiet:
            names.append((y, x, each.name, colour))
    body += _names(names, height)
    label = escape(f"{title}. Horizontal: {x_label}. Vertical: {y_label}.")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{label}"><style>{STYLE}</style><rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="16" y="28" class="title">{escape(title)}</text><text x="16" y="50">{escape(y_label)}</text>'
        f"{''.join(body)}"
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{height - 10}" text-anchor="middle">{escape(x_label)}</text>'
        "</svg>\n"
    )


def _grid_y(value: float, at: float) -> str:
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>'
        f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" class="tick">{value:.6g}</text>'
    )


def _names(ends: Sequence[tuple[float, float, str, str]], height: int) -> list[str]:
    """Names in a column at the right, each joined to where its line ends, none over another."""
    found = []
    place: float = TOP - GAP
    ordered = sorted(ends)
    for i, (y, x, name, colour) in enumerate(ordered):
        highest = height - BOTTOM - GAP * (len(ordered) - 1 - i)
        place = min(max(place + GAP, y), max(highest, place + GAP))
        left = WIDTH - RIGHT + 24
        line = f'x1="{x + 6:.1f}" y1="{y:.1f}" x2="{left - 4}" y2="{place:.1f}"'
        found.append(
            f'<line {line} class="lead" style="stroke:{colour}"/>'
            f'<text x="{left}" y="{place + 4:.1f}" style="fill:{colour}">{escape(name)}</text>'
        )
    return found


def _decades(low: float, high: float) -> list[float]:
    """Round values on a logarithmic axis from 10^low to 10^high; where that is short, those of a straight one."""
    found = [
        digit * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for digit in (1, 2, 5)
        if low <= math.log10(digit) + power <= high
    ]
    return found if len(found) > 2 else ticks(10**low, 10**high, 4)


def _wider(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin
