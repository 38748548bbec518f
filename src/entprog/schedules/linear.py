"""Unfreeze equal shares of the blocks, stage by stage."""

from dataclasses import dataclass

from entprog.core.types import Ranking, Shape, Workload
from entprog.schedules._unsearched import Unsearched

__all__ = ["Linear"]


@dataclass(frozen=True)
class Linear(Unsearched):
    """m_k = L (k + 1) / K: the paper's schedule without adaptation (its Table 5).

    Attributes:
        stages: K, at least 1.
        resolution, frames, tokens, batch: one value a stage, or empty for the phase's own.
    """

    stages: int = 4

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ValueError(f"schedule.options.stages = {self.stages}: must be at least 1")
        super().__post_init__()

    def candidates(
        self, stage: int, ranking: Ranking, shape: Shape | None, last: Workload | None
    ) -> tuple[Workload, ...]:
        """The one workload of this stage."""
        m = max(1, round(len(ranking.names) * (stage + 1) / self.stages))
        return (self.shaped(stage, ranking.top(m), shape),)
