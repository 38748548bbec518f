"""Begin with every block and freeze equal shares, least important first, stage by stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from entprog.core.types import Ranking, Shape, Trial, Workload

__all__ = ["Descending"]


@dataclass(frozen=True)
class Descending:
    """m_k = L (K - k) / K: cheap steps come last, when the learning rate is small.

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

    def candidates(
        self, stage: int, ranking: Ranking, shape: Shape | None, last: Workload | None
    ) -> tuple[Workload, ...]:
        """The one workload of this stage."""
        m = max(1, round(len(ranking.names) * (self.stages - stage) / self.stages))
        return (Workload(ranking.top(m), shape),)

    def choose(self, trials: Sequence[Trial], cost: str) -> tuple[Workload, dict[Workload, float]]:
        """Never needed: there is one candidate."""
        raise ValueError("the descending schedule has one candidate a stage and never chooses")
