"""The snapshot-and-restore estimator: every candidate trains alone from the same weights on the same batches.

Slower than the supernet but exact: candidates share weights, optimizer state, data, noise and learning rate at their
start, and the loss of each is read once, at its end, on the same holdout samples.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from entprog.core.bands import band_means, band_of
from entprog.core.sharded import reshard, sharded_modules
from entprog.core.types import Schedule, Trial, Workload

PAIRS = 24
"""With fewer pairs of holdout losses the standard error itself is off by more than a seventh."""


class Snapshot:
    """Copies of all weights and optimizer states, which are restored in place."""

    def __init__(self, weights: dict[str, Tensor], optimizer: dict[str, dict[str, Any]]) -> None:
        self.weights, self.optimizer = weights, optimizer

    @classmethod
    @torch.no_grad()
    def take(cls, model: nn.Module, optimizer: optim.Optimizer) -> "Snapshot":
        """Copy the parameters that a search can change, those of the optimizer, and their states."""
        reshard(sharded_modules(model))
        inside = {id(p) for group in optimizer.param_groups for p in group["params"]}
        weights = {n: p.detach().clone() for n, p in model.named_parameters() if id(p) in inside}
        states = {
            name: {k: v.clone() if isinstance(v, Tensor) else v for k, v in optimizer.state[p].items()}
            for name, p in zip(optimizer_names(optimizer, model), _parameters(optimizer), strict=True)
            if optimizer.state.get(p)
        }
        return cls(weights, states)

    @torch.no_grad()
    def restore(self, model: nn.Module, optimizer: optim.Optimizer) -> None:
        """Write the copies back, bit for bit; states that did not exist at the copy are dropped."""
        reshard(sharded_modules(model))
        named = dict(model.named_parameters())
        for name, value in self.weights.items():
            named[name].copy_(value)
            named[name].grad = None
        for name, p in zip(optimizer_names(optimizer, model), _parameters(optimizer), strict=True):
            if name in self.optimizer:
                kept = self.optimizer[name]
                optimizer.state[p] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in kept.items()}
            else:
                optimizer.state.pop(p, None)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {"weights": self.weights, "optimizer": self.optimizer}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Snapshot":
        """The inverse of `state_dict`."""
        return cls(dict(state["weights"]), {name: dict(values) for name, values in state["optimizer"].items()})


def optimizer_names(optimizer: optim.Optimizer, model: nn.Module) -> list[str]:
    """Names in the model of the optimizer's parameters, in its order."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [names.get(id(p), str(place)) for place, p in enumerate(_parameters(optimizer))]


def _parameters(optimizer: optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def check_shared(schedule: Schedule, candidates: int) -> None:
    """Refuse a probe with fewer steps than candidates.

    Raises:
        ValueError: naming the option.
    """
    if schedule.estimator == "probe" and schedule.search_steps < candidates > 1:
        raise ValueError(
            f"schedule.options.search_steps = {schedule.search_steps}: shared by {candidates} candidates, each needs a "
            "step at least (32 and more are advised); raise it or list fewer candidates"
        )


def paired_gain(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of the loss removed over paired holdout losses; one pair has an infinite error."""
    differences = [b - a for b, a in zip(before, after, strict=True)]
    mean = sum(differences) / len(differences)
    if len(differences) < 2:
        return mean, math.inf
    variance = sum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
    return mean, math.sqrt(variance / len(differences))


def watched_gain(
    before: Sequence[float], after: Sequence[float], tau: Sequence[float], watch: str
) -> tuple[float, float]:
    """Decrease of the watched loss (`watched_loss`) over paired losses of the same samples, and its standard error.

    With "bands" the error is that of independent bands, to first order: log B - log A of a band, whose mean losses are
    B before and A after, varies like the mean of before/B - after/A over its samples. One sample in a band makes it
    infinite, as one pair does for the mean.
    """
    if watch != "bands":
        return paired_gain(before, after)
    means = list(zip(band_means(before, tau), band_means(after, tau), strict=True))
    gains, squares = [], []
    for band, (mean_before, mean_after) in enumerate(means):
        inside = [i for i, noise in enumerate(tau) if band_of(noise, len(means)) == band]
        if inside:
            relative = paired_gain([before[i] / mean_before for i in inside], [after[i] / mean_after for i in inside])
            gains.append(math.log(mean_before / mean_after))
            squares.append(relative[1] ** 2)
    return math.fsum(gains) / len(gains), math.sqrt(math.fsum(squares)) / len(squares)


def few_pairs(pairs: int, tau: Sequence[float], watch: str) -> str:
    """A warning where so many pairs of holdout losses can't tell candidates apart; else empty."""
    remedy = "give more holdout samples (train.holdout_clips)"
    if pairs < PAIRS:
        return (
            f"the probe compares its candidates over {pairs} pairs of holdout losses: with fewer than {PAIRS} their "
            f"standard error is rough and the larger candidate wins too often (with one, always); {remedy}"
        )
    counts = Counter(map(band_of, tau)) if watch == "bands" else Counter[int]()
    if 1 in counts.values():
        return (
            'the probe compares its candidates by train.watch = "bands", and one of the noise bands has a single '
            f"holdout sample: no standard error is known, and the larger candidate always wins; {remedy}"
        )
    return ""


def probe_choice(trials: Sequence[Trial], cost: str) -> tuple[Workload, dict[Workload, float]]:
    """The chosen workload and the gain per cost of each candidate; one trial for each candidate.

    The best candidate wins unless a larger one (`Trial.size`) is within two standard errors of it: then the
    larger one, since a short horizon favours small ones (FINDINGS 4).
    """
    near, rates = _near_best(trials, cost)
    return max(near, key=lambda t: t.size).workload, rates


def cheapest_choice(trials: Sequence[Trial], cost: str) -> tuple[Workload, dict[Workload, float]]:
    """As `probe_choice`, but of the candidates within two standard errors of the best the cheapest one wins."""
    near, rates = _near_best(trials, cost)
    return min(near, key=lambda t: t.size).workload, rates


def _near_best(trials: Sequence[Trial], cost: str) -> tuple[list[Trial], dict[Workload, float]]:
    """The candidates within two standard errors of the best, itself among them, and the gain per cost of each."""
    rates = {t.workload: t.gain / getattr(t, cost) for t in trials}
    errors = {t.workload: t.gain_stderr / getattr(t, cost) for t in trials}
    best = max(trials, key=lambda t: (rates[t.workload], t.size))
    near = [
        t
        for t in trials
        if rates[best.workload] - rates[t.workload] <= 2 * math.hypot(errors[t.workload], errors[best.workload])
    ]
    return [best, *near], rates


def labels(candidates: Sequence[Workload]) -> dict[Workload, str]:
    """Short names that distinguish a stage's candidates: m, and the parts of the shape that differ."""
    names = [str(len(workload.active)) for workload in candidates]
    for part in ("@{0.size}px", " x{0.frames}", " of {0.tokens:g} tokens", " in {0.batch}s"):
        if len(set(names)) == len(names):
            break
        shapes = [workload.shape for workload in candidates]
        names = [name + part.format(shape) if shape else name for name, shape in zip(names, shapes, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name} #{k}" for k, name in enumerate(names)]
    return dict(zip(candidates, names, strict=True))
