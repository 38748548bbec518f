"""What a run prints above its progress bar, and the log of a process that writes none."""

from typing import Any

from tqdm import tqdm

from entprog.core.processes import first
from entprog.train.log import RunLog

__all__ = ["SilentLog", "say"]


def say(message: str) -> None:
    """Print a line above the progress bar; only the first of several processes does."""
    if first():
        tqdm.write(message)


class SilentLog(RunLog):
    """The log of every process but the first: it counts seconds, and writes nothing."""

    def resume(self, step: int, elapsed: float) -> None:
        """See `RunLog`."""
        self.start_from(elapsed)

    def line(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def event(self, name: str, values: dict[str, Any] | None = None) -> None:
        """Nothing."""
