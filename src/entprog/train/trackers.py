"""Where a run reports to besides its own files: TensorBoard, Trackio and Weights & Biases, by `train.report_to`."""

import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from entprog.config.checks import tracker_names

__all__ = ["TRACKERS", "About", "Tracker", "first_line", "make_trackers"]

PROJECT = "entprog"
"""The project that runs are in, unless WANDB_PROJECT or TRACKIO_PROJECT names another."""


@dataclass(frozen=True, slots=True)
class About:
    """What a tracker is told once.

    Attributes:
        folder: of the run.
        name: what the run is called.
        config: all keys of the run by dotted name.
        known: what `Tracker.identity` gave when the run began; empty for a new one.
        step: the first step that follows; above 0 where a run is resumed.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    known: Mapping[str, str]
    step: int


class Tracker(ABC):
    """One place that a run reports to.

    Attributes:
        name: of the value of `train.report_to`.
        install: how to install its package.
    """

    name: ClassVar[str]
    install: ClassVar[str]

    @abstractmethod
    def __init__(self, about: About) -> None:
        """Begin a run there, or go on with the one that `about.known` names."""

    @classmethod
    def errors(cls) -> tuple[type[Exception], ...]:
        """What its calls raise when it can't be reached or written to."""
        return (OSError, RuntimeError, ValueError)

    @property
    def identity(self) -> dict[str, str]:
        """What it takes to go on with the same run; kept in run.json."""
        return {}

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Report numbers of a step."""

    @abstractmethod
    def finish(self, status: str) -> None:
        """End the run: "finished", "interrupted" or "failed"."""


class TensorBoard(Tracker):
    """Event files in the run folder, below tensorboard/."""

    name = "tensorboard"
    install = 'pip install "entprog[tensorboard]"'

    def __init__(self, about: About) -> None:
        """See `Tracker`; values at and after the step of a resumed run are dropped by TensorBoard."""
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(about.folder / "tensorboard"), purge_step=about.step or None)
        if not about.step:
            self._board.add_text("config", "\n".join(f"    {key} = {value}" for key, value in about.config.items()))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        for key, value in values.items():
            self._board.add_scalar(key, value, step)

    def finish(self, status: str) -> None:
        """See `Tracker`."""
        self._board.add_text("status", status)
        self._board.close()


class Trackio(Tracker):
    """Trackio: a local data base (TRACKIO_DIR), or a Space where TRACKIO_SPACE_ID names one."""

    name = "trackio"
    install = 'pip install "entprog[trackio]"'

    def __init__(self, about: About) -> None:
        """See `Tracker`."""
        import trackio

        self._trackio: Any = trackio
        self._name = about.known.get("name") or f"{about.name}-{uuid4().hex[:6]}"
        self._project = about.known.get("project") or os.environ.get("TRACKIO_PROJECT", PROJECT)
        self._trackio.init(
            project=self._project, name=self._name, config=dict(about.config),
            space_id=os.environ.get("TRACKIO_SPACE_ID"), resume="allow" if about.known else "never", embed=False,
        )  # fmt: skip

    @classmethod
    def errors(cls) -> tuple[type[Exception], ...]:
        """See `Tracker`: also what its HTTP client and its data base raise."""
        import httpx

        return (*super().errors(), httpx.HTTPError, sqlite3.Error)

    @property
    def identity(self) -> dict[str, str]:
        """See `Tracker`."""
        return {"name": self._name, "project": self._project}

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._trackio.log(dict(values), step=step)

    def finish(self, status: str) -> None:
        """See `Tracker`; Trackio keeps no status of a run, so that it is a last value."""
        self._trackio.log({"status": status})
        self._trackio.finish()


class WandB(Tracker):
    """Weights & Biases, as WANDB_MODE, WANDB_PROJECT and the other variables of wandb say."""

    name = "wandb"
    install = 'pip install "entprog[wandb]"'

    def __init__(self, about: About) -> None:
        """See `Tracker`; the run has the step as a value of its own, since wandb's can't go back on resume."""
        import wandb

        self._wandb: Any = wandb
        self._id = about.known.get("id") or uuid4().hex[:8]
        self._run: Any = self._wandb.init(
            project=about.known.get("project") or os.environ.get("WANDB_PROJECT", PROJECT), name=about.name,
            id=self._id, resume="allow" if about.known else None, dir=str(about.folder), config=dict(about.config),
            settings={"console": "off"},
        )  # fmt: skip
        self._project = str(self._run.project)
        self._run.define_metric("*", step_metric="step")

    @classmethod
    def errors(cls) -> tuple[type[Exception], ...]:
        """See `Tracker`: also wandb's own."""
        import wandb

        return (*super().errors(), wandb.Error)

    @property
    def identity(self) -> dict[str, str]:
        """See `Tracker`."""
        return {"id": self._id, "project": self._project}

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log({**values, "step": step})

    def finish(self, status: str) -> None:
        """See `Tracker`."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=int(status != "finished"))


TRACKERS: dict[str, type[Tracker]] = {kind.name: kind for kind in (TensorBoard, Trackio, WandB)}


def make_trackers(report_to: str, about: Mapping[str, About]) -> list[Tracker]:
    """Begin a run at each place that `train.report_to` names.

    Raises:
        ValueError: a package is missing, or a place can't be reached.
    """
    found: list[Tracker] = []
    for name in tracker_names(report_to):
        kind = TRACKERS[name]
        try:
            found.append(kind(about[name]))
        except ImportError as error:
            raise ValueError(f'train.report_to = "{name}": not installed ({error}); {kind.install}') from error
        except kind.errors() as error:
            for begun in found:
                begun.finish("failed")
            raise ValueError(
                f'train.report_to = "{name}": could not begin a run there ({first_line(error)}); '
                'check its login and settings, or set train.report_to = "none"'
            ) from error
    return found


def first_line(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
