"""Full fine-tuning: every block trains at every step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from entprog.core.freeze import Freezer
from entprog.core.types import Method, Setting, StepInfo, Workload

__all__ = ["Full"]


@dataclass(frozen=True)
class Full:
    """Trains all blocks of the phase: the baseline that everything is measured against."""

    ranked: ClassVar[bool] = False

    def bind(self, setting: Setting) -> Method:
        """Needs neither ranking nor schedule."""
        return BoundFull(setting)


class BoundFull:
    """The method of one phase. A relative may bring another Freezer."""

    freezer_class: ClassVar[type[Freezer]] = Freezer

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.freezer = self.freezer_class(
            setting.task.model, setting.blocks, setting.optimizer, outside=setting.outside, storage=setting.storage
        )
        self.names = tuple(setting.blocks.names)
        self.announced = False

    def workload(self, i: int) -> Workload:
        return Workload(self.names, self.setting.shape)

    def replays(self, i: int) -> int:
        return i

    @contextmanager
    def step(self, i: int) -> Iterator[StepInfo]:
        if not self.announced:
            self.announced = True
            self.setting.notify("stage", {"stage": 0, "m": len(self.names), "active": list(self.names)})
        yield StepInfo(0, len(self.names), self.names, searching=False)

    def state_dict(self) -> dict[str, Any]:
        return {"freezer": self.freezer.state_dict(), "announced": self.announced}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.freezer.load_state_dict(state["freezer"])
        self.announced = state["announced"]
