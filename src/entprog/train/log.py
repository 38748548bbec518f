"""Files that a run writes while it trains: one JSON line for each step, one for each event, and its status."""

import json
import math
import platform
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from shutil import which
from typing import Any, TextIO

import diffusers
import numpy
import torch
from tqdm import tqdm

from entprog.config.checks import tracker_names
from entprog.config.schema import Config
from entprog.core.bands import mean_log
from entprog.files import write_atomically
from entprog.toml.trees import leaves
from entprog.train.trackers import About, Tracker, first_line, make_trackers

SCALARS = (
    ("loss", "train/loss"), ("lr", "lr"), ("grad_norm", "grad_norm"), ("seconds", "timing/step"), ("stage", "stage"),
    ("m", "m"), ("trainable_params", "trainable_params"),
)  # fmt: skip
"""What trackers get of a step's line: its key there -> its name."""


class RunLog:
    """log.jsonl, events.jsonl and the trackers that `report_to` names.

    Resuming cuts both files back to the checkpoint's step, so that a resumed run's log reads like one that never
    stopped; trackers go on with the same run. `elapsed` counts seconds of work over all sessions of the run. A
    tracker that fails while the run trains is left out from then on, with one warning.

    Args:
        run: the run folder, with config.toml; run.json keeps what it takes to go on at each tracker.
    """

    def __init__(self, run: Path, report_to: str = "none") -> None:
        self.run = run
        self.report_to = report_to
        self._steps = _Lines(run / "log.jsonl")
        self._events = _Lines(run / "events.jsonl")
        self._before = 0.0
        self._start = time.perf_counter()
        self.step = 0
        self.phase = ""
        self._trackers: list[Tracker] | None = None  # begun with the first thing that is logged

    @property
    def elapsed(self) -> float:
        """Seconds of work so far, earlier sessions included."""
        return self._before + time.perf_counter() - self._start

    def resume(self, step: int, elapsed: float) -> None:
        """Drop what was logged at or after `step`, and continue counting from `elapsed` seconds."""
        self._steps.cut(lambda row: row["step"] < step)
        self._events.cut(lambda row: row["elapsed"] <= elapsed)
        self.start_from(elapsed)
        self._begin_tracking(step)

    def start_from(self, elapsed: float) -> None:
        """Count seconds of work on from here."""
        self._before, self._start = elapsed, time.perf_counter()

    def line(self, row: dict[str, Any]) -> None:
        """Append a step's line; NaN and infinities become null."""
        self._steps.add(row)
        self._track({name: row[key] for key, name in SCALARS if row.get(key) is not None}, row["step"])

    def event(self, name: str, values: dict[str, Any] | None = None) -> None:
        """Append an event at the current step."""
        head = {"time": now(), "elapsed": round(self.elapsed, 4), "step": self.step, "phase": self.phase}
        self._events.add({**head, "event": name, **(values or {})})
        if name == "holdout" and values:
            bands = {f"holdout/band_{i}": value for i, value in enumerate(values["bands"]) if value is not None}
            log_loss = mean_log(values["bands"])
            watched = {"holdout/log_loss": log_loss} if math.isfinite(log_loss) else {}
            self._track({"holdout/loss": values["loss"], **watched, **bands}, self.step)
        elif name != "stop":  # of a run that ends before it has begun to train
            self._begin_tracking(0)

    def close(self) -> None:
        """Flush and close the files; trackers get the status that run.json has."""
        status = _read_status(self.run).get("status", "finished")
        for tracker in list(self._trackers or ()):
            self._try(tracker, tracker.finish, status)
        self._trackers = []
        self._steps.close()
        self._events.close()

    def _begin_tracking(self, step: int) -> None:
        if self._trackers is not None:
            return
        self._trackers = []
        if not (names := tracker_names(self.report_to)):
            return
        about, table = _read_status(self.run), self.run / "config.toml"
        config = dict(leaves(tomllib.loads(table.read_text(encoding="utf-8")))) if table.is_file() else {}
        known, title = about.get("trackers", {}), str(about.get("label") or self.run.name)
        to_each = {name: About(self.run, title, config, known.get(name, {}), step) for name in names}
        self._trackers = make_trackers(self.report_to, to_each)
        given = {tracker.name: tracker.identity for tracker in self._trackers if tracker.identity}
        if given:
            write_status(self.run, {"trackers": {**known, **given}})

    def _track(self, values: dict[str, float], step: int) -> None:
        self._begin_tracking(0)
        for tracker in list(self._trackers or ()):
            self._try(tracker, tracker.log, values, step)

    def _try(self, tracker: Tracker, call: Callable[..., None], *values: Any) -> None:
        """Call a tracker; one that fails is left out from now on."""
        try:
            call(*values)
        except tracker.errors() as error:
            assert self._trackers is not None
            self._trackers.remove(tracker)
            message = (
                f"train.report_to: {tracker.name} failed ({first_line(error)}); the run goes on without it, log.jsonl "
                "has every step"
            )
            self.event("warning", {"sign": "tracker", "message": message})
            tqdm.write(f"warning: {message}")


class _Lines:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: TextIO | None = None

    def add(self, row: dict[str, Any]) -> None:
        if self._stream is None:
            self._stream = self.path.open("a", encoding="utf-8")
        self._stream.write(json.dumps(_finite(row)) + "\n")
        self._stream.flush()

    def cut(self, keep: Any) -> None:
        self.close()
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # a killed run can leave half a line at the end
                break
            if keep(row):
                kept.append(line + "\n")
        write_atomically(self.path, "".join(kept))

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _finite(value: Any) -> Any:
    """JSON has no NaN: such numbers are written as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def now() -> str:
    """UTC time, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_run(config: Config, device: torch.device, command: str) -> dict[str, Any]:
    """The first part of run.json: what runs, where, from which commit and with which versions."""
    return {
        "status": "running",
        "reason": None,
        "label": config.label or config.method,
        "method": config.method,
        "command": command,
        "commit": _commit(),
        "versions": {
            "entprog": _version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "numpy": numpy.__version__,
        },
        "device": _device_name(device),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "seed": config.train.seed,
        "started": now(),
        "finished": None,
    }


def write_status(run: Path, values: dict[str, Any]) -> None:
    """Update run.json."""
    write_atomically(run / "run.json", json.dumps({**_read_status(run), **values}, indent=2) + "\n")


def _read_status(run: Path) -> dict[str, Any]:
    path = run / "run.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _commit() -> str | None:
    """The commit of the source tree, with "-dirty" where the package was changed; None for an installed one."""
    if which("git") is None:
        return None
    package, outputs = Path(__file__).parents[1], []
    for command in ("git rev-parse --short=12 HEAD", "git status --porcelain -- ."):
        done = subprocess.run(command.split(), cwd=package, capture_output=True, text=True, check=False)
        if done.returncode:
            return None
        outputs.append(done.stdout.strip())
    return outputs[0] + "-dirty" * bool(outputs[1])


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("entprog")
    except PackageNotFoundError:
        return "source"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in _cpu_lines():
        if line.startswith("model name"):
            return f"CPU {line.split(':', 1)[1].strip()}"
    return f"CPU {platform.machine()} {sys.platform}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
