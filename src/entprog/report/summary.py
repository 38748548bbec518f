"""The headline numbers of several runs side by side, as rows for the page and as plain text or Markdown."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from entprog.report import formats
from entprog.report.collect import Run, collect, number

METRICS = {
    "l1": "L1",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "pck": "PCK",
    "pose_error": "pose error",
    "frechet_frames": "Frechet (Lite0) frames",
    "frechet_clips": "Frechet (Lite0) clips",
}

LARGER = ("psnr", "ssim", "pck", "pose_found", "identity")
"""Metrics of which more is better."""

COPY = "reference copied"
"""The column of the baseline that shows the reference image throughout."""

POOLING = ", pooling "
"""Where a metric's own part of the protocol begins."""


@dataclass(frozen=True, slots=True)
class Row:
    """One headline quantity over all runs: printed values, and each compared with the base run.

    `protocol` says how the quantity was measured; `best` is the index of the best run, None where that has no
    meaning, values are missing or several runs share the best; `copy` the value of the reference copied, where the
    runs were measured on the same clips.
    """

    name: str
    protocol: str
    values: tuple[str, ...]
    compared: tuple[str, ...]
    best: int | None = None
    minor: bool = False
    copy: str = ""


def base_of(runs: Sequence[Run]) -> int:
    """The run that the others are compared with: the first whose method is "full", else the first."""
    return next((i for i, run in enumerate(runs) if run.method == "full"), 0)


def protocol_of(metrics: Mapping[str, Any], name: str = "") -> str:
    """How the metrics were measured, in words; `name` picks the part of one metric where parts differ."""
    protocol = metrics.get("protocol")
    if not isinstance(protocol, Mapping):
        return str(protocol or "")
    parts = {key: value for key, value in protocol.items() if not isinstance(value, Mapping)}
    own = protocol.get(name)
    parts |= own if isinstance(own, Mapping) else {}
    return ", ".join(f"{key.replace('_', ' ')} {_words(value)}" for key, value in parts.items())


def _words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return formats.significant(value) if isinstance(value, float) else str(value)


def rows(runs: Sequence[Run]) -> tuple[Row, ...]:
    """The headline rows; quantities that no run has are left out."""
    base = base_of(runs)
    found: list[Row | None] = [_holdout(runs, base), _log_loss(runs, base), *_bands(runs, base)]
    copies = _copies(runs)
    names = dict.fromkeys(METRICS)
    names.update(dict.fromkeys(key for run in runs for key in _scored(run)))
    for name in names:
        values = [number(_scored(run).get(name)) for run in runs]
        protocols = list(dict.fromkeys(filter(None, (protocol_of(run.metrics, name) for run in runs))))
        protocol = protocols[0] if len(protocols) == 1 else " / ".join(protocols)
        if len(protocols) > 1:
            protocol = f"protocols differ, do not compare: {protocol}"
        title = METRICS.get(name, name.replace("_", " "))
        how = COMPARED.get(name, (formats.significant, _quotient))
        row = _row(title, protocol, values, base, *how, larger=name in LARGER)
        found.append(row and replace(row, copy=how[0](copies[name]) if name in copies else ""))
    devices = " / ".join(dict.fromkeys(str(run.about["device"]) for run in runs if run.about.get("device")))
    included = "scoring and search included"
    for title, key, protocol, text, minor in (
        (
            "time",
            "seconds",
            f"{included}, {devices}" if devices else included,
            formats.seconds,
            False,
        ),
        ("of it scoring", "seconds_scoring", "", formats.seconds, True),
        ("of it search", "seconds_search", "", formats.seconds, True),
        ("FLOPs", "flops", included, formats.flops, False),
        ("peak memory", "bytes_peak", "largest step, scoring included", formats.size, False),
        ("mean memory", "bytes_mean", "mean over steps of each step's peak", formats.size, False),
        ("steps", "steps", "", lambda value: f"{value:,.0f}", True),
    ):
        values = [float(getattr(run.totals, key)) for run in runs]
        if not (minor and not any(value > 0 for value in values)):
            found.append(_row(title, protocol, values, base, text, minor=minor))
    return tuple(row for row in found if row)


