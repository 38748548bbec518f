"""The report of a prepared data set: one HTML page with everything inside, report.html in its folder."""

import base64
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from entprog.prepare.contact_sheet import ClipPicture, DataSet, DroppedPicture, clip_pictures, dropped_pictures
from entprog.prepare.pictures import Budget
from entprog.report import charts
from entprog.report.page import document, write_page

CLIPS = 120
DROPPED = 120
NOTES = 40
BYTES = 4 * 2**20
"""Of the pictures of clips; those of dropped files have a quarter of it. In the page they are a third larger."""
SECONDS = 15.0
BARS = 24


def report_data_set(folder: Path) -> Path | None:
    """Write report.html into a data set's folder; where that fails, say so in a line on stderr and return None."""
    try:
        return write_data_report(folder)
    except (ValueError, OSError, RuntimeError, LookupError, TypeError, ArithmeticError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"entprog: warning: {folder}: the data set is complete, but report.html isn't ({line})", file=sys.stderr)
        return None


def write_data_report(folder: Path, *, seconds: float = SECONDS) -> Path:
    """Write report.html about a data set that `entprog prepare` made, and return its path.

    Args:
        seconds: after these, no more pictures are read from the sources.

    Raises:
        ValueError: the folder is no data set.
        OSError: it can't be read or written.
    """
    data = DataSet(Path(folder))
    budget = Budget(seconds)
    dropped = dropped_pictures(data, most=DROPPED, size=BYTES // 4, budget=Budget(seconds / 3))
    clips = clip_pictures(data, most=CLIPS, size=BYTES, budget=budget)
    out = data.folder / "report.html"
    write_page(out, render(data, clips, dropped))
    return out


def render(data: DataSet, clips: Sequence[ClipPicture], dropped: Sequence[DroppedPicture]) -> str:
    """The page, as HTML."""
    name = data.folder.resolve().name
    body = (
        f'<header><p class="eyebrow">entprog data set</p><h1>{escape(name)}</h1>{_summary(data)}</header>'
        + _section("clips", "Clips", _clips(data, clips))
        + _section("lengths", "Lengths", _lengths(data))
        + _section("dropped", "Dropped files", _dropped(data, dropped))
        + _section("notes", "Notes", _notes(data.rows))
        + _section("settings", "Settings", _settings(data.settings))
    )
    return document(name, body)


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}"><h2>{title}</h2>{body}</section>' if body else ""


def _summary(data: DataSet) -> str:
    settings, rows = data.settings, data.rows
    states = Counter(str(row.get("status")) for row in rows)
    lengths = [data.length(clip) for clip in data.clips]
    splits = Counter(clip[0].split for clip in data.clips.values())
    files = ", ".join(f"{count:,} {status}" for status, count in states.most_common())
    options = settings.get("pose_options") or {}
    estimator = " ".join([str(settings.get("pose") or "blazepose"), *(f"{k}={v}" for k, v in options.items())])
    facts = {
        "files": f"{len(rows):,} ({files})",
        "left out": ", ".join(f"{count:,} {what}" for what, count in (settings.get("left_out") or {}).items()),
        "clips": f"{len(data.clips):,}",
        "frames": f"{sum(lengths):,} at {data.fps:g} a second",
        "length": _clock(sum(lengths) / data.fps),
        "sizes": ", ".join(str(size) for size in settings.get("sizes", ())),
        "windows": f"{len(data.stored.rows):,} of {settings['frames']} frames" if "frames" in settings else "",
        "split": ", ".join(f"{count:,} {split}" for split, count in sorted(splits.items(), reverse=True)),
        "pose estimator": estimator,
        "codec": str(settings.get("codec") or settings.get("codec.kind") or ""),
    }
    listed = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items() if value)
    return f'<div class="cards"><article class="card"><dl>{listed}</dl></article></div>'


def _clips(data: DataSet, clips: Sequence[ClipPicture]) -> str:
    if not clips:
        return ""
    shown = f"{len(clips):,} of {len(data.clips):,} clips" if len(clips) < len(data.clips) else "All clips"
    lead = f'<p class="lead">{shown}, six frames of each, cut out around the person, with the pose that was found.</p>'
    return f'{lead}<div class="sheet">{"".join(_clip(data, clip) for clip in clips)}</div>'


def _clip(data: DataSet, clip: ClipPicture) -> str:
    seconds = clip.frames / data.fps
    words = "held out" if clip.split == "holdout" else clip.split
    held = f'<span class="pill">{escape(words)}</span>' if clip.split != "train" else ""
    subject = f"<span>subject {escape(clip.subject)}</span>" if clip.subject != clip.clip else ""
    note = f"<span>{escape(clip.note)}</span>" if clip.picture and clip.note else ""
    return (
        f"<figure><figcaption><b>{escape(clip.clip)}</b>{subject}<span>{clip.frames:,} frames, {seconds:.1f} s</span>"
        f"{held}{note}</figcaption>{_image(clip.picture, f'Six frames of clip {clip.clip}', clip.note)}</figure>"
    )


