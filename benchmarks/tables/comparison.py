"""Statistics of records: means and spreads, paired differences, and the cost at which an arm reaches a loss."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.runner.run_plan import Budget, Plan
from benchmarks.runner.run_record import Record
from entprog.core.bands import band_means

BANDS = 5
"""Bands of tau in which losses are given beside the mean."""

Cost = Callable[[Record], float]
"""What a run took; `flops_of`, or calibrated seconds."""


@dataclass(frozen=True, slots=True)
class Group:
    """The finished runs of an arm at a budget, one a seed, in the order of the seeds; `diverged` counts the others."""

    arm: str
    budget: Budget
    seeds: tuple[int, ...]
    records: tuple[Record, ...]
    diverged: int = 0

    def mean(self, of: Callable[[Record], float]) -> float:
        """Mean over seeds; NaN where a run has no such number."""
        return mean([of(record) for record in self.records])

    def spread(self, of: Callable[[Record], float]) -> float:
        """Standard deviation over seeds; NaN with fewer than two."""
        return deviation([of(record) for record in self.records])


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm's loss less another's, over the seeds that both have.

    Attributes:
        by_clip: standard error over clips, each clip's difference a mean over seeds and draws.
        by_seed: standard error over seeds; NaN with fewer than two.
    """

    mean: float
    by_clip: float
    by_seed: float
    clips: int
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether it is more than two of its larger standard error (with one seed: of that over clips)."""
        errors = [error for error in (self.by_clip, self.by_seed) if not math.isnan(error)]
        return bool(errors) and abs(self.mean) > 2 * max(errors)


@dataclass(frozen=True, slots=True)
class Crossing:
    """The cost at which a loss is first reached.

    `at_most` says that it was reached before the first point that is known.
    """

    cost: float
    at_most: bool = False


def groups(plan: Plan, records: Mapping[str, Record]) -> dict[tuple[str, Budget], Group]:
    """Finals by arm and budget, as far as their records are there."""
    members: dict[tuple[str, Budget], list[tuple[int, Record]]] = {}
    for (arm, budget, seed), run in plan.finals.items():
        if run.address in records:
            members.setdefault((arm, budget), []).append((seed, {**records[run.address], "arm": arm}))
    found = {}
    for (arm, budget), pairs in members.items():
        ended = [(seed, record) for seed, record in sorted(pairs, key=lambda pair: pair[0]) if finished(record)]
        seeds, kept = tuple(seed for seed, _ in ended), tuple(record for _, record in ended)
        found[arm, budget] = Group(arm, budget, seeds, kept, len(pairs) - len(ended))
    return found


def finished(record: Record) -> bool:
    """Whether a run trained to its end."""
    return bool(record["status"] == "finished")


def loss_of(record: Record) -> float:
    """The exam's loss."""
    return float(record["exam"]["loss"])


def band_loss(band: int) -> Callable[[Record], float]:
    """The exam's loss in one of the bands of tau; NaN where no draw falls into it, or the record has no draws."""

    def value(record: Record) -> float:
        exam = record["exam"]
        return band_means(exam["per_draw"], exam["tau"], BANDS)[band] if "tau" in exam else math.nan

    return value


def flops_of(record: Record) -> float:
    """Exact FLOPs, scoring and search included."""
    return float(record["totals"]["flops"])


def peak_of(record: Record) -> float:
    """Live bytes of the largest step."""
    return float(record["totals"]["bytes_peak"])


def mean_bytes_of(record: Record) -> float:
    """Mean of each step's peak, weighed by the step's FLOPs: wall times of single steps are noise on a shared CPU."""
    parts = [
        (load["steps"] * load["flops"], load["bytes_peak"])
        for phase in record["phases"].values()
        for load in phase["workloads"]
    ]
    total = sum(weight for weight, _ in parts)
    return sum(weight * size for weight, size in parts) / total if total else math.nan


def quality_of(name: str) -> Callable[[Record], float]:
    """A metric of the generated clips; NaN where it was not measured."""

    def value(record: Record) -> float:
        found = (record["exam"] or {}).get("quality", {}).get("metrics", {}).get(name)
        return math.nan if found is None else float(found)

    return value


def difference(arm: Group, other: Group) -> Difference:
    """Paired difference of the losses, arm less other; negative is better.

    Raises:
        ValueError: no seed that both ran from the same weights, or examined on other clips.
    """
    shared = paired(arm, other)
    if not shared:
        raise ValueError(f"{arm.arm} and {other.arm} at {arm.budget}: no seed that both ran from the same weights")
    clips: dict[str, list[float]] = {}
    by_seed = []
    for seed in shared:
        a, b = (group.records[group.seeds.index(seed)]["exam"] for group in (arm, other))
        if a["clips"] != b["clips"] or a["tau"] != b["tau"]:
            raise ValueError(f"{arm.arm} and {other.arm}: examined on other clips or times; their losses do not pair")
        apart = [x - y for x, y in zip(a["per_draw"], b["per_draw"], strict=True)]
        by_seed.append(mean(apart))
        for clip, value in zip(a["clips"], apart, strict=True):
            clips.setdefault(clip, []).append(value)
    by_clip = [mean(values) for values in clips.values()]
    return Difference(mean(by_seed), error(by_clip), error(by_seed), len(clips), len(shared))


def paired(arm: Group, other: Group) -> list[int]:
    """The seeds that both have, started from the same weights."""
    started = [{seed: r.get("base", "") for seed, r in zip(g.seeds, g.records, strict=True)} for g in (arm, other)]
    return [seed for seed in arm.seeds if started[0][seed] == started[1].get(seed)]


def reached(points: Sequence[tuple[float, float]], loss: float) -> Crossing | None:
    """The least cost at which `points` (cost, loss), joined by straight lines over log cost, come down to `loss`."""
    points = sorted(points)
    for i, (cost, value) in enumerate(points):
        if value > loss:
            continue
        if i == 0 or value == loss:
            return Crossing(cost, at_most=value < loss)
        before, above = points[i - 1]
        share = (above - loss) / (above - value)
        return Crossing(math.exp(math.log(before) + share * (math.log(cost) - math.log(before))))
    return None


def by_budget(
    arm: str, found: Mapping[tuple[str, Budget], Group], cost: Cost, loss: Callable[[Record], float] = loss_of
) -> list[tuple[float, float]]:
    """(cost, loss) at the end of an arm's runs of each length, means over seeds: each with a decay of its own."""
    groups = [group for (name, _), group in found.items() if name == arm and group.records]
    return sorted({(group.mean(cost), group.mean(loss)) for group in groups})


def curve(record: Record) -> list[tuple[float, float]]:
    """(FLOPs, loss) while a run trained, on its own holdout; its last phase only, as losses of phases differ."""
    last = record["curve"][-1]["phase"]
    return [(point["flops"], point["loss"]) for point in record["curve"] if point["phase"] == last]


def mean(values: Sequence[float]) -> float:
    """NaN of nothing."""
    return sum(values) / len(values) if values else math.nan


def deviation(values: Sequence[float]) -> float:
    """The standard deviation, n - 1 in its denominator; NaN of fewer than two."""
    if len(values) < 2:
        return math.nan
    centre = mean(values)
    return math.sqrt(sum((value - centre) ** 2 for value in values) / (len(values) - 1))


def error(values: Sequence[float]) -> float:
    """The standard error of the mean."""
    return deviation(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
