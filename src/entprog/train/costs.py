"""What a step costs by its lowest active block, measured: the numbers beside a ranking, and what selection weighs."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from entprog.core.blocks import Blocks, outside_parameters
from entprog.core.select import PassCosts
from entprog.core.types import Draw, Task
from entprog.plan.meter import Meter

DEPTHS = 3
"""Lowest active blocks that are tried: the first, the last and one between; others lie on the lines between."""


@dataclass(frozen=True)
class Measured:
    """Costs of forward and backward; `bytes` hold the optimizer states of AdamW.

    `exact` tells whether `flops` was counted for every depth. `spent` are the FLOPs that measuring took.
    """

    flops: PassCosts
    seconds: PassCosts
    bytes: PassCosts
    exact: bool
    spent: float

    def of(self, name: str) -> dict[str, float]:
        """What a table says of a block: a step that trains it alone, and what it adds to one that passes it."""
        kinds = {"flops": self.flops, "seconds": self.seconds, "bytes": self.bytes}
        alone = {f"step_{kind}": costs.alone[name] for kind, costs in kinds.items()}
        return alone | {f"added_{kind}": costs.added[name] for kind, costs in kinds.items()}


@dataclass
class _Passes:
    """Forward and backward of one task, counted on one sample and timed on several."""

    task: Task
    blocks: Blocks
    draw: Draw
    outside: bool
    spent: float = 0.0
    known: dict[tuple[str, ...], tuple[float, float]] = field(default_factory=dict)

    def count(self, active: Sequence[str], batch: int) -> tuple[float, float]:
        """FLOPs and bytes of a step of `batch` samples that trains `active`, from one sample.

        FLOPs and activations grow with the samples; weights, gradients and optimizer states do not.
        """
        key = tuple(active)
        if key not in self.known:
            one = _cut(self.draw, 1)
            with _training(self.task, self.blocks, active, self.outside), Meter(self.task.model) as meter:
                self._pass(one)
            trained = [p for p in self.task.model.parameters() if id(p) in self._trained(active)]
            states = sum(2 * p.numel() * p.element_size() for p in trained)
            grown = meter.at_peak.get("activations", 0) + meter.at_peak.get("temporaries", 0)
            self.spent += meter.flops
            self.known[key] = float(meter.flops) * batch, float(meter.peak + states + grown * (batch - 1))
        return self.known[key]

    def time(self, active: Sequence[str], batch: int) -> float:
        """Seconds of one forward and backward that trains `active`, scaled to `batch` samples."""
        draw = _cut(self.draw, batch)
        with _training(self.task, self.blocks, active, self.outside):
            _synchronize(self.task)
            started = time.perf_counter()
            self._pass(draw)
            _synchronize(self.task)
            seconds = time.perf_counter() - started
        self.spent += self.count(active, batch)[0] / batch * draw.size
        return seconds * batch / draw.size

    def _pass(self, draw: Draw) -> None:
        loss = self.task.loss(draw)
        if loss.requires_grad:  # not where a block is never called and nothing else trains
            loss.backward()
        for parameter in self.task.model.parameters():
            parameter.grad = None

    def _trained(self, active: Sequence[str]) -> set[int]:
        with _training(self.task, self.blocks, active, self.outside):
            return {id(p) for p in self.task.model.parameters() if p.requires_grad}


def measure_costs(
    task: Task, blocks: Blocks, order: Sequence[str], draw: Draw, batch: int, *, outside: bool, exact: bool = False
) -> Measured:
    """Run forward and backward on `draw` with the lowest active block at several depths.

    Args:
        order: all blocks by their place in the forward, the lowest first.
        draw: one of the phase's own size; up to `batch` of its samples are run.
        batch: samples of a step, to which everything is scaled.
        outside: whether parameters outside the blocks train, which as a rule takes the backward to the input.
        exact: count the FLOPs of each block alone, and of each beside the lowest (2 L passes of one sample), where
            else the depths between are interpolated and what blocks add is shared by their size.
    """
    passes, names = _Passes(task, blocks, draw, outside), tuple(order)
    places = sorted({round(k * (len(names) - 1) / (DEPTHS - 1)) for k in range(DEPTHS)})
    sizes = {block.name: sum(p.numel() for p in block.parameters()) for block in blocks}
    above = max(sum(sizes[name] for name in names[1:]), 1)
    passes.time(names, batch)  # warms up

    def costs(at: dict[int, float], everything: float) -> PassCosts:
        alone = _between(at)
        rest = max(everything - alone[0], 0.0) / above
        return PassCosts(names, dict(zip(names, alone, strict=True)), {name: rest * sizes[name] for name in names})

    counted = {k: passes.count([names[k]], batch) for k in places}
    everything = passes.count(names, batch)
    flops, size = (costs({k: both[kind] for k, both in counted.items()}, everything[kind]) for kind in (0, 1))
    seconds = costs({k: passes.time([names[k]], batch) for k in places}, passes.time(names, batch))
    if exact:
        alone = {name: passes.count([name], batch)[0] for name in names}
        added = {name: passes.count([names[0], name], batch)[0] - alone[names[0]] for name in names[1:]}
        flops = PassCosts(names, alone, {names[0]: 0.0, **added})
    return Measured(flops, seconds, size, exact, passes.spent)


def _between(known: dict[int, float]) -> list[float]:
    """Values at every place from 0 to the last known one, on straight lines."""
    values = [known[0]]
    for (a, first), (b, second) in pairwise(sorted(known.items())):
        values += [first + (second - first) * (k - a) / (b - a) for k in range(a + 1, b + 1)]
    return values


def _cut(draw: Draw, samples: int) -> Draw:
    condition = {name: value[:samples] for name, value in draw.condition.items()}
    return Draw(draw.x[:samples], draw.tau[:samples], draw.eps[:samples], condition)


@contextmanager
def _training(task: Task, blocks: Blocks, active: Iterable[str], outside: bool) -> Iterator[None]:
    """Exactly these blocks require gradients, and what is outside if `outside`; flags come back at the end."""
    before = {p: p.requires_grad for p in task.model.parameters()}
    wanted = {id(p) for name in active for p in blocks[name].parameters()}
    free = {id(p) for p in outside_parameters(task.model, blocks).values()} if outside else set()
    try:
        for parameter, flag in before.items():
            parameter.requires_grad_(id(parameter) in wanted or (flag and id(parameter) in free))
        yield
    finally:
        for parameter, flag in before.items():
            parameter.requires_grad_(flag)
            parameter.grad = None


def _synchronize(task: Task) -> None:
    if next(task.model.parameters()).is_cuda:
        torch.cuda.synchronize()
