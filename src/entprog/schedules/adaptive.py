"""Choose each stage's block count by measured convergence efficiency."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from entprog.core.probe import probe_choice
from entprog.core.supernet import convergence_efficiency
from entprog.core.types import Ranking, Shape, Trial, Workload

__all__ = ["Adaptive"]


@dataclass(frozen=True)
class Adaptive:
    """Search among `width` block counts from the last choice up to all blocks (Ent-Prog's adaptive schedule).

    The source names neither the number of stages nor the sets M_k. Here M_k spreads evenly from the last
    choice (at first: one width-th of the blocks) to all L, so block counts never fall.

    Attributes:
        stages: K, at least 1.
        search_steps: training steps of the search in each stage; the paper takes one epoch. The probe divides
            them evenly among its candidates.
        width: candidates in M_k, at least 2.
        estimator: "supernet" (published) or "probe" (snapshot and restore).
    """

    stages: int = 4
    search_steps: int = 24
    width: int = 3
    estimator: Literal["supernet", "probe"] = "supernet"

    def __post_init__(self) -> None:
        for name, least in (("stages", 1), ("width", 2), ("search_steps", 4)):
            if getattr(self, name) < least:
                raise ValueError(f"schedule.options.{name} = {getattr(self, name)}: must be at least {least}")
        if self.estimator not in ("supernet", "probe"):
            raise ValueError(f"schedule.options.estimator = {self.estimator!r}: choose supernet or probe")

    def candidates(
        self, stage: int, ranking: Ranking, shape: Shape | None, last: Workload | None
    ) -> tuple[Workload, ...]:
        """M_k: `width` counts (fewer when they coincide) from the last choice to all blocks."""
        total = len(ranking.names)
        low = len(last.active) if last else max(1, round(total / self.width))
        spread = (round(low + (total - low) * i / (self.width - 1)) for i in range(self.width))
        return tuple(Workload(ranking.top(m), shape) for m in sorted(set(spread)))

    def choose(self, trials: Sequence[Trial], cost: str) -> tuple[Workload, dict[Workload, float]]:
        """The workload of the highest efficiency; with the supernet, ties and unmeasured stages go to the larger."""
        if self.estimator == "probe":
            return probe_choice(trials, cost)
        efficiency = convergence_efficiency(trials, cost)
        if not efficiency:
            return max(trials, key=lambda trial: trial.size).workload, {}
        sizes = {trial.workload: trial.size for trial in trials}
        return max(efficiency, key=lambda w: (efficiency[w], sizes[w])), efficiency
