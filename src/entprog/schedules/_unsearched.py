"""What schedules with one candidate a stage have in common: there is nothing to search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from entprog.core.sizes import check_lengths, needs_shape, resized
from entprog.core.types import Shape, Trial, Workload


@dataclass(frozen=True, kw_only=True)
class Unsearched:
    """The part of a Schedule that a search would need; `candidates` of a subclass gives one workload a stage.

    Attributes:
        resolution: sides in pixels, one a stage; empty for the phase's own. Below 1 it is a share of the phase's
            own, 0 is the phase's own, and none goes beyond that.
        frames: frames of a clip, likewise.
        tokens: shares of the tokens that the middle blocks see, above 0 and at most 1.
        batch: samples of a micro-batch, shares and 0 as above.
    """

    resolution: tuple[int | float, ...] = ()
    frames: tuple[int | float, ...] = ()
    tokens: tuple[float, ...] = ()
    batch: tuple[int | float, ...] = ()

    def __post_init__(self) -> None:
        stages: int = self.stages  # type: ignore[attr-defined]  # a subclass's field or property
        check_lengths("schedule.options", self._sizes(), stages)

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
        sizes = self._sizes()
        if not sizes:
            return Workload(active, shape)
        if shape is None:
            raise needs_shape(f"schedule.options.{next(iter(sizes))}")
        return Workload(active, resized(shape, {name: values[stage] for name, values in sizes.items()}))

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

    def _sizes(self) -> dict[str, Sequence[float]]:
        given: dict[str, Sequence[float]] = {
            "resolution": self.resolution,
            "frames": self.frames,
            "tokens": self.tokens,
            "batch": self.batch,
        }
        return {name: values for name, values in given.items() if values}
