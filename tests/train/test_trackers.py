"""Trackers: what they are told, that a resumed run goes on with the same one, and what happens where one fails."""

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from entprog.config.checks import packages, problems, tracker_names
from entprog.config.load import config_of
from entprog.train.log import RunLog, write_status
from entprog.train.trackers import TRACKERS


class StandIn(ModuleType):
    """A module in the place of wandb or trackio that keeps every call: its name, then what it was given."""

    class Error(Exception):
        pass

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[Any, ...]] = []
        self.project, self.summary = "of-the-server", {}
        self.broken = ""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if name == self.broken:
                raise self.Error("no route to host\nand more")
            self.calls.append((name, *given, named))
            return self

        return call

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, StandIn]:
    found = {name: StandIn(name) for name in ("wandb", "trackio")}
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    http = ModuleType("httpx")
    http.HTTPError = StandIn.Error  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "httpx", http)
    for variable in ("WANDB_PROJECT", "TRACKIO_PROJECT", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(variable, raising=False)
    return found


def folder(path: Path) -> Path:
    path.mkdir()
    (path / "config.toml").write_text('method = "progressive"\n[train]\nseed = 3\n')
    write_status(path, {"status": "running", "label": "tiny"})
    return path


def line(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 0.5 / (step + 1),
        "lr": 1e-3,
        "grad_norm": None,
        "m": 2,
        "seconds": 0.1,
        "active": [0],
    }


def session(run: Path, report_to: str, steps: range, status: str = "") -> None:
    log = RunLog(run, report_to)
    if steps.start:
        log.resume(steps.start, 0.0)
    log.event("phase", {"blocks": []})
    for step in steps:
        log.step = step
        log.line(line(step))
    log.step = steps.stop
    log.event("holdout", {"loss": 0.25, "bands": [0.1, None, 0.3], "per_draw": [0.25]})
    if status:
        write_status(run, {"status": status})
    log.close()


def test_what_wandb_is_told(tmp_path: Path, modules: dict[str, StandIn]) -> None:
    run, wandb = folder(tmp_path / "run"), modules["wandb"]
    session(run, "wandb", range(3), "interrupted")
    ((begun,),) = wandb.of("init")
    assert begun["config"] == {"method": "progressive", "train.seed": 3}
    assert begun["name"] == "tiny" and begun["project"] == "entprog" and begun["resume"] is None
    assert wandb.of("log")[1][0] == {"train/loss": 0.25, "lr": 1e-3, "m": 2, "timing/step": 0.1, "step": 1}
    last = wandb.of("log")[-1][0]
    assert last.pop("holdout/log_loss") == pytest.approx(math.log(0.1 * 0.3) / 2)
    assert last == {"holdout/loss": 0.25, "holdout/band_0": 0.1, "holdout/band_2": 0.3, "step": 3}
    assert wandb.summary["status"] == "interrupted" and wandb.of("finish") == [({"exit_code": 1},)]
    kept = json.loads((run / "run.json").read_text())["trackers"]["wandb"]
    assert kept == {"id": begun["id"], "project": "of-the-server"}
    session(run, "wandb", range(2, 4), "finished")
    again = wandb.of("init")[1][0]
    assert (again["id"], again["project"], again["resume"]) == (begun["id"], "of-the-server", "allow")
    assert wandb.of("finish")[1] == ({"exit_code": 0},)
    assert [json.loads(row)["step"] for row in (run / "log.jsonl").read_text().splitlines()] == [0, 1, 2, 3]


def test_what_trackio_is_told(tmp_path: Path, modules: dict[str, StandIn]) -> None:
    run, trackio = folder(tmp_path / "run"), modules["trackio"]
    session(run, "trackio", range(2), "interrupted")
    session(run, "trackio", range(2, 3), "finished")
    first, second = (call[0] for call in trackio.of("init"))
    assert first["name"].startswith("tiny-") and first["resume"] == "never" and first["config"]["train.seed"] == 3
    assert (second["name"], second["project"], second["resume"]) == (first["name"], first["project"], "allow")
    assert [call[-1].get("step") for call in trackio.of("log")] == [0, 1, 2, None, 2, 3, None]
    assert trackio.of("log")[-1][0] == {"status": "finished"} and len(trackio.of("finish")) == 2


def test_several_at_once_and_one_that_fails(
    tmp_path: Path, modules: dict[str, StandIn], capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder(tmp_path / "run")
    modules["wandb"].broken = "log"
    session(run, "trackio, wandb", range(3), "finished")
    rows = [json.loads(row) for row in (run / "events.jsonl").read_text().splitlines()]
    (warning,) = [row for row in rows if row["event"] == "warning"]
    said = "train.report_to: wandb failed (Error: no route to host); the run goes on without it"
    assert warning["message"].startswith(said) and capsys.readouterr().out.count(said) == 1
    assert len(modules["trackio"].of("log")) == 5 and len((run / "log.jsonl").read_text().splitlines()) == 3
    assert not modules["wandb"].of("finish")


def test_a_tracker_that_cannot_begin_ends_the_run(tmp_path: Path, modules: dict[str, StandIn]) -> None:
    modules["wandb"].broken = "init"
    log = RunLog(folder(tmp_path / "run"), "trackio, wandb")
    with pytest.raises(ValueError, match="could not begin a run there") as error:
        log.event("phase")
    assert str(error.value).startswith('train.report_to = "wandb"') and "\n" not in str(error.value)
    assert len(modules["trackio"].of("finish")) == 1
    log.event("stop", {"reason": "..."})
    log.close()
    assert len((tmp_path / "run" / "events.jsonl").read_text().splitlines()) == 2


def test_tensorboard_drops_what_is_trained_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = folder(tmp_path / "run")
    session(run, "tensorboard", range(4), "interrupted")
    session(run, "tensorboard", range(2, 5), "finished")
    seen = EventAccumulator(str(run / "tensorboard"))
    seen.Reload()
    assert [point.step for point in seen.Scalars("train/loss")] == [0, 1, 2, 3, 4]
    assert {"holdout/loss", "holdout/log_loss", "holdout/band_0", "holdout/band_2"} <= set(seen.Tags()["scalars"])
    words = b" ".join(seen.Tensors("config/text_summary")[0].tensor_proto.string_val)
    assert b"train.seed = 3" in words


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("wandbb", "did you mean 'wandb'?"), ("none, wandb", '"none" stands alone'), ("", 'expected "none"'),
        ("wandb,wandb", "wandb is given twice"),
    ],
)  # fmt: skip
def test_wrong_names_are_refused(value: str, said: str) -> None:
    config = config_of({}, quiet=True)
    config = replace(config, train=replace(config.train, report_to=value))
    found = [finding.text for finding in problems(config, files=False) if finding.keys == ("train.report_to",)]
    assert len(found) == 1 and said in found[0]


