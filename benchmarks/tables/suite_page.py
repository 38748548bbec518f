"""A suite's tables and pictures as files, and as one HTML page that needs no other file."""

import base64
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.runner.run_plan import EQUAL_STEPS
from benchmarks.tables import comparison
from benchmarks.tables.all_tables import all_tables
from benchmarks.tables.analysis import Analysis, Table, markdown
from benchmarks.tables.glance import glance
from benchmarks.tables.scatter import Series, chart
from entprog.files import write_atomically
from entprog.report import formats
from entprog.report.page import HERE, POLICY

CLIPS = 3
"""Clips whose samples the page shows."""

MANY = 12
"""With more arms than this, the chart of loss by cost gives a colour and a name to those of the chain only."""

TILES = "reference | pose | generated | truth"


def write_all(analysis: Analysis, folder: Path) -> list[Path]:
    """Write pictures, tables.md and the page (report.html) to a folder, the suite's run folders in it.

    Returns:
        What was written, the page last.
    """
    found = all_tables(analysis)
    drawn = pictures(analysis)
    folder.mkdir(parents=True, exist_ok=True)
    links = [f"![{name.replace('-', ' ')}]({name}.svg)" for name in drawn]
    body = "\n\n".join([f"## {analysis.suite.name}", analysis.suite.settings.about, *links, *map(markdown, found)])
    files = {f"{name}.svg": picture for name, picture in drawn.items()}
    files |= {"tables.md": body + "\n", "report.html": render(analysis, found, drawn, folder)}
    for name, text in files.items():
        write_atomically(folder / name, text)
    return [folder / name for name in files]


def pictures(analysis: Analysis) -> dict[str, str]:
    """The suite's charts by name; those without data are left out."""
    settings = analysis.suite.settings
    base = settings.reference
    many = bool(settings.chain) and len({arm for arm, _ in analysis.groups}) > MANY
    cost: list[Series] = []
    for arm in settings.arms:
        groups = [analysis.groups[key] for key in analysis.groups if key[0] == arm and key[1] != EQUAL_STEPS]
        points = sorted(
            (g.mean(comparison.flops_of), g.mean(comparison.loss_of), _known(g.spread(comparison.loss_of)))
            for g in groups if g.records
        )  # fmt: skip
        cost.append(Series(arm, points, arm == base, quiet=many and arm not in (base, *settings.chain)))
    label = "loss of the last phase, mean and deviation over seeds" + "; grey: the other arms" * many
    found = {
        "loss-by-cost": chart(
            "Held-out loss by cost", "FLOPs of the whole run", label, cost, x_text=formats.flops, logarithmic=True
        )
    }  # fmt: skip
    for budget in analysis.at_a_glance or analysis.budgets:
        groups = analysis.at(budget)
        if len(groups) < 2:
            continue
        memory = [
            Series(
                g.arm,
                [(g.mean(comparison.peak_of), g.mean(comparison.loss_of), _known(g.spread(comparison.loss_of)))],
                g.arm == base,
            )
            for g in groups
        ]
        name = "steps" if isinstance(budget, str) else f"{budget:g}"
        found[f"arms-{name}"] = glance(analysis, budget)
        found[f"loss-by-memory-{name}"] = chart(
            f"Held-out loss by peak memory, budget {name}", "live bytes of the largest step", "loss of the last phase",
            memory, x_text=formats.size, kind="bytes",
        )  # fmt: skip
        lines = [Series(g.arm, [(x, y, 0.0) for x, y in comparison.curve(g.records[0])], g.arm == base) for g in groups]
        found[f"curves-{name}"] = chart(
            f"Loss while training, budget {name}, first seed", "FLOPs", "the run's own holdout, last phase",
            lines, x_text=formats.flops, dots=False,
        )  # fmt: skip
    return {name: picture for name, picture in found.items() if picture}


def render(analysis: Analysis, found: Sequence[Table], drawn: dict[str, str], runs: Path) -> str:
    """The page as HTML."""
    suite, planned = analysis.suite, analysis.plan
    finals = {cell.address for cell in planned.finals.values()}
    made = sum(address in analysis.records for address in finals)
    about = f"{made} of {len(finals)} final runs known so far have a record; {len(analysis.records)} records in all."
    notes = "".join(f"<li>{escape(note)}</li>" for note in planned.notes)
    body = [
        f'<header><p class="eyebrow">entprog benchmarks</p><h1>{escape(suite.name)}</h1>'
        f'<p class="lead">{escape(suite.settings.about)}</p><p class="note">{escape(about)}</p></header>',
        f'<section><h2>Left out</h2><ul class="warnings">{notes}</ul></section>' if notes else "",
        *(f"<section>{picture}</section>" for picture in drawn.values()),
        *(_table(table) for table in found),
        _samples(analysis, runs),
        _machines(analysis),
    ]
    style = (HERE / "style.css").read_text(encoding="utf-8") + "section > svg { max-width: 100%; height: auto; }"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(suite.name)} - entprog benchmarks</title><style>{style}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = ""
    for i, row in enumerate(table.rows):
        cells = "".join(
            f"<td>{f'<b>{escape(cell)}</b>' if (i, j) in table.best else escape(cell)}</td>"
            for j, cell in enumerate(row)
        )
        rows += f"<tr>{cells}</tr>"
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return (
        f'<section><h2>{escape(table.title)}</h2><div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div><details><summary>Protocol</summary><ul>{notes}</ul></details></section>"
    )


def _samples(analysis: Analysis, runs: Path) -> str:
    """The first clips of every arm side by side, those of its first seed at the largest budget that it has."""
    shown: dict[str, list[str]] = {}
    for arm in analysis.suite.settings.arms:
        groups = [analysis.groups[key] for key in analysis.groups if key[0] == arm and analysis.groups[key].records]
        if not groups:
            continue
        record = max(groups, key=lambda group: group.mean(comparison.flops_of)).records[0]
        for video in sorted((runs / record["address"] / "samples" / "exam").glob("*.mp4"))[:CLIPS]:
            data = base64.b64encode(video.read_bytes()).decode("ascii")
            label = f"{arm}, clip {video.stem}: {TILES}"
            shown.setdefault(video.stem, []).append(
                f'<figure><figcaption><b>{escape(arm)}</b> <small>{TILES}</small></figcaption>'
                f'<video autoplay loop muted playsinline aria-label="{escape(label)}" '
                f'src="data:video/mp4;base64,{data}"></video></figure>'
            )  # fmt: skip
    body = "".join(
        f'<div class="clip"><h3>{escape(name)}</h3><div class="pair">{"".join(figures)}</div></div>'
        for name, figures in shown.items()
    )
    return f"<section><h2>Samples</h2>{body}</section>" if body else ""


def _machines(analysis: Analysis) -> str:
    """Devices, commits and versions of the records."""
    about = sorted({
        f"{run['device']}, {run['threads']} threads, commit {run['commit']}, "
        + ", ".join(f"{name} {version}" for name, version in (run["versions"] or {}).items())
        for record in analysis.records.values()
        for run in [record.get("run") or {}]
        if run
    })  # fmt: skip
    items = "".join(f"<li>{escape(line)}</li>" for line in about)
    return f"<section><h2>Machines and versions</h2><ul>{items}</ul></section>" if items else ""


def _known(value: float) -> float:
    return 0.0 if math.isnan(value) else value
