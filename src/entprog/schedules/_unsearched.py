"""What schedules with one candidate a stage have in common: there is nothing to search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from entprog.core.sizes import SizesByStage, check_lengths
from entprog.core.types import Shape, Trial, Workload


@dataclass(frozen=True, kw_only=True)
class Unsearched(SizesByStage):
    """The part of a Schedule that a search would need; a subclass's `candidates` has one workload a stage."""

    table: ClassVar[str] = "schedule.options"

    def __post_init__(self) -> None:
        stages: int = self.stages  # type: ignore[attr-defined]  # a subclass's field or property
        check_lengths(self.table, self.sizes(), stages)

    @property
    def search_steps(self) -> int:
        """Nothing is searched."""
        return 0

    @property
    def estimator(self) -> str:
        """Nothing is measured."""
        return "none"

    def shaped(self, stage: int, active: tuple[str, ...], shape: Shape | None) -> Workload:
        """The workload of a stage that trains `active`."""
        return Workload(active, self.size_at(stage, shape))

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Every shape that a phase of this full shape trains at."""
        stages: int = self.stages  # type: ignore[attr-defined]
        found = [self.shaped(stage, (), shape).shape or shape for stage in range(stages)]
        return tuple(dict.fromkeys(found))

    def choose(self, trials: Sequence[Trial], cost: str) -> NoReturn:
        """Never needed: there is one candidate.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"the {type(self).__name__} schedule has one candidate a stage and never chooses")