def _image(picture: bytes | None, words: str, why_not: str) -> str:
    if picture is None:
        return f'<div class="grey">{escape(why_not)}</div>'
    address = f"data:image/jpeg;base64,{base64.b64encode(picture).decode('ascii')}"
    return f'<img alt="{escape(words)}" src="{address}">'


def _lengths(data: DataSet) -> str:
    """A histogram of the clips' lengths."""
    seconds = [data.length(clip) / data.fps for clip in data.clips]
    if len(seconds) < 2:
        return ""
    width = _bar_width(max(seconds) - min(seconds), 2 / data.fps)
    first = math.floor(min(seconds) / width + 1e-9)
    counts = Counter(math.floor(value / width + 1e-9) - first for value in seconds)
    bars = max(counts) + 1
    x = charts.Axis(first * width, (first + bars) * width, "length of a clip in seconds")
    y = charts.Axis(0, max(counts.values()) * 1.05, "clips", kind="step")
    drawn = "".join(_bar(x, y, (first + i) * width, (first + i + 0.94) * width, n) for i, n in counts.items())
    return charts.plot("Lengths of the clips", x, y, [f'<path class="bars" d="{drawn}"/>'], height=200)


def _bar_width(span: float, least: float) -> float:
    """A round number of seconds that gives about 24 bars, at least `least`."""
    wanted = max(span / BARS, least)
    power = 10.0 ** math.floor(math.log10(wanted))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= wanted * 0.999))


def _bar(x: charts.Axis, y: charts.Axis, left: float, right: float, count: int) -> str:
    return charts.path([(left, 0), (left, count), (right, count), (right, 0)], x, y) + "Z"


def _dropped(data: DataSet, dropped: Sequence[DroppedPicture]) -> str:
    rows = [row for row in data.rows if row.get("status") != "kept"]
    parts = _left_out(data.rows)
    if not rows:
        return f'<p class="lead">No file was dropped.</p>{parts}'
    reasons = Counter(str(row.get("reason") or row.get("status")) for row in rows)
    lead = f"{len(rows):,} of {len(data.rows):,} files."
    if len(dropped) < len(rows):
        lead += f" {len(dropped):,} of them are shown, of each reason some; prepare.jsonl has them all."
    shown = "".join(_file(picture) for picture in dropped)
    table = _counts(("files", "reason"), reasons.most_common(NOTES), len(reasons))
    return f'<p class="lead">{lead}</p>{table}<p></p><div class="dropped">{shown}</div>{parts}'


def _file(dropped: DroppedPicture) -> str:
    row = dropped.row
    size = row.get("size") or [0, 0]
    facts = [
        f"{size[0]} x {size[1]}" if all(size) else "",
        f"{row.get('decoded_frames', 0):,} frames",
        f"pose in {row.get('pose_found', 0):.0%}" if row.get("decoded_frames") else "",
    ]
    name = Path(str(row.get("source", ""))).name or str(row.get("name"))
    image = _image(dropped.picture, f"A frame of {name}", "no picture")
    return (
        f'<figure>{image}<figcaption><b>{escape(name)}</b><span class="reason">{escape(str(row.get("reason")))}</span>'
        f"<small>{escape(', '.join(filter(None, facts)))}</small></figcaption></figure>"
    )


def _left_out(rows: Iterable[Mapping[str, Any]]) -> str:
    """Why parts of kept files were left out."""
    counts: Counter[str] = Counter()
    for row in rows:
        if row.get("status") == "kept":
            pieces = [piece["reason"] for piece in row.get("pieces") or () if piece.get("reason")]
            counts.update(pieces or [row["reason"]] * bool(row.get("reason")))
    if not counts:
        return ""
    return "<h3>Parts of kept files that were left out</h3>" + _counts(
        ("parts", "reason"), counts.most_common(NOTES), len(counts)
    )


def _notes(rows: Iterable[Mapping[str, Any]]) -> str:
    """What was noticed while reading, notes that differ in numbers only as one, with an example."""
    files: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        for note in row.get("notes") or ():
            files.setdefault(re.sub(r"\d[\d.,]*", "#", str(note)), []).append((str(row.get("name")), str(note)))
    if not files:
        return ""
    common = sorted(files.values(), key=len, reverse=True)
    lines = [
        (f"{note} ({name}{' and others' if len(same) > 1 else ''})", len(same))
        for same in common
        for name, note in same[:1]
    ]
    return _counts(("times", "note"), lines[:NOTES], len(lines))


def _counts(heads: tuple[str, str], lines: Sequence[tuple[str, int]], of: int) -> str:
    body = "".join(f"<tr><td>{count:,}</td><td>{escape(words)}</td></tr>" for words, count in lines)
    more = f'<p class="note">{len(lines)} of {of} are shown.</p>' if len(lines) < of else ""
    return (
        f'<div class="scroll"><table class="counts"><thead><tr><th>{heads[0]}</th><th>{heads[1]}</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>{more}"
    )


def _settings(settings: Mapping[str, Any]) -> str:
    words = escape(json.dumps(settings, indent=2, ensure_ascii=False))
    return f'<details><summary>prepare.json</summary><pre class="scroll" tabindex="0">{words}</pre></details>'


def _clock(seconds: float) -> str:
    """Such as 1 h 4 min, or 12.5 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
