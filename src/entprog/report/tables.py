"""The tables of the report: headline, trials and choices, warnings, metrics with their baselines, totals."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from entprog.report import formats, summary
from entprog.report.charts import cent
from entprog.report.collect import Run, natural, number
from entprog.report.curves import colour

BEST = ' class="best"'


def headline(runs: Sequence[Run]) -> str:
    """One row a quantity with its protocol, one column a run."""
    base = summary.base_of(runs)
    heads = "".join(
        f'<th scope="col"><i class="run-dot" style="--c:{colour(i)}"></i>{escape(run.label)}'
        f"{'<small>so far</small>' if run.totals.counted else ''}</th>"
        for i, run in enumerate(runs)
    )
    found = summary.rows(runs)
    copied = summary.has_copy(found)
    heads += f'<th scope="col">{summary.COPY}</th>' if copied else ""
    common, protocols = summary.split_protocols(found)
    body = []
    for row, said in zip(found, protocols, strict=True):
        cells = "".join(
            f"<td{BEST if row.best == i else ''}>{escape(value)}<small>{escape(compared)}</small></td>"
            for i, (value, compared) in enumerate(zip(row.values, row.compared, strict=True))
        )
        cells += f'<td class="copy">{escape(row.copy)}<small></small></td>' if copied else ""
        protocol = f"<small>{escape(said)}</small>" if said else ""
        style = ' class="minor"' if row.minor else ""
        body.append(f'<tr{style}><th scope="row">{escape(row.name)}{protocol}</th>{cells}</tr>')
    if not body:
        return '<p class="note">No totals and no metrics yet.</p>'
    note = f'<p class="note">All metrics: {escape(common)}.</p>' if common else ""
    if len(runs) > 1:
        note += (
            f'<p class="note">Small figures: the value as a multiple of <b>{escape(runs[base].label)}</b>'
            " (PSNR: the difference). Bold: the best of the row.</p>"
        )
    return (
        f'<div class="scroll"><table class="headline"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>{note}"
    )


def trials(run: Run) -> str:
    """Every searched stage: its candidates, their efficiency CE(m), the chosen one; "" without a search."""
    stages: dict[tuple[str, int], dict[str, Any]] = {}
    for event in run.events:
        kind = event.get("event")
        if kind in ("trial", "choice"):
            key = (str(event.get("phase", "")), int(event.get("stage") or 0))
            stage = stages.setdefault(key, {"trials": {}, "choice": {}})
            if kind == "choice":
                stage["choice"] = event
            else:
                stage["trials"].setdefault(_size(event), []).append(event)
    if not stages:
        return ""
    body = "".join(_stage(phase, stage, found) for (phase, stage), found in stages.items())
    heads = "".join(f"<th>{title}</th>" for title in ("trials", "time", "FLOPs", "loss removed"))
    return (
        '<figure class="chart"><div class="scroll"><table class="trials"><thead><tr><th>candidate</th>'
        f'<th class="bar">efficiency CE(m), full bar: best of the stage</th><th>CE(m)</th>{heads}</tr>'
        f"</thead>{body}</table></div></figure>"
    )


def _size(event: Mapping[str, Any]) -> str:
    work = event.get("workload") or {}
    return str(event.get("candidate") or work.get("m") or len(work.get("active") or ()))


def _stage(phase: str, stage: int, found: Mapping[str, Any]) -> str:
    choice = found["choice"]
    efficiency = {str(key): number(value) for key, value in (choice.get("efficiency") or {}).items()}
    largest = max((abs(value) for value in efficiency.values() if math.isfinite(value)), default=0.0)
    state = "" if choice else ": no choice yet, the search had not ended"
    body = [f'<tr class="group"><th colspan="7" scope="rowgroup">{escape(phase)}, stage {stage}{state}</th></tr>']
    for m in sorted({*found["trials"], *efficiency}, key=natural):
        tried = found["trials"].get(m, ())
        value = efficiency.get(m, math.nan)
        chosen = str(choice.get("candidate") or choice.get("m")) == m
        bar = ""
        if largest and math.isfinite(value):
            style = ("fill" if chosen else "fill other") + (" below" if value < 0 else "")
            bar = f'<rect width="{cent(0.98 * abs(value) / largest)}" y="2" height="12" class="{style}"/>'
        tag = ' <b class="chosen">chosen</b>' if chosen else ""
        cells = (
            formats.significant(value, 3) if math.isfinite(value) else formats.MISSING,
            str(len(tried)),
            formats.seconds(_sum(tried, "seconds")),
            formats.flops(_sum(tried, "flops")),
            _gain(tried),
        )
        body.append(
            f'<tr{BEST if chosen else ""}><th scope="row">m = {escape(m)}{tag}</th>'
            f'<td class="bar"><svg width="100%" height="16" aria-hidden="true">{bar}</svg></td>'
            f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    return f"<tbody>{''.join(body)}</tbody>"


def _sum(events: Sequence[Mapping[str, Any]], key: str) -> float:
    values = [number(event.get(key)) for event in events]
    return math.fsum(value for value in values if math.isfinite(value)) if values else math.nan


def _gain(events: Sequence[Mapping[str, Any]]) -> str:
    value = _sum(events, "gain")
    return f"{value:.3g}" if math.isfinite(value) else formats.MISSING


def search_cost(run: Run) -> str:
    """What scoring and search cost as shares of the whole, in a sentence."""
    totals, words = run.totals, []
    estimator = run.option("estimator")
    if estimator:
        words.append(f"candidates measured by the {escape(estimator)} estimator")
    for name, seconds, flops in (
        ("search", totals.seconds_search, totals.flops_search),
        ("scoring", totals.seconds_scoring, totals.flops_scoring),
    ):
        shares = [
            f"{formats.percent(part / whole)} of the {what}"
            for part, whole, what in ((seconds, totals.seconds, "time"), (flops, totals.flops, "FLOPs"))
            if math.isfinite(part) and math.isfinite(whole) and whole > 0
        ]
        if shares:
            words.append(f"{name} took {' and '.join(shares)} ({formats.seconds(seconds)})")
    sentence = "; ".join(words)
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def warnings(run: Run) -> str:
    """The failure signs that were raised, each once with the places where it was."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for where, sign, message in run.warnings():
        grouped.setdefault((sign, message), []).append(where)
    items = []
    for (sign, message), places in grouped.items():
        where = places[0] + (f" and {len(places) - 1} times more" if len(places) > 1 else "")
        items.append(f"<li><b>{escape(sign)}</b> {escape(message)} <small>{escape(where)}</small></li>")
    return f'<ul class="warnings">{"".join(items)}</ul>' if items else ""


