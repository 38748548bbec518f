"""Begin with every block and freeze equal shares, least important first, stage by stage."""

from dataclasses import dataclass

from entprog.core.types import Ranking, Shape, Workload
from entprog.schedules._unsearched import Unsearched

__all__ = ["Descending"]


@dataclass(frozen=True)
class Descending(Unsearched):
    """m_k = L (K - k) / K: cheap steps come last, when the learning rate is small.

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
        m = max(1, round(len(ranking.names) * (self.stages - stage) / self.stages))
        return (self.shaped(stage, ranking.top(m), shape),)
