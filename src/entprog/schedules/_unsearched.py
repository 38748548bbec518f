"""What schedules with one candidate a stage have in common: there is nothing to search."""

from collections.abc import Sequence
from typing import NoReturn

from entprog.core.types import Trial


class Unsearched:
    """The part of a Schedule that a search would need; `candidates` of a subclass gives one workload a stage."""

    @property
    def search_steps(self) -> int:
        """Nothing is searched."""
        return 0

    @property
    def estimator(self) -> str:
        """Nothing is measured."""
        return "none"

    def choose(self, trials: Sequence[Trial], cost: str) -> NoReturn:
        """Never needed: there is one candidate.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"the {type(self).__name__} schedule has one candidate a stage and never chooses")
