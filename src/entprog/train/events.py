"""Reports of a method and of the diagnostics during a phase: events, printed lines, report files, charged readings."""

from pathlib import Path
from typing import Any

import torch

from entprog.core.processes import first
from entprog.core.types import Draw
from entprog.files import write_atomically
from entprog.methods.base import Method
from entprog.profiling.meter import Meter
from entprog.train.engine import log_savings
from entprog.train.log import RunLog
from entprog.train.say import say
from entprog.train.state import Session


class Warn:
    """Writes a failure sign into the events and above the progress bar."""

    def __init__(self, log: RunLog) -> None:
        self.log = log

    def __call__(self, sign: str, message: str) -> None:
        self.log.event("warning", {"sign": sign, "message": message})
        say(f"warning: {message}")


class ReadingFlops:
    """FLOPs of a reading of holdout draws, or a share of them: counted once a size, added to the run's total."""

    def __init__(self, session: Session, holdout: list[Draw]) -> None:
        self.session, self.holdout, self.each = session, holdout, 0.0

    def __call__(self, share: float = 1.0) -> float:
        if not self.each:
            flops = {}
            for size, draw in {draw.size: draw for draw in self.holdout}.items():
                with torch.no_grad(), Meter() as meter:
                    self.session.task.loss(draw)
                flops[size] = meter.flops
            self.each = float(sum(flops[draw.size] for draw in self.holdout))
        self.session.totals.flops += share * self.each
        return share * self.each


class Notes:
    """Turns what the method reports into events, and into reports of trainable parameters."""

    def __init__(self, session: Session, folder: Path) -> None:
        self.session, self.folder = session, folder
        self.method: Method | None = None

    def __call__(self, event: str, values: dict[str, Any]) -> None:
        self.session.log.event(event, values)
        if event == "warning":
            say(f"warning: {values['message']}")
        if event == "choice" and "message" in values:
            say(values["message"])
        if event == "stage":
            log_savings(self.session)
        if event == "stage" and self.method is not None and first():
            path = self.folder / f"trainable-stage{values['stage']}.txt"
            write_atomically(path, self.method.freezer.trainable_report())
