"""Writes the report: one HTML page with everything inside, no other file and no network needed."""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from entprog.report import blockcharts, curves, formats, media, tables
from entprog.report.collect import Run, collect

HERE = Path(__file__).parent
LONGEST = 400
OPEN = 2
MAPS = 4
"""Runs whose block maps stand side by side; those of more runs are folded away."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one self-contained HTML page about one or several run folders and return its path.

    Running, interrupted and failed runs are as welcome as finished ones. `out` defaults to report.html in the
    run folder, or in the folder that holds all of them when there are several. Written aside and renamed.

    Raises:
        ValueError: no run was given, or a path is no run folder.
    """
    if not runs:
        raise ValueError("no run given; give at least one run folder")
    folders = [Path(run) for run in runs]
    collected = [collect(folder) for folder in folders]
    if out is None:
        several = [path.resolve() for path in folders]
        shared = folders[0] if len(folders) == 1 else Path(os.path.commonpath(several))
        out = shared / "report.html"
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_page(out, render(collected))
    return out


def write_page(out: Path, page: str) -> None:
    """Write a page aside, and rename it."""
    handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    aside = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o644)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)


def render(runs: Sequence[Run]) -> str:
    """The page about collected runs, as HTML."""
    title = runs[0].label if len(runs) == 1 else " against ".join(run.label for run in runs)
    if len(runs) > 3:
        title = f"{len(runs)} runs compared"
    body = "".join(
        (
            _header(title, runs),
            _samples(runs),
            _map(runs),
            _section("result", "Result", "", tables.headline(runs)),
            _loss(runs),
            _importance(runs),
            _memory(runs),
            _trials(runs),
            _warnings(runs),
            _metrics(runs),
            _details(runs),
        )
    )
    return document(title, body, (HERE / "page.js").read_text(encoding="utf-8"))


def document(title: str, body: str, script: str = "") -> str:
    """A whole page in the style of all reports, with everything inside."""
    style = (HERE / "style.css").read_text(encoding="utf-8")
    scripts = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)} - entprog</title><style>{style}</style></head>"
        f"<body><main>{body}</main>{scripts}</body></html>\n"
    )


def _section(name: str, title: str, lead: str, body: str) -> str:
    words = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section id="{name}"><h2>{title}</h2>{words}{body}</section>' if body else ""


def _line(words: str) -> str:
    return f'<p class="note">{words}</p>'


def _header(title: str, runs: Sequence[Run]) -> str:
    cards = f'<div class="cards">{"".join(_card(run, i) for i, run in enumerate(runs))}</div>'
    if len(runs) > 1:
        cards = _fold("The runs: " + ", ".join(f"{escape(run.label)} ({escape(run.status)})" for run in runs), cards)
    return f'<header><p class="eyebrow">entprog report</p><h1>{escape(title)}</h1>{cards}</header>'


def _card(run: Run, index: int) -> str:
    about = run.about
    versions = about.get("versions") if isinstance(about.get("versions"), Mapping) else {}
    facts = {
        "method": run.method,
        "device": _device(about),
        "seed": about.get("seed"),
        "commit": str(about.get("commit") or "")[:12],
        "versions": ", ".join(f"{name} {version}" for name, version in (versions or {}).items()),
        "started": _time(about.get("started")),
        "steps": f"{run.totals.steps:,.0f}" if math.isfinite(run.totals.steps) else "",
        "time": formats.seconds(run.totals.seconds) if math.isfinite(run.totals.seconds) else "",
        "command": about.get("command"),
    }
    listed = "".join(
        f"<dt>{name}</dt><dd{' class=code' if name == 'command' else ''}>{escape(str(value))}</dd>"
        for name, value in facts.items()
        if value not in (None, "")
    )
    reason = f'<p class="reason">{escape(str(about["reason"]))}</p>' if about.get("reason") else ""
    raised = len(run.warnings())
    count = f'<a class="pill warned" href="#warnings">{raised} warning{"s" * (raised != 1)}</a>' if raised else ""
    notes = "".join(_line(escape(note)) for note in run.notes)
    dot = f'<i class="run-dot" style="--c:{curves.colour(index)}"></i>'
    return (
        f'<article class="card"><h2>{dot}{escape(run.label)} '
        f'<span class="pill {escape(run.status)}">{escape(run.status)}</span>{count}</h2>'
        f"{reason}<dl>{listed}</dl>{notes}</article>"
    )


def _device(about: Mapping[str, Any]) -> str:
    threads = about.get("threads")
    words = [str(about.get("device") or ""), f"{threads} thread{'s' * (threads != 1)}" if threads else ""]
    return ", ".join(word for word in words if word)


def _time(value: Any) -> str:
    try:
        return datetime.fromisoformat(str(value)).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return str(value or "")


