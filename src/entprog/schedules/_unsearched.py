"""What schedules with one candidate a stage have in common: there is nothing to search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from entprog.core.types import Shape, Trial, Workload
from entprog.schedules._sizes import check_values, needs_shape, resized


@dataclass(frozen=True, kw_only=True)
class Unsearched:
    """The part of a Schedule that a search would need; `candidates` of a subclass gives one workload a stage.

    Attributes:
        resolution: sides in pixels, one a stage; empty for the phase's own. None goes beyond the phase's own.
        frames: frames of a clip, likewise.
        tokens: shares of the tokens that the middle blocks see, above 0 and at most 1.
        batch: samples of a micro-batch.
    """

    resolution: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    tokens: tuple[float, ...] = ()
    batch: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        stages: int = self.stages  # type: ignore[attr-defined]  # a subclass's field or property
        for name, values in self._sizes().items():
            check_values(name, name, values)
            if len(values) != stages:
                raise ValueError(
                    f"schedule.options.{name} = {list(values)}: give one value for each of the {stages} stages"
                )

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
            raise needs_shape(next(iter(sizes)))
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
        given = {"resolution": self.resolution, "frames": self.frames, "tokens": self.tokens, "batch": self.batch}
        return {name: values for name, values in given.items() if values}
