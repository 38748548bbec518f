"""A row an arm, a dot a number, panels side by side: who is where, and which differences are more than chance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.tables.scatter import STYLE, WIDTH
from entprog.report.charts import ticks

TOP, BOTTOM, ROW, NAMES, ROOM, EDGE = 84, 34, 20, 176, 28, 24
AHEAD, BEHIND, LEVEL = "#0a8a66", "#cf5208", "#6b7280"


@dataclass(frozen=True)
class Panel:
    """One number of every row.

    Attributes:
        values: (value, error) by row; None where a row has none.
        text: how a value on the axis is written.
        line: the value that all are compared with, drawn as a line; a row below it is ahead.
        share: of the width, relative to other panels.
    """

    label: str
    values: Sequence[tuple[float, float] | None]
    text: Callable[[float], str]
    line: float
    share: float = 1.0


def dotplot(title: str, note: str, names: Sequence[str], panels: Sequence[Panel], *, strong: str = "") -> str:
    """A standalone SVG 900 px wide; "" without rows.

    Dots further from the panel's line than their error are coloured: ahead (below it) or behind.

    Args:
        note: under the title.
        strong: the row with a band behind it, which the others are compared with.
    """
    if not names:
        return ""
    height = TOP + BOTTOM + ROW * len(names)
    available = WIDTH - NAMES - EDGE - ROOM * (len(panels) - 1)
    shares = sum(panel.share for panel in panels)
    body = []
    for i, name in enumerate(names):
        middle = TOP + ROW * (i + 0.5)
        if name == strong:
            body.append(f'<rect x="0" y="{middle - ROW / 2}" width="{WIDTH}" height="{ROW}" fill="#f1f1f1"/>')
        weight = ' style="font-weight:600"' if name == strong else ""
        body.append(f'<text x="{NAMES - 16}" y="{middle + 4}" text-anchor="end"{weight}>{escape(name)}</text>')
    left = float(NAMES)
    for panel in panels:
        width = available * panel.share / shares
        body += _drawn(panel, names, left, width, height)
        left += width + ROOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{escape(f"{title}. {note}")}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#ffffff"/><text x="16" y="28" class="title">{escape(title)}</text>'
        f'<text x="16" y="48" class="tick">{escape(note)}</text>{"".join(body)}</svg>\n'
    )


def _drawn(panel: Panel, names: Sequence[str], left: float, width: float, height: float) -> list[str]:
    known = [value for value in panel.values if value is not None]
    low = min([panel.line, *(v - e for v, e in known)])
    high = max([panel.line, *(v + e for v, e in known)])
    space = 0.05 * (high - low) or 1.0
    low, high = low - space, high + space

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * width

    body = [f'<text x="{left + width / 2:.1f}" y="{TOP - 12}" text-anchor="middle">{escape(panel.label)}</text>']
    for value in ticks(low, high, max(3, round(width / 70))):
        x = across(value)
        body.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}" class="grid"/>'
            f'<text x="{x:.1f}" y="{height - 12}" text-anchor="middle" class="tick">{escape(panel.text(value))}</text>'
        )
    x = across(panel.line)
    body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}" stroke="#555"/>')
    for i, (name, found) in enumerate(zip(names, panel.values, strict=True)):
        if found is None:
            continue
        value, error = found
        y = TOP + ROW * (i + 0.5)
        apart = abs(value - panel.line) > error
        colour = (AHEAD if value < panel.line else BEHIND) if apart else LEVEL
        if error:
            body.append(
                f'<line x1="{across(value - error):.1f}" x2="{across(value + error):.1f}" y1="{y}" y2="{y}" '
                f'class="error" style="stroke:{colour}"/>'
            )
        body.append(
            f'<circle cx="{across(value):.1f}" cy="{y}" r="4.5" fill="{colour}">'
            f"<title>{escape(f'{name}: {panel.text(value)}')}</title></circle>"
        )
    return body