def _samples(runs: Sequence[Run]) -> str:
    lead = "Held-out clips. In each picture from left to right: reference, pose, generated, truth."
    if len(runs) > 1:
        lead = (
            "Held-out clips, not trained on: the reference image, the driving pose, what each run generated, the truth."
        )
    body = media.clips(runs)
    return _section("samples", "Samples", lead if body else "", body or _line("No sample clips in these runs."))


def _loss(runs: Sequence[Run]) -> str:
    drawn = "".join(curves.loss(runs, by) for by in ("step", "elapsed"))
    body = f'<div class="pair">{drawn}</div>' if drawn else _line("No step has been logged yet.")
    return _section("loss", "Loss", "", body)


def _importance(runs: Sequence[Run]) -> str:
    drawn = [(run, "".join(blockcharts.importance(phase) for phase in run.phases)) for run in runs]
    lead = (
        "What each block contributes, in network order; the number at a bar is its rank. "
        "Beside it what training it costs: the backward pass runs down to the lowest trained depth."
    )
    body = _each(drawn, titles=len(runs) > 1)
    return _section("importance", "Importance by block", lead if body else "", body or _line("No block was scored."))


def _map(runs: Sequence[Run]) -> str:
    drawn = "".join(blockcharts.block_map(run) for run in runs[:MAPS])
    folded = _each([(run, blockcharts.block_map(run)) for run in runs[MAPS:]], titles=False)
    body = f'<div class="pair">{drawn}</div>{folded}' if drawn else folded
    return _section("map", "Which block trained when", "One row a block, in network order.", body)


def _each(drawn: Sequence[tuple[Run, str]], titles: bool) -> str:
    """The charts of each run; from the third run on they are folded away."""
    body = ""
    for place, (run, charts) in enumerate([pair for pair in drawn if pair[1]]):
        if place < OPEN:
            body += (f"<h3>{escape(run.label)}</h3>" if titles else "") + charts
        else:
            body += _fold(escape(run.label), charts)
    return body


def _memory(runs: Sequence[Run]) -> str:
    largest = max(
        (value for run in runs for step in run.steps for value in (step.bytes_peak, math.fsum(step.live)) if value > 0),
        default=0.0,
    )
    body = "".join(curves.memory(run, largest) for run in runs if run.steps) if largest else ""
    lead = "Live bytes in each step by what they are for, and the peak of the step. All runs share one scale."
    return _section("memory", "Memory", lead, f'<div class="pair">{body}</div>' if body else "")


def _trials(runs: Sequence[Run]) -> str:
    body = ""
    for run in runs:
        found = tables.trials(run)
        if found:
            title = f"<h3>{escape(run.label)}</h3>" if len(runs) > 1 else ""
            body += f"{title}<p>{tables.search_cost(run)}</p>{found}"
    lead = "In each stage the candidates m (blocks trained) and their efficiency CE(m): loss removed per cost."
    return _section("trials", "Trials and choices", lead, body or _line("Nothing was searched in these runs."))


def _warnings(runs: Sequence[Run]) -> str:
    body = ""
    for run in runs:
        if found := tables.warnings(run):
            body += (f"<h3>{escape(run.label)}</h3>" if len(runs) > 1 else "") + found
    return _section("warnings", "Warnings", "", body or _line("No failure sign was raised."))


def _metrics(runs: Sequence[Run]) -> str:
    lead = "A model that has learnt something beats both baselines: copying the reference, and the mean frame."
    found = tables.metrics(runs)
    return _section("metrics", "Metrics", lead if found else "", found or _line("Not evaluated yet."))


def _details(runs: Sequence[Run]) -> str:
    parts = [f"<h3>Totals</h3>{tables.totals(runs)}"]
    for run in runs:
        prefix = f"{escape(run.label)}: " if len(runs) > 1 else ""
        if clips := tables.per_clip(run):
            parts.append(_fold(f"{prefix}metrics of each clip", clips))
        if run.config:
            parts.append(_fold(f"{prefix}resolved configuration", _code(run.config)))
        for phase in run.phases:
            for stage, report in phase.trainable.items():
                parts.append(_fold(f"{prefix}what trains in {escape(phase.name)}, stage {stage}", _code(_cut(report))))
    return _section("details", "Details", "", "".join(parts))


def _fold(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>{body}</details>"


def _code(words: str) -> str:
    return f'<pre class="scroll" tabindex="0">{escape(words)}</pre>'


def _cut(report: str) -> str:
    """A long report without its middle: the totals at its end stay."""
    lines = report.splitlines()
    if len(lines) <= LONGEST:
        return report
    left = len(lines) - LONGEST
    return "\n".join([*lines[: LONGEST - 20], f"... {left} lines left out ...", *lines[-20:]])
