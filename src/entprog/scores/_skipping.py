"""Run a task once whole and once without each block, at about half the cost of doing so one by one."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import nn

from entprog.core.skip import ROLES, Skipper
from entprog.core.statistics import mean_and_error
from entprog.core.types import Draw, Scores

Result = TypeVar("Result")
Skip = Literal["denoising", "reference", "both"]


@contextmanager
def scoring(model: nn.Module, *, gradient: bool = False) -> Iterator[None]:
    """Evaluation mode, with gradient or without; each module's mode is restored at the end."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode(False), torch.set_grad_enabled(gradient):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def without_each(
    skipper: Skipper, run: Callable[[], Result], skip: Skip = "denoising", *, fast: bool = True
) -> Iterator[tuple[str | None, Result]]:
    """Yield (None, result of the whole model), then (name, result without that block) for each block.

    With `fast`, blocks before the skipped one are replayed; the results are identical. `fast=False` is the slow
    reference: L + 1 plain forwards.
    """
    roles = ROLES if skip == "both" else (skip,)
    if not fast:
        whole = run()
        notes_on(skipper, skip)
        yield None, whole
        for name in skipper.blocks.names:
            with skipper.skip(name, roles):
                yield name, run()
        return
    with skipper.record():
        whole = run()
    notes_on(skipper, skip)
    yield None, whole
    for name in skipper.blocks.names:
        with skipper.replay(), skipper.skip(name, roles):
            result = run()
        yield name, result


def notes_on(skipper: Skipper, skip: Skip, option: str = "skip") -> tuple[str, ...]:
    """Notes about an `option`, or blocks, without effect.

    Raises:
        ValueError: a reference pass is asked for where there is none.
    """
    notes: tuple[str, ...] = ()
    if skip != "denoising" and "reference" not in skipper.roles:
        if skip == "reference":
            raise ValueError(
                f'{option} = "reference", but no block call is in a reference pass: use "denoising", or give the '
                "blocks a role"
            )
        notes += (f'{option} = "both" is the same as "denoising" here: there is no reference pass',)
    if skipper.uncalled:
        notes += (f"never called, so without effect: {', '.join(skipper.uncalled)}",)
    return notes


def summary(
    values: Mapping[str, Sequence[float]],
    samples: int,
    *,
    weights: Sequence[float] | None = None,
    notes: tuple[str, ...] = (),
) -> Scores:
    """Scores from one value for each sample (or draw, with its weight) of each block.

    Raises:
        ValueError: a value is not finite, so the blocks can't be ordered.
    """
    results = {name: mean_and_error(each, weights) for name, each in values.items()}
    for name, (mean, _) in results.items():
        if not math.isfinite(mean):
            raise ValueError(f"the score of block {name!r} is {mean}: the model's prediction or loss is not finite")
    return Scores(
        values={name: mean for name, (mean, _) in results.items()},
        stderr={name: error for name, (_, error) in results.items() if math.isfinite(error)},
        samples=samples,
        notes=notes,
    )


def choose(
    draws: Sequence[Draw], tau_min: float, tau_max: float, samples: int | None = None
) -> list[tuple[Draw, list[int]]]:
    """Draws with the indices of their first `samples` samples in all whose tau is in [tau_min, tau_max].

    Raises:
        ValueError: there are no draws, no sample is in range, or `samples` is below 1.
    """
    if samples is not None and samples < 1:
        raise ValueError(f"samples = {samples}: use at least 1, or leave it out for all")
    chosen, left = [], samples
    for draw in draws:
        places = [i for i, tau in enumerate(draw.tau.tolist()) if tau_min <= tau <= tau_max][:left]
        if left is not None:
            left -= len(places)
        if places:
            chosen.append((draw, places))
    if not chosen:
        taus = [tau for draw in draws for tau in draw.tau.tolist()]
        seen = f"they are in [{min(taus):.3g}, {max(taus):.3g}]" if taus else "there are no draws"
        raise ValueError(f"no sample has tau in [{tau_min}, {tau_max}]: {seen}; widen tau_min and tau_max")
    return chosen


def pieces(chosen: Sequence[tuple[Draw, list[int]]], count: int) -> list[tuple[Draw, list[int]]]:
    """At least `count` parts of the chosen samples, where there are so many: each draw in equal ones, in its order."""
    found = []
    for draw, places in chosen:
        parts = min(-(-count // len(chosen)), len(places))
        ends = [len(places) * k // parts for k in range(parts + 1)]
        found += [(draw, places[first:end]) for first, end in pairwise(ends)]
    return found


def part(draw: Draw, places: Sequence[int]) -> Draw:
    """The samples of a draw at `places`."""
    if list(places) == list(range(draw.size)):
        return draw
    index = torch.tensor(places)
    return draw.each(lambda tensor: tensor[index.to(tensor.device)])
