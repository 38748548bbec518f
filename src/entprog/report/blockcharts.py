"""Charts with one row a block: importance with cost, and which block trained when."""

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby, pairwise
from typing import Any

from entprog.report import charts, units
from entprog.report.charts import Axis
from entprog.report.collect import Phase, Run, Step, number
from entprog.report.curves import columns, finite, spans

COSTS = (
    ("parameters", "parameters", units.count),
    ("lowest_depth", "lowest depth", lambda value: f"{value:.0f}"),
    ("flops", "FLOPs a step", units.flops),
    ("seconds", "time a step", units.seconds),
    ("bytes", "memory", units.size),
)


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
    low = min(0.0, *(value - error.get(name, 0.0) for name, value in known.items()))
    high = max(0.0, *(value + error.get(name, 0.0) for name, value in known.items()))
    scale = Axis(
        low, high + 0.16 * (high - low or 1.0), "", lambda value: units.significant(value, 2), count=3
    )
    cost: dict[str, Any] = scores.get("cost") or {}
    kinds = [kind for kind in COSTS if any(math.isfinite(_cost(cost, name, kind[0])) for name in names)]
    largest = {kind[0]: max(finite(_cost(cost, name, kind[0])) or 0.0 for name in names) for kind in kinds}
    rows = []
    for name in names:
        cells = "".join(
            f'<td class="cost" style="--share:{_share(_cost(cost, name, key), largest[key])}">'
            f"{text(_cost(cost, name, key))}</td>"
            for key, _, text in kinds
        )
        spread = f" &plusmn; {units.significant(error[name], 2)}" if error.get(name) else ""
        value = units.significant(values[name], 3)
        bar = _bar(scale, values[name], error.get(name, 0.0), rank.get(name))
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td class="bar">{bar}</td>'
            f'<td class="value">{value}<small>{spread}</small></td>{cells}</tr>'
        )
    axis = "".join(
        f'<text x="{charts.cent(scale.place(value))}" y="12" text-anchor="middle">{scale.text(value)}</text>'
        for value in scale.ticks()
    )
    name = str(scores.get("score") or "score")
    unit = " (log ratio of sigmas, nats)" if name == "cei" else ""
    head = "".join(f"<th>{title}</th>" for _, title, _ in kinds)
    label = f"Importance by block in {phase.name}, score {name}, in network order"
    return (
        f'<figure class="chart"><figcaption><b>{escape(phase.name)}</b>'
        f"<span>{_concentration(known, scores)}</span></figcaption>"
        f'<div class="scroll"><table class="importance" aria-label="{escape(label)}">'
        f"<thead><tr><th>block, in network order</th>"
        f'<th class="bar">importance: {escape(name)}{unit}<svg width="100%" height="16">{axis}</svg></th>'
        f"<th>value &plusmn; standard error</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></figure>"
    )


def _cost(cost: dict[str, Any], name: str, key: str) -> float:
    return number((cost.get(name) or {}).get(key))


def _share(value: float, largest: float) -> str:
    return charts.cent(value / largest if largest and math.isfinite(value) else 0.0)


def _bar(scale: Axis, value: float, error: float, rank: int | None) -> str:
    if not math.isfinite(value):
        return '<span class="muted">not a number</span>'
    zero, end = scale.place(0.0), scale.place(value)
    left, right = scale.place(value - error), scale.place(value + error)
    tip = max(zero, end, right)
    place = (
        f'<text x="{charts.cent(tip)}" dx="6" y="50%" dy=".34em" class="rank">{rank}</text>' if rank else ""
    )
    return (
        f'<svg width="100%" height="16" aria-hidden="true"><line x1="{charts.cent(zero)}" x2="{charts.cent(zero)}" '
        f'y2="100%" class="zero"/><rect x="{charts.cent(min(zero, end))}" width="{charts.cent(abs(end - zero))}" '
        f'y="2" height="12" rx="2" class="{"fill" if value >= 0 else "fill below"}"/>'
        f'<line x1="{charts.cent(left)}" x2="{charts.cent(right)}" y1="8" y2="8" class="error"/>{place}</svg>'
    )


def _concentration(values: dict[str, float], scores: Any) -> str:
    top = min(3, len(values))
    sizes = sorted((abs(value) for value in values.values()), reverse=True)
    words = []
    if (whole := sum(sizes)) and len(values) > top:
        words.append(
            f"the top {top} of {len(values)} hold {units.percent(sum(sizes[:top]) / whole)} of all importance"
        )
    if math.isfinite(samples := number(scores.get("samples"))):
        words.append(f"{samples:.0f} samples")
    if math.isfinite(seconds := number(scores.get("seconds"))):
        words.append(f"scored in {units.seconds(seconds)}")
    return ", ".join(words)


