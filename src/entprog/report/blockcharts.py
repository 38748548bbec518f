"""Charts with one row a block: importance with cost, and which block trained when."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby, pairwise
from typing import Any

from entprog.report import charts, formats
from entprog.report.charts import Axis, cent
from entprog.report.collect import Phase, Run, Step, number
from entprog.report.curves import columns, finite, spans

COSTS = (
    ("parameters", "parameters", formats.count),
    ("lowest_depth", "depth", lambda value: f"{value:.0f}" if math.isfinite(value) else formats.MISSING),
    ("flops", "FLOPs", formats.flops),
    ("seconds", "time", formats.seconds),
    ("bytes", "memory", formats.size),
)
WEIGHED = ("flops", "seconds", "bytes")
LEVELS = 4


def importance(phase: Phase) -> str:
    """Importance by block in network order, ranks written on the bars, each block's cost beside it."""
    scores = phase.scores
    values = {name: number(value) for name, value in (scores.get("values") or {}).items()}
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    if not known:
        return ""
    names = [name for name in phase.blocks if name in values] or list(values)
    order = [name for name in scores.get("order") or () if name in values]
    order = order or sorted(known, key=lambda name: -known[name])
    rank = {name: place + 1 for place, name in enumerate(order)}
    error = {name: finite(number(value)) or 0.0 for name, value in (scores.get("stderr") or {}).items()}
    scale = _scale(known, error)
    largest = max(map(abs, known.values()))
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest else 0
    heads, cells = _costs(scores.get("cost") or {}, names)
    rows = []
    for name in names:
        spread = f" &plusmn; {error[name]:.{decimals}f}" if error.get(name) else ""
        bar = _bar(scale, values[name], error.get(name, 0.0), rank.get(name))
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td class="bar">{bar}</td>'
            f"<td>{values[name]:.{decimals}f}<small>{spread}</small></td>{cells[name]}</tr>"
        )
    axis = "".join(
        f'<text x="{cent(scale.place(value))}" y="12" text-anchor="middle">{words}</text>'
        for value, words in scale.ticks()
    )
    name = str(scores.get("score") or "score")
    unit = " (nats)" if name == "cei" else ""
    label = f"Importance by block in {phase.name}, score {name}, in network order"
    return (
        f'<figure class="chart"><figcaption><b>{escape(phase.name)}</b>'
        f"<span>{_concentration(known, scores)}</span></figcaption>"
        f'<div class="scroll"><table class="importance" aria-label="{escape(label)}">'
        "<thead><tr><th>block</th>"
        f'<th class="bar">importance: {escape(name)}{unit}<svg width="100%" height="16">{axis}</svg></th>'
        f"<th>value &plusmn; s.e.</th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        "</figure>"
    )


def _scale(values: Mapping[str, float], error: Mapping[str, float]) -> Axis:
    low = min(0.0, *(value - error.get(name, 0.0) for name, value in values.items()))
    high = max(0.0, *(value + error.get(name, 0.0) for name, value in values.items()))
    return Axis(low, high + 0.16 * (high - low or 1.0), "", count=3)  # room for the rank beside the longest bar


