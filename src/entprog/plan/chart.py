"""A plan as a picture: bytes at the peak by stage, stacked by category, with the device's memory as a line."""

from collections.abc import Iterator
from html import escape

from entprog.plan.rows import Plan, Row
from entprog.plan.screen import NAMES, stages
from entprog.report import formats
from entprog.report.charts import ticks

CATEGORIES = (
    ("weights", "#4e79a7"),
    ("gradients", "#e8a33d"),
    ("optimizer", "#8e6bad"),
    ("activations", "#59a180"),
)
"""Categories from left to right, with their colours."""

WIDTH, LABELS, RIGHT, ROW, BAR = 900, 290, 110, 24, 16


def svg(plan: Plan) -> str:
    """A standalone SVG, 900 px wide, as high as it has rows."""
    largest = max(row.peak for phase in plan.phases for row in phase.rows)
    memory = plan.hardware.usable
    # A device far larger than the run would squeeze the bars: then its line is left out, and the title says so.
    shown = memory <= 4 * largest
    high = 1.02 * max(largest, memory if shown else 0)
    scale = (WIDTH - LABELS - RIGHT) / high
    body: list[str] = []
    words: list[str] = []
    y = 92
    for phase in plan.phases:
        shape = phase.settings
        about = f"{shape.resolution} px, {shape.frames} frame{'s' * (shape.frames > 1)}, batch {shape.batch}"
        body.append(f'<text x="16" y="{y + 12}" class="phase">{escape(phase.name)}: {about}</text>')
        y += ROW
        for row in phase.rows:
            body += _bars(row, y, scale)
            words += _words(row, y, scale)
            y += ROW
        y += 10
    axis = list(_axis(high, scale, y))
    if shown:
        at = LABELS + memory * scale
        anchor = "end" if at > WIDTH - 200 else "start"
        shift = -6 if anchor == "end" else 6
        body.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="76" y2="{y}" class="device"/>')
        body.append(
            f'<text x="{at + shift:.1f}" y="84" text-anchor="{anchor}" class="memory">'
            f"{escape(formats.size(memory))} usable</text>"
        )
    told = f"{formats.size(plan.hardware.memory)}, {formats.size(plan.hardware.reserve)} of it in reserve"
    told += "" if shown else ": several times what is drawn here"
    title = f"{plan.model} on {plan.hardware.title}"
    keys, x = [], LABELS
    for name, colour in CATEGORIES:
        keys.append(f'<rect x="{x}" y="52" width="12" height="12" fill="{colour}"/>')
        keys.append(f'<text x="{x + 18}" y="62">{name}</text>')
        x += 34 + 8 * len(name)
    parts = "".join([*keys, *axis, *body, *words])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 40}" viewBox="0 0 {WIDTH} {y + 40}" '
        f'role="img" aria-label="{escape(title)}: peak memory by stage"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="16" y="28" class="title">{escape(title)}</text>'
        f'<text x="16" y="46">{escape(told)}</text>{parts}</svg>\n'
    )


STYLE = (
    "text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#333}"
    ".title{font-size:17px;font-weight:600;fill:#111}.phase{font-weight:600;fill:#111}"
    ".grid{stroke:#e3e3e3}.device{stroke:#c0392b;stroke-width:2;stroke-dasharray:5 4}"
    ".value{paint-order:stroke;stroke:#fff;stroke-width:5px;stroke-linejoin:round}"
    ".memory,.over{fill:#c0392b;font-weight:600}.tick{fill:#666}"
)


def _words(row: Row, y: int, scale: float) -> Iterator[str]:
    """What a row is, and its sum behind the bar; white around the letters keeps them clear of lines."""
    if row.kind == "stage":
        label = f"stage {stages(row.stages)}, m = {row.m}" + (f", {row.order}" if row.order else "")
    else:
        label = NAMES[row.kind]
    yield f'<text x="{LABELS - 10}" y="{y + 13}" text-anchor="end">{escape(label)}</text>'
    x = LABELS + row.peak * scale + 6
    style = "value" if row.fits else "value over"
    yield f'<text x="{x:.1f}" y="{y + 13}" class="{style}">{escape(formats.size(row.peak))}</text>'


def _bars(row: Row, y: int, scale: float) -> Iterator[str]:
    x = float(LABELS)
    for name, colour in CATEGORIES:
        wide = row.bytes.get(name, 0) * scale
        words = f"{name}: {formats.size(row.bytes.get(name, 0))}"
        yield (
            f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{BAR}" fill="{colour}">'
            f"<title>{escape(words)}</title></rect>"
        )
        x += wide


def _axis(high: float, scale: float, bottom: int) -> Iterator[str]:
    for value in ticks(0.0, high, 6, "bytes"):
        at = LABELS + value * scale
        yield f'<line x1="{at:.1f}" x2="{at:.1f}" y1="88" y2="{bottom}" class="grid"/>'
        words = formats.size(value) if value else "0"
        yield f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle" class="tick">{escape(words)}</text>'
