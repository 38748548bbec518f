"""The picture of a schedule: which block trained at which step, several runs below each other, as one SVG file."""

from collections.abc import Sequence
from html import escape

from entprog.report import formats
from entprog.report.blockcharts import LEVELS, active_shares, level_of, rectangles
from entprog.report.charts import Axis
from entprog.report.collect import Run
from entprog.report.curves import columns, spans

WIDE, NAME, END, ROW, HEAD, FOOT = 760, 92, 52, 11, 44, 30
INKS = ("#0b6bb5", "#dd7a1a", "#0a8a66", "#a3508c")
INK, SOFT, REST = "#1f2328", "#5d6470", "#edeae3"


def schedule_picture(runs: Sequence[Run]) -> str:
    """A standalone SVG of all runs that have steps, one below the other; the steps share one scale."""
    drawn = [run for run in runs if run.steps and any(phase.blocks for phase in run.phases)]
    last = max((run.steps[-1].step + 1 for run in drawn), default=1)
    y, body = 0, []
    for run in drawn:
        part, height = _panel(run, Axis(0.0, float(last), "step", kind="step"))
        body.append(f'<g transform="translate(0 {y})">{part}</g>')
        y += height
    words = "Which block trained when: " + ", ".join(run.label for run in drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {max(y, 1)}" width="{WIDE}" '
        f'height="{max(y, 1)}" role="img" aria-label="{escape(words)}" '
        'font-family="Liberation Sans, Arial, sans-serif" font-size="10">'
        f'<rect width="{WIDE}" height="{max(y, 1)}" fill="#ffffff"/>{"".join(body)}</svg>\n'
    )


def _panel(run: Run, x: Axis) -> tuple[str, int]:
    """One run's map and its height."""
    names = list(dict.fromkeys(name for phase in run.phases for name in phase.blocks))
    kinds = list(dict.fromkeys(name.split(".")[0] for name in names))
    parts = columns(run.steps)
    edges = [float(part[0].step) for part in parts] + [float(run.steps[-1].step + 1)]
    blocks = {phase.name: phase.blocks for phase in run.phases}
    sets = [active_shares(part, blocks) for part in parts]
    inner = WIDE - NAME - END
    body = [f'<text x="0" y="14" font-size="13" font-weight="bold" fill="{INK}">{escape(run.label)}</text>']
    for name, low, high in spans(run, "step"):
        at = NAME + inner * x.place((low + high) / 2)
        body.append(f'<text x="{at:.1f}" y="{HEAD - 8}" text-anchor="middle" fill="{SOFT}">{escape(name)}</text>')
    for row, name in enumerate(names):
        y, ink = HEAD + row * ROW, INKS[kinds.index(name.split(".")[0]) % len(INKS)]
        shares = [found.get(name, 0.0) for found in sets]
        share = sum(s * len(part) for s, part in zip(shares, parts, strict=True)) / len(run.steps)
        paths = "".join(
            f'<path fill="{ink}" opacity="{level / LEVELS:.2g}" d="{rectangles(shares, edges, level, x)}"/>'
            for level in range(1, LEVELS + 1)
            if any(level_of(s) == level for s in shares)
        )
        body.append(
            f'<text x="{NAME - 6}" y="{y + ROW - 2.5}" text-anchor="end" fill="{SOFT}">{escape(name)}</text>'
            f'<rect x="{NAME}" y="{y}" width="{inner}" height="{ROW - 1}" fill="{REST}"/>'
            f'<svg x="{NAME}" y="{y}" width="{inner}" height="{ROW - 1}" viewBox="0 0 1000 10" '
            f'preserveAspectRatio="none">{paths}</svg>'
            f'<text x="{WIDE}" y="{y + ROW - 2.5}" text-anchor="end" fill="{SOFT}">{formats.percent(share)}</text>'
        )
    y = HEAD + len(names) * ROW
    for value, words in x.ticks():
        at = NAME + inner * x.place(value)
        body.append(f'<text x="{at:.1f}" y="{y + 12}" text-anchor="middle" fill="{SOFT}">{words}</text>')
    body.append(f'<text x="{WIDE}" y="{HEAD - 8}" text-anchor="end" fill="{SOFT}">of its steps</text>')
    return "".join(body), y + FOOT