def has_copy(found: Sequence[Row]) -> bool:
    """Whether there is a column for the copy of the reference."""
    return any(row.copy for row in found)


def _copies(runs: Sequence[Run]) -> dict[str, float]:
    """The metrics of the reference copied; nothing where runs differ in them, as they saw other clips then."""
    found = [(run.metrics.get("baselines") or {}).get("copy_reference") for run in runs if _scored(run)]
    first = found[0] if found else None
    if not isinstance(first, Mapping) or any(values != first for values in found):
        return {}
    return {name: number(value) for name, value in first.items()}


def _bands(runs: Sequence[Run], base: int) -> list[Row | None]:
    """The last holdout loss by band of noise, for runs that recorded it: a row a band, from clean to pure noise."""
    last = [next((e["bands"] for e in reversed(run.events) if e.get("bands")), ()) for run in runs]
    count = max(map(len, last), default=0)
    rows = []
    for i in range(count):
        values = [number(bands[i]) if len(bands) == count else math.nan for bands in last]
        title = f"noise {i / count:.1f}-{(i + 1) / count:.1f}"
        rows.append(_row(title, "", values, base, formats.significant, minor=True))
    return rows


def _scored(run: Run) -> Mapping[str, Any]:
    value = run.metrics.get("metrics")
    return value if isinstance(value, Mapping) else {}


def _holdout(runs: Sequence[Run], base: int) -> Row | None:
    draws = max((len(event.get("per_draw") or ()) for run in runs for event in run.events_of("holdout")), default=0)
    protocol = "noise-prediction MSE" + (f" on {draws} fixed draws" if draws else "")
    return _row("holdout loss", protocol, [run.totals.holdout_loss for run in runs], base, formats.significant)


def _log_loss(runs: Sequence[Run], base: int) -> Row | None:
    values = [run.totals.holdout_log_loss for run in runs]
    return _row("holdout log loss", "mean log of the noise bands", values, base, formats.significant, _change)


def _decibel(value: float) -> str:
    return f"{value:.2f} dB" if math.isfinite(value) else formats.MISSING


def _difference(value: float, base: float) -> str:
    return f"{value - base:+.2f} dB"


def _change(value: float, base: float) -> str:
    return f"{value - base:+.3f}"


def _quotient(value: float, base: float) -> str:
    return formats.ratio(value / base) if base else ""


COMPARED = {"psnr": (_decibel, _difference), "log_loss": (formats.significant, _change)}
"""How metrics that are logarithms are printed and compared."""


def _row(
    name: str,
    protocol: str,
    values: Sequence[float],
    base: int,
    text: Callable[[float], str],
    compare: Callable[[float, float], str] = _quotient,
    *,
    larger: bool = False,
    minor: bool = False,
) -> Row | None:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    against = values[base]
    compared = tuple(
        "" if minor or i == base or not math.isfinite(value + against) else compare(value, against)
        for i, value in enumerate(values)
    )
    leading = max(finite) if larger else min(finite)
    known = not minor and len(finite) == len(values) > 1
    best = values.index(leading) if known and finite.count(leading) == 1 else None
    shown = tuple(text(value) if math.isfinite(value) else formats.MISSING for value in values)
    return Row(name, protocol, shown, compared, best, minor)


def _collected(runs: Sequence[Run | Path]) -> list[Run]:
    if not runs:
        raise ValueError("no run given; give at least one run folder")
    return [run if isinstance(run, Run) else collect(run) for run in runs]