def test_names_and_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracker_names("none") == () and tracker_names("wandb, tensorboard") == ("wandb", "tensorboard")
    found = importlib.util.find_spec
    missing = ("wandb", "trackio")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    config = config_of({"train": {"report_to": "trackio, wandb"}}, quiet=True, planned=True)
    texts = [finding.text for finding in packages(config) if finding.keys == ("train.report_to",)]
    assert texts == [
        f' = "{name}": {name} not installed; pip install "entprog[{name}]"' for name in ("trackio", "wandb")
    ]
    assert all(kind.install == f'pip install "entprog[{name}]"' for name, kind in TRACKERS.items())


REAL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_trackers import session
run, name = Path(sys.argv[2]), sys.argv[3]
session(run, name, range(3), "interrupted")
session(run, name, range(2, 5), "finished")
"""


def real(run: Path, name: str, **environment: str) -> str:
    """Two sessions of a run with the package itself, in a process of its own."""
    pytest.importorskip(name)
    command = [sys.executable, "-c", REAL, str(Path(__file__).parent), str(folder(run)), name]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    events = (run / "events.jsonl").read_text()
    assert '"warning"' not in events, events
    return done.stdout + done.stderr


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path) -> None:
    run = tmp_path / "run"
    real(run, "wandb", WANDB_MODE="offline", WANDB_SILENT="true")
    name = json.loads((run / "run.json").read_text())["trackers"]["wandb"]["id"]
    assert len([*run.glob(f"wandb/offline-run-*/run-{name}.wandb")]) == 2  # one a session, of one run


@pytest.mark.slow
def test_trackio_on_this_machine(tmp_path: Path) -> None:
    import sqlite3

    run, place = tmp_path / "run", tmp_path / "trackio"
    real(run, "trackio", TRACKIO_DIR=str(place))
    kept = json.loads((run / "run.json").read_text())["trackers"]["trackio"]
    with sqlite3.connect(place / "entprog.db") as base:
        rows = base.execute("select run_name, step from metrics").fetchall()
    assert {name for name, _ in rows} == {kept["name"]} and {step for _, step in rows} >= {0, 1, 2, 3, 4, 5}