def metrics(runs: Sequence[Run]) -> str:
    """Metrics and baselines of each run, one line each, with the protocol that they were measured by."""
    names = dict.fromkeys(key for run in runs for key in run.metrics.get("metrics") or {})
    if not names:
        return ""
    body = []
    for i, run in enumerate(runs):
        if not run.metrics.get("metrics"):
            continue
        dot = f'<i class="run-dot" style="--c:{colour(i)}"></i>'
        protocol = summary.protocol_of(run.metrics)
        body.append(_metric_line(dot + escape(run.label), run.metrics["metrics"], names, protocol))
        for name, values in (run.metrics.get("baselines") or {}).items():
            title = escape(name.replace("_", " ")) + " <small>baseline</small>"
            body.append(_metric_line(title, values, names, protocol, "minor"))
    heads = "".join(f"<th>{escape(_metric_title(name))}</th>" for name in names)
    return (
        f'<div class="scroll"><table class="metrics"><thead><tr><th>run</th>{heads}<th>protocol</th></tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _metric_title(name: str) -> str:
    title = summary.METRICS.get(name, name.replace("_", " "))
    return f"{title} (dB)" if name == "psnr" else title


def _metric_line(
    title: str, values: Mapping[str, Any], names: Mapping[str, Any], protocol: str, style: str = ""
) -> str:
    cells = "".join(
        f"<td>{formats.significant(number(values[name])) if name in values else formats.MISSING}</td>" for name in names
    )
    return (
        f'<tr class="{style}"><th scope="row">{title}</th>{cells}'
        f'<td class="protocol"><small>{escape(protocol)}</small></td></tr>'
    )


def per_clip(run: Run) -> str:
    """The metrics of each clip, for the details of a run; "" where there are none."""
    clips = [row for row in run.metrics.get("per_clip") or () if isinstance(row, Mapping)]
    if not clips:
        return ""
    names = dict.fromkeys(key for row in clips for key, value in row.items() if math.isfinite(number(value)))
    heads = "".join(f"<th>{escape(_metric_title(name))}</th>" for name in names)
    body = "".join(
        f'<tr><th scope="row">{escape(str(row.get("clip", i)))}</th>'
        + "".join(f"<td>{formats.significant(number(row.get(name)))}</td>" for name in names)
        + "</tr>"
        for i, row in enumerate(clips)
    )
    return f'<div class="scroll"><table><thead><tr><th>clip</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def totals(runs: Sequence[Run]) -> str:
    """Everything that was counted, one column a run."""
    lines = (
        ("steps", "steps", lambda value: f"{value:,.0f}"),
        ("time, all included", "seconds", formats.seconds),
        ("time of scoring", "seconds_scoring", formats.seconds),
        ("time of search", "seconds_search", formats.seconds),
        ("FLOPs, all included", "flops", formats.flops),
        ("FLOPs of scoring", "flops_scoring", formats.flops),
        ("FLOPs of search", "flops_search", formats.flops),
        ("peak memory", "bytes_peak", formats.size),
        ("peak memory of scoring", "bytes_peak_scoring", formats.size),
        ("mean memory", "bytes_mean", formats.size),
        ("holdout loss", "holdout_loss", formats.significant),
        ("holdout log loss", "holdout_log_loss", formats.significant),
    )
    heads = "".join(f"<th>{escape(run.label)}</th>" for run in runs)
    body = ""
    for title, key, form in lines:
        values = [float(getattr(run.totals, key)) for run in runs]
        if any(math.isfinite(value) for value in values):
            cells = "".join(f"<td>{form(value) if math.isfinite(value) else formats.MISSING}</td>" for value in values)
            body += f'<tr><th scope="row">{title}</th>{cells}</tr>'
    if not body:
        return ""
    counted = [run.label for run in runs if run.totals.counted]
    note = f'<p class="note">Added up from the log so far: {escape(", ".join(counted))}.</p>' if counted else ""
    return (
        f'<div class="scroll"><table class="totals"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{note}"
    )
