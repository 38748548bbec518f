"""Where in the data a step begins, when steps may take different numbers of samples."""

from typing import Any


class Position:
    """Counts samples, so that a step of any batch begins right where the last one ended.

    A search that replays steps (`method.replays`) goes back to the sample at which the replayed step began, and
    continues in its own batches: all candidates of a probe begin with the same sample. Training after it continues
    after the last sample that the search has drawn. While all steps take one number of samples, step i begins at
    sample `replays(i) * samples`.

    Outside a search a step that replays the last new one is its echo: it takes the same samples and draws none.

    With an `echo` above 1 each sample trains that many steps: `window` steps take new ones, and the next
    `(echo - 1) * window` repeat these in the same order. It can't be combined with a search.
    """

    def __init__(self, echo: int = 1, window: int = 1) -> None:
        self.echo, self.window = echo, window
        self.drawn = 0
        self.next = 0
        self.replayed = -1
        self.recent: list[int] = []
        self.before: dict[int, int] = {}

    def echoes(self, i: int) -> bool:
        """Whether step i trains on samples that an earlier one has drawn."""
        return i % (self.echo * self.window) >= self.window

    def of(self, i: int, replayed: int) -> int:
        """The first sample of step i, which replays step `replayed`; the steps before i have been taken."""
        if self.echoes(i):
            return self.recent[i % self.window]
        if replayed == self.replayed + 1:
            return self.next
        if replayed > self.replayed:
            return self.drawn
        if not self.before:
            return self.recent[-1]
        return self.before[replayed]

    def took(self, i: int, replayed: int, first: int, samples: int, *, searching: bool = False) -> None:
        """Step i, which replays step `replayed`, has taken `samples` samples from `first` on.

        Args:
            searching: whether a search goes on, which may come back to this step.
        """
        if self.echoes(replayed) or (replayed < i and not searching):
            return
        self.before = {**self.before, i: self.drawn} if searching else {}
        self.drawn += samples
        self.next, self.replayed = first + samples, replayed
        self.recent = [*self.recent, first][-self.window if self.echo > 1 else -1 :]

    def state_dict(self) -> dict[str, Any]:
        """Plain integers."""
        before = {str(step): drawn for step, drawn in self.before.items()}
        return {
            "drawn": self.drawn, "next": self.next, "replayed": self.replayed, "recent": self.recent, "before": before,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.drawn, self.next, self.replayed = state["drawn"], state["next"], state["replayed"]
        self.recent = list(state["recent"])
        self.before = {int(step): drawn for step, drawn in state["before"].items()}
