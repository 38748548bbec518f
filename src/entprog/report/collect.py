"""Reads a run folder into plain values; whatever is missing or half-written is left out and noted."""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

NAN = float("nan")
CATEGORIES = ("weights", "gradients", "optimizer", "activations", "temporaries")


@dataclass(frozen=True, slots=True)
class Step:
    """One line of log.jsonl. Absent numbers are NaN; `elapsed` is in seconds and never falls."""

    step: int
    phase: str
    stage: int
    loss: float
    seconds: float
    elapsed: float
    flops: float
    bytes_peak: float
    live: tuple[float, ...]
    active: tuple[int, ...]
    searching: bool


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of a run: its blocks in network order, its scores.json, its trainable reports by stage."""

    name: str
    blocks: tuple[str, ...] = ()
    scores: Mapping[str, Any] = field(default_factory=dict)
    trainable: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a run cost. `seconds` and `flops` include scoring and search; `counted` says that there was no
    totals.json and the numbers were added up from the log so far."""

    seconds: float = NAN
    seconds_scoring: float = NAN
    seconds_search: float = NAN
    flops: float = NAN
    flops_scoring: float = NAN
    flops_search: float = NAN
    bytes_peak: float = NAN
    bytes_peak_scoring: float = NAN
    bytes_mean: float = NAN
    holdout_loss: float = NAN
    holdout_log_loss: float = NAN
    steps: float = NAN
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Samples:
    """The sample clips written at one step: the files of each clip by suffix (".mp4", ".gif")."""

    phase: str
    step: float
    clips: Mapping[str, Mapping[str, Path]]


@dataclass(frozen=True, slots=True)
class Run:
    """Everything the report says about one run folder."""

    folder: Path
    about: Mapping[str, Any]
    config: str
    phases: tuple[Phase, ...]
    steps: tuple[Step, ...]
    events: tuple[Mapping[str, Any], ...]
    metrics: Mapping[str, Any]
    totals: Totals
    samples: tuple[Samples, ...]
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        return str(self.about.get("label") or self.method or self.folder.resolve().name)

    @property
    def method(self) -> str:
        return str(self.about.get("method") or "")

    @property
    def status(self) -> str:
        return str(self.about.get("status") or "unknown")

    def events_of(self, kind: str) -> Iterator[Mapping[str, Any]]:
        """The events of one kind, in the order in which they were written."""
        return (event for event in self.events if event.get("event") == kind)

    def warnings(self) -> list[tuple[str, str, str]]:
        """The failure signs that were raised: where, sign, message."""
        found = [
            (
                f"{event.get('phase', '')} step {event.get('step', '?')}",
                str(event.get("sign", "")),
                text(event),
            )
            for event in self.events_of("warning")
        ]
        for phase in self.phases:
            found += [
                (f"{phase.name} ranking", "scores", text(warning)) for warning in phase.scores.get("warnings") or ()
            ]
        return found

    def option(self, name: str) -> str:
        """The first value of that name in the resolved configuration, outer tables first; "" for none."""
        try:
            level: list[Any] = [tomllib.loads(self.config)]
        except tomllib.TOMLDecodeError:
            return ""
        while level:
            for table in level:
                if name in table and not isinstance(table[name], dict):
                    return str(table[name])
            level = [inner for table in level for inner in table.values() if isinstance(inner, dict)]
        return ""


def text(message: Any) -> str:
    """The words of a warning: its message, or the warning itself where it is plain text."""
    return str(message.get("message", "")) if isinstance(message, Mapping) else str(message)


def number(value: Any) -> float:
    """A float from a JSON value; NaN for anything that is not a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else NAN


def collect(folder: Path) -> Run:
    """Read one run folder.

    Raises:
        ValueError: the folder does not exist or holds neither run.json nor log.jsonl.
    """
    folder = Path(folder)
    _must_be_a_run(folder)
    notes: list[str] = []
    about = _read_json(folder / "run.json", notes)
    events = tuple(_read_lines(folder / "events.jsonl", notes))
    steps = _steps(_read_lines(folder / "log.jsonl", notes))
    phases = _phases(folder, steps, events, notes)
    config = folder / "config.toml"
    return Run(
        folder=folder,
        about=about,
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        phases=phases,
        steps=steps,
        events=events,
        metrics=_read_json(folder / "metrics.json", notes),
        totals=_totals(_read_json(folder / "totals.json", notes), steps, events, phases),
        samples=_samples(folder / "samples"),
        notes=tuple(notes),
    )


def _must_be_a_run(folder: Path) -> None:
    if (folder / "run.json").is_file() or (folder / "log.jsonl").is_file():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a run folder, one that holds run.json or log.jsonl")
    inside = sorted(
        {file.parent.name for name in ("run.json", "log.jsonl") for file in folder.glob(f"*/{name}")},
    )
    hint = f"; it contains run folders: {', '.join(inside)}" if inside else ""
    raise ValueError(f"{folder}: not a run folder, expected run.json or log.jsonl in it{hint}")


def _read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return {}
    return value if isinstance(value, dict) else {}


def _read_lines(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a JSON lines file. A killed run may leave its last line half-written: that one is dropped
    silently, any other line that cannot be read is counted in the notes."""
    if not path.is_file():
        return
    bad: list[int] = []
    last = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for last, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield row
            else:
                bad.append(last)
    if broken := [line for line in bad if line != last]:
        notes.append(f"{path.name}: {len(broken)} lines cannot be read, the first is line {broken[0]}")


