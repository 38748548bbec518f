"""Block counts from the recipe."""

from dataclasses import dataclass

from entprog.core.sizes import block_count
from entprog.core.types import Ranking, Shape, Workload
from entprog.schedules._unsearched import Unsearched

__all__ = ["Fixed"]


@dataclass(frozen=True)
class Fixed(Unsearched):
    """Train m[k] blocks in stage k.

    Attributes:
        m: block counts, one a stage, each from 1 to the number of blocks. Values below 1 are shares of it.
        resolution, frames, tokens, batch: one value a stage, or empty for the phase's own.
    """

    m: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        if not self.m or any(value <= 0 for value in self.m):
            raise ValueError(f"schedule.options.m = {list(self.m)}: give at least one count, each above 0")
        if any(value > 1 and value != int(value) for value in self.m):
            raise ValueError(f"schedule.options.m = {list(self.m)}: counts above 1 must be whole")
        super().__post_init__()

    @property
    def stages(self) -> int:
        """One for each given count."""
        return len(self.m)

    def candidates(
        self, stage: int, ranking: Ranking, shape: Shape | None, last: Workload | None
    ) -> tuple[Workload, ...]:
        """The given count of the most important blocks."""
        count = block_count(self.m[stage], len(ranking.names), f"schedule.options.m = {list(self.m)}")
        return (self.shaped(stage, ranking.top(count), shape),)
