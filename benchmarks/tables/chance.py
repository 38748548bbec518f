"""Whether a search's choices differ from choices at random: its trials against the same trials with m permuted."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from benchmarks.runner.run_record import Record


@dataclass(frozen=True, slots=True)
class Check:
    """What came of it.

    Attributes:
        searches: how many searches there were.
        ratio: how far the best candidate's efficiency lies above the mean of all, in units of their mean size; the
            mean over searches. The best of several always lies above.
        chance: the same with permuted readings, mean over permutations.
        p_ratio: share of permutations (the truth among them) whose ratio is at least as large.
        p_gain: the same for the difference of gains between cheap and expensive candidates, all searches together.
            Where it is large, the choices follow from costs.
    """

    searches: int
    ratio: float
    chance: float
    p_ratio: float
    p_gain: float


def searches(records: Sequence[Record]) -> list[list[dict[str, Any]]]:
    """The trials of each search, one list for each run, phase and stage."""
    found = []
    for record in records:
        trials = sorted(record["trials"], key=lambda t: (t["phase"], t["stage"], t["step"]))
        for _, group in groupby(trials, key=lambda t: (t["phase"], t["stage"])):
            found.append(list(group))
    return found


def check(found: Sequence[Sequence[Mapping[str, Any]]], *, draws: int = 2000, seed: int = 0) -> Check | None:
    """Permute which candidate each reading belongs to; what each candidate costs stays.

    Under the null hypothesis a reading of the holdout says nothing about which candidate was trained before it, so
    that candidates differ by their costs only. None where no search had two candidates with a gain.
    """
    usable = [Search(trials) for trials in found]
    usable = [search for search in usable if len(search.gains(search.labels)) > 1]
    if not usable:
        return None
    truth = _both(usable, [search.labels for search in usable])
    source = random.Random(seed)
    chance = []
    for _ in range(draws):
        shuffled = [source.sample(search.labels, len(search.labels)) for search in usable]
        chance.append(_both(usable, shuffled))
    as_good = [sum(each[k] >= truth[k] - 1e-12 for each in chance) for k in (0, 1)]
    mean = sum(ratio for ratio, _ in chance) / draws
    return Check(len(usable), truth[0], mean, (as_good[0] + 1) / (draws + 1), (as_good[1] + 1) / (draws + 1))


class Search:
    """The trials of one search; its candidates are numbered from the cheapest to the most expensive."""

    def __init__(self, trials: Sequence[Mapping[str, Any]]) -> None:
        costs: dict[str, list[float]] = {}
        for trial in trials:
            costs.setdefault(trial["candidate"], []).append(trial["flops"])
        means = {name: sum(values) / len(values) for name, values in costs.items()}
        order = sorted(means, key=lambda name: (means[name], name))
        self.costs = [means[name] for name in order]
        self.labels = [order.index(trial["candidate"]) for trial in trials]
        self.readings = [trial["loss_after"] for trial in trials]
        self.single = [trial["gain"] for trial in trials] if len(trials) == len(costs) else None

    def gains(self, labels: Sequence[int]) -> dict[int, float]:
        """The mean gain of a trial of each candidate, by these labels.

        With several trials a candidate (supernet) falls between readings of its own, the first only starting the
        series; with one (probe) what that trial gained.
        """
        if self.single is not None:
            return dict(zip(labels, self.single, strict=True))
        series: dict[int, list[float]] = {}
        for label, reading in zip(labels, self.readings, strict=True):
            series.setdefault(label, []).append(reading)
        return {k: (rows[0] - rows[-1]) / (len(rows) - 1) for k, rows in series.items() if len(rows) > 1}


def _both(found: Sequence[Search], labels: Sequence[Sequence[int]]) -> tuple[float, float]:
    """The ratio of efficiencies, and how much gains differ by the candidate's place; both by these labels."""
    ratios = []
    places: dict[tuple[int, int], list[float]] = {}
    for search, own in zip(found, labels, strict=True):
        gains = search.gains(own)
        efficiency = _centred([gains[k] / search.costs[k] for k in gains])
        ratios.append(max(efficiency, default=0.0))
        for k, gain in zip(gains, _centred(list(gains.values())), strict=True):
            places.setdefault((len(search.costs), k), []).append(gain)
    apart = sum(sum(values) ** 2 / len(values) for values in places.values())
    return sum(ratios) / len(ratios), apart


def _centred(values: Sequence[float]) -> list[float]:
    """Differences from the mean, in units of the mean size."""
    if not values:
        return []
    mean = sum(values) / len(values)
    size = sum(abs(value) for value in values) / len(values)
    return [(value - mean) / size if size else 0.0 for value in values]