LEVELS = 4


def block_map(run: Run) -> str:
    """Block x step: one row a block, a rectangle for each stretch of steps in which it trained."""
    steps = run.steps
    names = list(dict.fromkeys(name for phase in run.phases for name in phase.blocks))
    if not steps or not names:
        return ""
    blocks = {phase.name: phase.blocks for phase in run.phases}
    kinds = list(dict.fromkeys(_kind(name) for name in names))
    x = Axis(0.0, float(steps[-1].step + 1), "step", lambda value: f"{value:.0f}", "step")
    parts = columns(steps)
    sets = [_active_shares(part, blocks) for part in parts]
    edges = [float(part[0].step) for part in parts] + [x.high]
    rows = []
    for name in names:
        shares = [found.get(name, 0.0) for found in sets]
        trained = sum(share * len(part) for share, part in zip(shares, parts, strict=True))
        whole = trained / len(steps)
        body = "".join(
            f'<path opacity="{level / LEVELS:.2g}" d="{_rectangles(shares, edges, level, x)}"/>'
            for level in range(1, LEVELS + 1)
            if any(_level(share) == level for share in shares)
        )
        words = f"{name}: trained in {trained:.0f} of {len(steps)} steps"
        rows.append(
            f'<div class="row kind-{kinds.index(_kind(name)) % 4}" title="{escape(words)}"><b>{escape(name)}</b>'
            f'<svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">{body}</svg>'
            f"<span>{units.percent(whole)}</span></div>"
        )
    search = [sum(step.searching for step in part) / len(part) for part in parts]
    strip = ""
    if any(search):
        drawn = _rectangles([math.ceil(share) for share in search], edges, LEVELS, x)
        strip = (
            '<div class="row search"><b>search</b><svg viewBox="0 0 1000 10" preserveAspectRatio="none" '
            f'aria-hidden="true"><path d="{drawn}"/></svg><span></span></div>'
        )
    heads = "".join(
        f'<span style="left:{charts.cent(x.place(low))};width:{charts.cent(x.place(high) - x.place(low))}">'
        f"{escape(name)}</span>"
        for name, low, high in spans(run, "step")
    )
    lines = "".join(f'<i style="left:{charts.cent(x.place(at))}"></i>' for at in _stage_starts(steps))
    foot = "".join(
        f'<text x="{charts.cent(x.place(value))}" y="12" text-anchor="middle">{value:.0f}</text>'
        for value in x.ticks()
    )
    keys = charts.legend([(kind, f"var(--kind-{i % 4})") for i, kind in enumerate(kinds)], "box")
    label = f"Which block trained when in run {run.label}: {len(names)} blocks over {len(steps)} steps"
    return (
        f'<figure class="chart map"><figcaption><b>{escape(run.label)}</b>{keys}</figcaption>'
        f'<div class="map-body" role="img" aria-label="{escape(label)}">'
        f'<div class="row head"><b>block</b><div class="bands">{heads}</div><span>share</span></div>'
        f'<div class="stages">{lines}</div>{strip}{"".join(rows)}'
        f'<div class="row foot"><b></b><svg height="16">{foot}</svg><span></span></div></div>'
        f'<div class="axis-x">step (thin lines: a new stage; share: of all steps of the run)</div></figure>'
    )


def _kind(name: str) -> str:
    """What a block is, for its colour: its name without the last number."""
    return name.rstrip("0123456789").rstrip("._ ") or name


def _active_shares(part: Sequence[Step], blocks: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """How often each block trained within the steps of one column, 0..1."""
    found: dict[str, float] = {}
    for step in part:
        names = blocks.get(step.phase, ())
        for index in step.active:
            if 0 <= index < len(names):
                found[names[index]] = found.get(names[index], 0.0) + 1 / len(part)
    return found


def _level(share: float) -> int:
    return math.ceil(share * LEVELS - 1e-9)


def _rectangles(shares: Sequence[float], edges: Sequence[float], level: int, x: Axis) -> str:
    """Run-length encoding: one rectangle for each stretch of columns at `level`."""
    drawn, place = [], 0
    for here, group in groupby(shares, key=_level):
        length = len(list(group))
        if here == level:
            left, right = 1000 * x.place(edges[place]), 1000 * x.place(edges[place + length])
            drawn.append(f"M{left:.5g},0H{right:.5g}V10H{left:.5g}Z")
        place += length
    return "".join(drawn)


def _stage_starts(steps: Sequence[Step]) -> list[int]:
    return [
        step.step
        for before, step in pairwise(steps)
        if (before.phase, before.stage) != (step.phase, step.stage)
    ]