def _steps(rows: Iterator[dict[str, Any]]) -> tuple[Step, ...]:
    """Steps in order. A resumed run repeats the steps since its checkpoint: the last line of each counts."""
    kept: dict[int, Step] = {}
    sets: dict[tuple[int, ...], tuple[int, ...]] = {}  # the few active sets are shared between many steps
    for place, row in enumerate(rows):
        index = number(row.get("step"))
        active = tuple(row.get("active") or ())
        step = _step(row, int(index) if math.isfinite(index) else place, sets.setdefault(active, active))
        kept[step.step] = step
    steps = []
    offset = before = 0.0
    for index in sorted(kept):
        step = kept[index]
        elapsed = step.elapsed + offset
        if not math.isfinite(elapsed):
            elapsed = before + (step.seconds if math.isfinite(step.seconds) else 0.0)
        elif elapsed < before:  # the clock started again when the run was resumed
            offset, elapsed = before, before + step.elapsed
        steps.append(step if elapsed == step.elapsed else replace(step, elapsed=elapsed))
        before = elapsed
    return tuple(steps)


def _step(row: Mapping[str, Any], index: int, active: tuple[int, ...]) -> Step:
    live = row.get("bytes_live") or {}
    return Step(
        step=index,
        phase=str(row.get("phase", "")),
        stage=int(row.get("stage") or 0),
        loss=number(row.get("loss")),
        seconds=number(row.get("seconds")),
        elapsed=number(row.get("elapsed")),
        flops=number(row.get("flops")),
        bytes_peak=number(row.get("bytes_peak")),
        live=tuple(number(live.get(name, 0)) for name in CATEGORIES) if live else (),
        active=active,
        searching=bool(row.get("searching")),
    )


def _phases(
    folder: Path, steps: Sequence[Step], events: Sequence[Mapping[str, Any]], notes: list[str]
) -> tuple[Phase, ...]:
    folders = {path.name for path in folder.iterdir() if path.is_dir() and re.match(r"\d+-", path.name)}
    names = dict.fromkeys(sorted(folders, key=natural))
    names.update(dict.fromkeys(step.phase for step in steps if step.phase))
    phases = []
    for name in names:
        scores = _read_json(folder / name / "scores.json", notes)
        reports = {
            int(found[1]): path.read_text(encoding="utf-8", errors="replace")
            for path in sorted((folder / name).glob("trainable-stage*.txt"), key=lambda path: natural(path.name))
            if (found := re.search(r"stage(\d+)", path.name))
        }
        phases.append(Phase(name, _block_names(name, scores, steps, events), scores, reports))
    return tuple(phases)


def _block_names(
    phase: str, scores: Mapping[str, Any], steps: Sequence[Step], events: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    """The blocks of a phase in network order, from the surest source there is."""
    for event in events:
        if event.get("event") == "phase" and event.get("phase") == phase and event.get("blocks"):
            return tuple(map(str, event["blocks"]))
    if scores.get("values"):
        return tuple(scores["values"])
    count = 1 + max((index for step in steps if step.phase == phase for index in step.active), default=-1)
    for event in events:
        if event.get("event") == "stage" and event.get("phase") == phase and len(event.get("active", ())) == count:
            return tuple(sorted(map(str, event["active"]), key=natural))
    return tuple(f"block {i}" for i in range(count))


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A sorting key under which blocks.2 comes before blocks.10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))


def _totals(
    given: Mapping[str, Any],
    steps: Sequence[Step],
    events: Sequence[Mapping[str, Any]],
    phases: Sequence[Phase],
) -> Totals:
    names = [name for name in Totals.__dataclass_fields__ if name != "counted"]
    if given:
        values: dict[str, Any] = {name: number(given.get(name)) for name in names}
        return Totals(**values)
    read: Mapping[str, Any] = next((event for event in reversed(events) if event.get("event") == "holdout"), {})
    last, log_loss = number(read.get("loss")), number(read.get("log_loss"))
    if not steps:
        return Totals(holdout_loss=last, holdout_log_loss=log_loss, counted=True)

    def add(values: Iterator[float] | Sequence[float]) -> float:
        return math.fsum(value for value in values if math.isfinite(value))

    peaks = [step.bytes_peak for step in steps if math.isfinite(step.bytes_peak)]
    flops_scoring = add([number(phase.scores.get("flops")) for phase in phases])
    ranked = [number(event.get("bytes_peak")) for event in events if event.get("event") == "rank"]
    scoring = max((peak for peak in ranked if math.isfinite(peak)), default=NAN)
    return Totals(
        seconds=steps[-1].elapsed,
        seconds_scoring=add([number(phase.scores.get("seconds")) for phase in phases]),
        seconds_search=add([step.seconds for step in steps if step.searching]),
        flops=add([step.flops for step in steps]) + flops_scoring,
        flops_scoring=flops_scoring,
        flops_search=add([step.flops for step in steps if step.searching]),
        bytes_peak=max([*peaks, *(peak for peak in ranked if math.isfinite(peak))], default=NAN),
        bytes_peak_scoring=scoring,
        bytes_mean=add(peaks) / len(peaks) if peaks else NAN,
        holdout_loss=last,
        holdout_log_loss=log_loss,
        steps=float(len(steps)),
        counted=True,
    )


def _samples(folder: Path) -> tuple[Samples, ...]:
    found = []
    for place in folder.iterdir() if folder.is_dir() else ():
        clips: dict[str, dict[str, Path]] = {}
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path.suffix in (".mp4", ".gif") and path.stat().st_size:
                clips.setdefault(path.stem, {})[path.suffix] = path
        if clips:
            phase, _, step = place.name.rpartition("-")
            at = float(step) if step.isdigit() else math.inf
            found.append(Samples(phase if step.isdigit() else place.name, at, clips))
    return tuple(sorted(found, key=lambda samples: (samples.step, natural(samples.phase))))
