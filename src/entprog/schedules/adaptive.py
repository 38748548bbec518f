"""Choose each stage's workload by measured convergence efficiency."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from entprog.core.probe import probe_choice
from entprog.core.sizes import block_count, check_values, needs_shape, resized
from entprog.core.supernet import convergence_efficiency
from entprog.core.types import Ranking, Shape, Trial, Workload

__all__ = ["Adaptive"]

LISTS = {"resolutions": "resolution", "frames": "frames", "tokens": "tokens", "batches": "batch"}
"""Options that list sizes -> the field of a shape that they set."""


@dataclass(frozen=True)
class Adaptive:
    """Search among block counts, and sizes if listed, from the last choice up (Ent-Prog's adaptive schedule).

    The source names neither the number of stages nor the sets M_k. Here M_k spreads evenly from the last
    choice (at first: one width-th of the blocks) to all L, so block counts never fall. Where sizes are listed, a
    candidate is a block count at one of each; then resolution, frames and tokens never fall either. Without them
    this is the published search.

    Attributes:
        stages: K, at least 1.
        search_steps: training steps of the search in each stage; the paper takes one epoch. The probe divides
            them evenly among its candidates.
        width: block counts in M_k, at least 2.
        estimator: "supernet" (published) or "probe" (snapshot and restore, needed for sizes).
        resolutions: sides in pixels to choose from; empty for the phase's own. Values are cut to the phase's own.
        frames: frames of a clip to choose from, likewise.
        tokens: shares of the tokens that the middle blocks see, above 0 and at most 1.
        batches: samples of a micro-batch to choose from.
        workloads: explicit candidates instead of all that, such as `{m = 4, resolution = 32, frames = 2}`: m is a
            count, or below 1 a share; fields left out mean all blocks and the phase's own sizes.
    """

    stages: int = 4
    search_steps: int = 24
    width: int = 3
    estimator: Literal["supernet", "probe"] = "supernet"
    resolutions: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    tokens: tuple[float, ...] = ()
    batches: tuple[int, ...] = ()
    workloads: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("stages", 1), ("width", 2), ("search_steps", 4)):
            if getattr(self, name) < least:
                raise ValueError(f"schedule.options.{name} = {getattr(self, name)}: must be at least {least}")
        if self.estimator not in ("supernet", "probe"):
            raise ValueError(f"schedule.options.estimator = {self.estimator!r}: choose supernet or probe")
        for option, name in LISTS.items():
            check_values(f"schedule.options.{option}", name, getattr(self, option))
            if self.workloads and getattr(self, option):
                raise ValueError(f"schedule.options.{option}: no effect with workloads; write it into each of them")
        for k, table in enumerate(self.workloads):
            self._check_table(k, table)

    def candidates(
        self, stage: int, ranking: Ranking, shape: Shape | None, last: Workload | None
    ) -> tuple[Workload, ...]:
        """Block counts from the last choice to all blocks (fewer when they coincide), at each of the sizes."""
        total = len(ranking.names)
        if self.workloads:
            pairs = list(self._by_hand(total, shape))
        else:
            low = len(last.active) if last else max(1, round(total / self.width))
            spread = (round(low + (total - low) * i / (self.width - 1)) for i in range(self.width))
            pairs = list(product(sorted(set(spread)), self.shapes(shape) if shape or self._sizes() else (None,)))
        if last:
            kept = [(m, s) for m, s in pairs if m >= len(last.active) and not _smaller(s, last.shape)]
            pairs = kept or [(len(last.active), last.shape)]
        pairs.sort(key=lambda pair: (_work(pair[1]) * (1 + 2 * pair[0] / total), pair[0]))
        return tuple(dict.fromkeys(Workload(ranking.top(m), s) for m, s in pairs))

    def shapes(self, shape: Shape | None) -> tuple[Shape, ...]:
        """Every shape that a phase of this full shape may train at."""
        if shape is None:
            raise needs_shape(f"schedule.options.{next(iter(self._sizes() or {'workloads': ()}))}")
        if self.workloads:
            return tuple(dict.fromkeys(resized(shape, _sizes(table)) for table in self.workloads))
        sizes = self._sizes()
        found = [resized(shape, dict(zip(sizes, values, strict=True))) for values in product(*sizes.values())]
        return tuple(dict.fromkeys(found))

    def choose(self, trials: Sequence[Trial], cost: str) -> tuple[Workload, dict[Workload, float]]:
        """The workload of the highest efficiency; with the supernet, ties and unmeasured stages go to the larger."""
        if self.estimator == "probe":
            return probe_choice(trials, cost)
        efficiency = convergence_efficiency(trials, cost)
        if not efficiency:
            return max(trials, key=lambda trial: trial.size).workload, {}
        sizes = {trial.workload: trial.size for trial in trials}
        return max(efficiency, key=lambda w: (efficiency[w], sizes[w])), efficiency

    def _by_hand(self, total: int, shape: Shape | None) -> Iterator[tuple[int, Shape | None]]:
        for k, table in enumerate(self.workloads):
            if shape is None and _sizes(table):
                raise needs_shape(f"schedule.options.workloads[{k}]")
            m = block_count(table.get("m", total), total, f"schedule.options.workloads[{k}].m = {table.get('m')}")
            yield m, resized(shape, _sizes(table)) if shape else None

    def _sizes(self) -> dict[str, Sequence[float]]:
        return {name: getattr(self, option) for option, name in LISTS.items() if getattr(self, option)}

    def _check_table(self, k: int, table: Mapping[str, Any]) -> None:
        known = ("m", *LISTS.values())
        for name, value in table.items():
            if name not in known:
                raise ValueError(f"schedule.options.workloads[{k}] has no {name!r}; choose from {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"schedule.options.workloads[{k}].{name} = {value!r}: must be a number")
            if name == "m" and (value <= 0 or (value > 1 and value != int(value))):
                raise ValueError(f"schedule.options.workloads[{k}].m = {value}: a count, or below 1 a share")
            if name != "m":
                check_values(f"schedule.options.workloads[{k}].{name}", name, [value])


def _sizes(table: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in table.items() if name != "m"}


def _smaller(shape: Shape | None, last: Shape | None) -> bool:
    if shape is None or last is None:
        return False
    return any(getattr(shape, name) < getattr(last, name) for name in ("resolution", "frames", "tokens"))


def _work(shape: Shape | None) -> float:
    """Tokens of a step in some unit."""
    return math.prod(shape.sides) * shape.frames * shape.tokens * shape.batch if shape else 1.0
