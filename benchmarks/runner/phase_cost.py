"""What an arm's steps cost, from the record of a run, and how many of them a budget allows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PhaseCost:
    """Exact FLOPs of a phase of any length, if its stages train what they trained in the run that this is from.

    Attributes:
        fixed: scoring, and readings of the holdout.
        searching: steps that search in each stage, and what they cost together.
        each: FLOPs of one of the other steps, by stage.
        again: FLOPs of a step that trains once more on an earlier sample, by stage.
        echo: how often each sample is trained on, and how many steps in a row take new samples.
    """

    fixed: float
    searching: tuple[tuple[int, float], ...]
    each: tuple[float, ...]
    again: tuple[float, ...] = ()
    echo: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, phase: Mapping[str, Any]) -> "PhaseCost":
        """From a phase of a record."""
        stages = phase["stages"]
        return cls(
            fixed=phase["flops"] - phase["flops_steps"],
            searching=tuple((stage["searching"], stage["flops_searching"]) for stage in stages),
            each=tuple(stage["flops_step"] for stage in stages),
            again=tuple(stage.get("flops_echo", stage["flops_step"]) for stage in stages),
            echo=tuple(phase.get("echo", (1, 1))),
        )

    def total(self, steps: int) -> float:
        """FLOPs of a phase of so many steps."""
        count, total = len(self.each), self.fixed
        for stage, ((searched, spent), each) in enumerate(zip(self.searching, self.each, strict=True)):
            start, end = -(-stage * steps // count), -(-(stage + 1) * steps // count)
            echoes = end - start - self._new(end) + self._new(start)
            total += spent + max(0, end - start - echoes - searched) * each
            if echoes:
                total += echoes * self.again[stage]
        return total

    def _new(self, steps: int) -> int:
        """How many of the first `steps` steps take new samples."""
        times, window = self.echo
        rounds, rest = divmod(steps, times * window)
        return rounds * window + min(rest, window)

    def steps(self, budget: float) -> int:
        """The most steps that cost no more than `budget`; 0 where even the search costs more."""
        low, high = 0, 1
        while self.total(high) <= budget:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if self.total(middle) <= budget:
                low = middle
            else:
                high = middle
        return low


def costs(record: Mapping[str, Any]) -> dict[str, PhaseCost]:
    """The costs by phase of a record's run."""
    return {name: PhaseCost.of(phase) for name, phase in record["phases"].items()}
