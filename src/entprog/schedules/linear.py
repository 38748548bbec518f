"""Unfreeze equal shares of the blocks, stage by stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from entprog.core.types import Trial

__all__ = ["Linear"]


@dataclass(frozen=True)
class Linear:
    """m_k = L (k + 1) / K: the paper's schedule without adaptation (its Table 5).

    Attributes:
        stages: K, at least 1.
    """

    stages: int = 4

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ValueError(f"schedule.options.stages = {self.stages}: must be at least 1")

    @property
    def search_steps(self) -> int:
        """Nothing is searched."""
        return 0

    @property
    def estimator(self) -> str:
        """Nothing is measured."""
        return "none"

    def candidates(self, stage: int, total: int, last: int) -> tuple[int, ...]:
        """The one block count of this stage."""
        return (max(1, round(total * (stage + 1) / self.stages)),)

    def choose(self, trials: Sequence[Trial], cost: str) -> tuple[int, dict[int, float]]:
        """Never needed: there is one candidate."""
        raise ValueError("the linear schedule has one candidate a stage and never chooses")