def summary_table(runs: Sequence[Run | Path], width: int = 100) -> str:
    """The headline as plain text for a terminal: a line a quantity, a column a run, protocols below.

    Where they do not fit into `width` characters, further tables follow, each with the base run first.
    """
    taken = _collected(runs)
    found = rows(taken)
    base = base_of(taken)
    names = ["", *(("  " if row.minor else "") + row.name for row in found)]
    columns = [
        (
            _right([run.label, *(row.values[i] for row in found)]),
            _right(["", *(row.compared[i] for row in found)]),
        )
        for i, run in enumerate(taken)
    ]
    head = [name.ljust(max(map(len, names))) for name in names]
    if has_copy(found):
        copy = _right([COPY, *(row.copy for row in found)])
        columns.append((copy, [""] * len(copy)))
    whole = head
    for column in columns:
        whole = _beside(whole, column)
    tables, current = [], _beside(head, columns[base])
    for column in columns[:base] + columns[base + 1 :] if len(whole[0]) > width else ():
        wider = _beside(current, column)
        if len(wider[0]) > width and len(current[0]) > len(_beside(head, columns[base])[0]):
            tables.append(current)
            wider = _beside(_beside(head, columns[base]), column)
        current = wider
    tables.append(current if len(whole[0]) > width else whole)
    blocks = ["\n".join([lines[0].rstrip(), "-" * len(lines[0]), *map(str.rstrip, lines[1:])]) for lines in tables]
    notes = _protocols(found)
    if len(taken) > 1:
        notes.append(f"compared with {taken[base].label} (0.87x: 0.87 times its value)")
    return "\n\n".join([*blocks, "\n".join(notes)] if notes else blocks)


def _right(cells: Sequence[str]) -> list[str]:
    return [cell.rjust(max(map(len, cells))) for cell in cells]


def _beside(lines: Sequence[str], column: tuple[list[str], list[str]]) -> list[str]:
    """The lines with a run's values to their right, and its comparisons where it has any."""
    values, compared = column
    both = [f"{a}  {b}" if b else a for a, b in zip(values, compared, strict=True)]
    return [f"{line}  {cell}" for line, cell in zip(lines, both, strict=True)]


def summary_markdown(runs: Sequence[Run | Path]) -> str:
    """The headline as a Markdown table: a row a run, a column a quantity, protocols below."""
    taken = _collected(runs)
    found = [row for row in rows(taken) if not row.minor]
    lines = ["| run | " + " | ".join(row.name for row in found) + " |", "|---|" + "---:|" * len(found)]
    for i, run in enumerate(taken):
        cells = []
        for row in found:
            value = f"**{row.values[i]}**" if row.best == i else row.values[i]
            cells.append(f"{value} ({row.compared[i]})" if row.compared[i] else value)
        lines.append(f"| {run.label.replace('|', '/')} | " + " | ".join(cells) + " |")
    notes = _protocols(found)
    if len(taken) > 1:
        notes.append(f"in brackets: compared with {taken[base_of(taken)].label}")
    return "\n".join([*lines, "", "; ".join(notes) + "."]) if notes else "\n".join(lines)


def split_protocols(found: Sequence[Row]) -> tuple[str, list[str]]:
    """What the protocols of all metrics share ("" where they differ), and what each row adds to it."""
    shared = {row.protocol.partition(POOLING)[0] for row in found if POOLING in row.protocol}
    common = shared.pop() if len(shared) == 1 else ""
    return common, [row.protocol.removeprefix(common + POOLING) if common else row.protocol for row in found]


def _protocols(found: Sequence[Row]) -> list[str]:
    """Each protocol once, with the quantities that it holds for; what all metrics share stands first."""
    common, own = split_protocols(found)
    grouped: dict[str, list[str]] = {}
    for row, protocol in zip(found, own, strict=True):
        if protocol:
            grouped.setdefault(protocol, []).append(row.name)
    lines = [f"{', '.join(names)}: {protocol}" for protocol, names in grouped.items()]
    return [f"all metrics: {common}", *lines] if common else lines
