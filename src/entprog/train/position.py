"""Where in the data a step begins, when steps may take different numbers of samples."""

from collections.abc import Callable
from typing import Any


class Position:
    """Counts samples, so that a step of any batch begins right where the last one ended.

    A search that replays steps (`method.replays`) goes back to the sample at which the replayed step began, and goes
    on from there in its own batches: all candidates of a probe begin with the same sample. Training after it goes on
    behind everything that the search has drawn. While all steps take one number of samples, step i begins at sample
    `replays(i) * samples`.
    """

    def __init__(self) -> None:
        self.drawn = 0
        self.next = 0
        self.replayed = -1

    def of(self, i: int, replayed: int, samples: Callable[[int], int]) -> int:
        """The first sample of step i, which replays step `replayed`; steps before i have been taken.

        Args:
            samples: the samples of a step before i, asked where a search goes back.
        """
        if replayed == self.replayed + 1:
            return self.next
        if replayed > self.replayed:
            return self.drawn
        return self.drawn - sum(samples(step) for step in range(replayed, i))

    def took(self, replayed: int, first: int, samples: int) -> None:
        """Step `replayed` has taken `samples` samples from `first` on."""
        self.drawn += samples
        self.next, self.replayed = first + samples, replayed

    def state_dict(self) -> dict[str, Any]:
        """Plain integers."""
        return {"drawn": self.drawn, "next": self.next, "replayed": self.replayed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.drawn, self.next, self.replayed = state["drawn"], state["next"], state["replayed"]