def _costs(cost: Mapping[str, Any], names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The heads of the cost columns that are known, and the cells of each block."""
    found = {name: {key: number((cost.get(name) or {}).get(key)) for key, *_ in COSTS} for name in names}
    kinds = [kind for kind in COSTS if any(math.isfinite(row[kind[0]]) for row in found.values())]
    cells = dict.fromkeys(names, "")
    for key, _, text in kinds:
        largest = max(finite(row[key]) or 0.0 for row in found.values())
        for name, row in found.items():
            style = ""
            if key in WEIGHED and largest and math.isfinite(row[key]):
                style = f' class="cost" style="--share:{cent(row[key] / largest)}"'
            cells[name] += f"<td{style}>{text(row[key])}</td>"
    return "".join(f"<th>{title}</th>" for _, title, _ in kinds), cells


def _bar(scale: Axis, value: float, error: float, rank: int | None) -> str:
    if not math.isfinite(value):
        return '<span class="muted">not a number</span>'
    zero, end = scale.place(0.0), scale.place(value)
    left, right = scale.place(value - error), scale.place(value + error)
    tip, style = max(zero, end, right), "fill" if value >= 0 else "fill below"
    place = f'<text x="{cent(tip)}" dx="6" y="8" dy=".35em" class="rank">{rank}</text>' if rank else ""
    return (
        '<svg width="100%" height="16" aria-hidden="true">'
        f'<line x1="{cent(zero)}" x2="{cent(zero)}" y2="100%" class="zero"/>'
        f'<rect x="{cent(min(zero, end))}" width="{cent(abs(end - zero))}" y="2" height="12" '
        f'class="{style}"/>'
        f'<line x1="{cent(left)}" x2="{cent(right)}" y1="8" y2="8" class="error"/>{place}</svg>'
    )


def _concentration(values: Mapping[str, float], scores: Mapping[str, Any]) -> str:
    top = min(3, len(values))
    sizes = sorted((abs(value) for value in values.values()), reverse=True)
    words = []
    if (whole := sum(sizes)) and len(values) > top:
        share = formats.percent(sum(sizes[:top]) / whole)
        words.append(f"the top {top} of {len(values)} hold {share} of all importance")
    if math.isfinite(samples := number(scores.get("samples"))):
        words.append(f"{samples:.0f} samples")
    if math.isfinite(seconds := number(scores.get("seconds"))):
        words.append(f"scored in {formats.seconds(seconds)}")
    return ", ".join(words)


def block_map(run: Run) -> str:
    """Block x step: one row a block, a rectangle for each stretch of steps in which it trained.

    Long runs are drawn in at most 600 columns; a column in which a block trained only at times is paler.
    """
    steps = run.steps
    names = list(dict.fromkeys(name for phase in run.phases for name in phase.blocks))
    if not steps or not names:
        return ""
    kinds = list(dict.fromkeys(_kind(name) for name in names))
    x = Axis(0.0, float(steps[-1].step + 1), "step", kind="step")
    parts = columns(steps)
    edges = [float(part[0].step) for part in parts] + [x.high]
    blocks = {phase.name: phase.blocks for phase in run.phases}
    sets = [active_shares(part, blocks) for part in parts]
    rows = []
    for name in names:
        shares = [found.get(name, 0.0) for found in sets]
        trained = sum(share * len(part) for share, part in zip(shares, parts, strict=True))
        body = "".join(
            f'<path opacity="{level / LEVELS:.2g}" d="{rectangles(shares, edges, level, x)}"/>'
            for level in range(1, LEVELS + 1)
            if any(level_of(share) == level for share in shares)
        )
        words = f"{name}: trained in {trained:.0f} of {len(steps)} steps"
        kind = f"kind-{kinds.index(_kind(name)) % 4}"
        rows.append(_row(kind, name, body, formats.percent(trained / len(steps)), words))
    searched = [float(any(step.searching for step in part)) for part in parts]
    if any(searched):
        path = f'<path d="{rectangles(searched, edges, LEVELS, x)}"/>'
        count = sum(step.searching for step in steps)
        rows.insert(0, _row("search", "search", path, "", f"{count} steps of search"))
    heads = "".join(
        f'<span style="left:{cent(x.place(low))};width:{cent(x.place(high) - x.place(low))}">{escape(name)}</span>'
        for name, low, high in spans(run, "step")
    )
    lines = "".join(f'<i style="left:{cent(x.place(at))}"></i>' for at in _stage_starts(steps))
    foot = "".join(
        f'<text x="{cent(x.place(value))}" y="12" text-anchor="middle">{words}</text>' for value, words in x.ticks()
    )
    keys = charts.legend([(kind, f"var(--kind-{i % 4})") for i, kind in enumerate(kinds)], "box")
    longest = max(map(len, names))
    label = f"Which block trained when in run {run.label}: {len(names)} blocks over {len(steps)} steps"
    return (
        f'<figure class="chart map"><figcaption><b>{escape(run.label)}</b>{keys}</figcaption>'
        f'<div class="map-body" style="--long:{longest}" role="img" aria-label="{escape(label)}">'
        f'<div class="row head"><b>block</b><div class="bands">{heads}</div><span>share</span></div>'
        f'<div class="stages">{lines}</div>{"".join(rows)}'
        f'<div class="row foot"><b></b><svg height="16">{foot}</svg><span></span></div></div>'
        f'<div class="axis-x">step (thin lines: a new stage; share: of all steps of the run)</div></figure>'
    )


def _row(style: str, name: str, body: str, share: str, words: str) -> str:
    return (
        f'<div class="row {style}" title="{escape(words)}"><b><bdi dir="ltr">{escape(name)}</bdi></b>'
        f'<svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">{body}</svg>'
        f"<span>{share}</span></div>"
    )


def _kind(name: str) -> str:
    """What a block is, for its colour: its name without the last number."""
    return name.rstrip("0123456789").rstrip("._ ") or name


def active_shares(part: Sequence[Step], blocks: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """How often each block trained within the steps of one column, 0..1."""
    found: dict[str, float] = {}
    for step in part:
        names = blocks.get(step.phase, ())
        for index in step.active:
            if 0 <= index < len(names):
                found[names[index]] = found.get(names[index], 0.0) + 1 / len(part)
    return found


def level_of(share: float) -> int:
    return math.ceil(share * LEVELS - 1e-9)


def rectangles(shares: Sequence[float], edges: Sequence[float], level: int, x: Axis) -> str:
    """Run-length encoding: one rectangle for each stretch of columns at `level`."""
    drawn, place = [], 0
    for here, group in groupby(shares, key=level_of):
        length = len(list(group))
        if here == level:
            left, right = 1000 * x.place(edges[place]), 1000 * x.place(edges[place + length])
            drawn.append(f"M{left:.5g},0H{right:.5g}V10H{left:.5g}Z")
        place += length
    return "".join(drawn)


def _stage_starts(steps: Sequence[Step]) -> list[int]:
    return [step.step for before, step in pairwise(steps) if (before.phase, before.stage) != (step.phase, step.stage)]
