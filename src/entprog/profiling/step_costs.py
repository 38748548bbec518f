"""Measured cost of a step by its lowest active block: shown with a ranking, and used by selection."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from entprog.core.blocks import Blocks, outside_parameters
from entprog.core.select import PassCosts
from entprog.core.types import Draw, Predictor
from entprog.profiling.meter import Meter
from entprog.profiling.states import adamw_states

States = Callable[[Tensor], int]


def adamw(parameter: Tensor) -> int:
    """Bytes of AdamW's states of a parameter."""
    return sum(adamw_states(tuple(parameter.shape), parameter.element_size(), counted=True))


DEPTHS = 3
"""Number of lowest active blocks that are measured: the first, the last and one between; others are interpolated."""


@dataclass(frozen=True)
class Measured:
    """Costs of forward and backward; `bytes` include the optimizer's states.

    `exact`: whether `flops` was counted for every depth. `spent` are the FLOPs of measuring, `peak` the largest sum of
    live bytes meanwhile.
    """

    flops: PassCosts
    seconds: PassCosts
    bytes: PassCosts
    exact: bool
    spent: float
    peak: int

    def of(self, name: str) -> dict[str, float]:
        """Table row of a block: the cost of a step that trains it alone, and what it adds to a backward through it."""
        kinds = {"flops": self.flops, "seconds": self.seconds, "bytes": self.bytes}
        alone = {f"step_{kind}": costs.alone[name] for kind, costs in kinds.items()}
        return alone | {f"added_{kind}": costs.added[name] for kind, costs in kinds.items()}


@dataclass
class _Passes:
    """Forward and backward of one task, counted on one sample and timed on several."""

    task: Predictor
    blocks: Blocks
    draw: Draw
    outside: bool
    frozen_inputs: frozenset[str]
    states: States
    spent: float = 0.0
    peak: int = 0
    known: dict[tuple[str, ...], tuple[float, float]] = field(default_factory=dict)

    def count(self, active: Sequence[str], batch: int) -> tuple[float, float]:
        """FLOPs and bytes of a step of `batch` samples that trains `active`, from one sample.

        FLOPs and activations grow with the samples; weights, gradients and optimizer states do not.
        """
        key = tuple(active)
        if key not in self.known:
            one = self.draw.first(1)
            with self._training(active), Meter(self.task.model) as meter:
                self._pass(one)
            with self._training(active):
                trained = [p for p in self.task.model.parameters() if p.requires_grad]
            states = sum(map(self.states, trained))
            grown = meter.at_peak.get("activations", 0) + meter.at_peak.get("temporaries", 0)
            self.spent += meter.flops
            self.known[key] = float(meter.flops) * batch, float(meter.peak + states + grown * (batch - 1))
        return self.known[key]

    def time(self, active: Sequence[str], batch: int) -> float:
        """Seconds of one forward and backward that trains `active`, scaled to `batch` samples."""
        draw = self.draw.first(batch)
        with self._training(active):
            _synchronize(self.task)
            started = time.perf_counter()
            self._pass(draw)
            _synchronize(self.task)
            seconds = time.perf_counter() - started
        flops, _ = self.count(active, batch)  # which may itself add to what is spent
        self.spent += flops / batch * draw.size
        return seconds * batch / draw.size

    def warm_up(self, active: Sequence[str], batch: int) -> None:
        """Meter a step instead of timing it: with all blocks active, which takes the most memory."""
        draw = self.draw.first(batch)
        with self._training(active), Meter(self.task.model) as meter:
            self._pass(draw)
        self.peak = meter.peak
        flops, _ = self.count(active, batch)  # which may itself add to what is spent
        self.spent += flops / batch * draw.size

    def _pass(self, draw: Draw) -> None:
        loss = self.task.loss(draw)
        if loss.requires_grad:  # not where a block is never called and nothing else trains
            loss.backward()
        for parameter in self.task.model.parameters():
            parameter.grad = None

    @contextmanager
    def _training(self, active: Iterable[str]) -> Iterator[None]:
        """Gradients for exactly these blocks, and outside except for frozen inputs; flags are restored at the end."""
        model = self.task.model
        before = {p: p.requires_grad for p in model.parameters()}
        wanted = {id(p) for name in active for p in self.blocks[name].parameters()}
        others = outside_parameters(model, self.blocks).items() if self.outside else ()
        free = {id(p) for name, p in others if name not in self.frozen_inputs}
        try:
            for parameter, flag in before.items():
                parameter.requires_grad_(id(parameter) in wanted or (flag and id(parameter) in free))
            yield
        finally:
            for parameter, flag in before.items():
                parameter.requires_grad_(flag)
                parameter.grad = None


def measure_costs(
    task: Predictor, blocks: Blocks, order: Sequence[str], draw: Draw, batch: int, *, outside: bool,
    exact: bool = False, inputs: Collection[str] = (), every: int = 1, states: States = adamw,
) -> Measured:  # fmt: skip
    """Run forward and backward on `draw` with the lowest active block at several depths.

    Args:
        order: all blocks by their position in the forward, the lowest first.
        draw: one of the phase's own size; up to `batch` of its samples are run.
        batch: samples of a step, to which everything is scaled.
        outside: whether parameters outside the blocks train, which usually extends the backward to the input.
        exact: count the FLOPs of each block alone, and of each with the lowest (2 L passes of one sample); otherwise
            the depths between are interpolated and the added cost is shared among blocks by their size.
        inputs: names of those outside that train at every `every`-th step only, 0 for never. Above 1 both kinds of
            steps are measured: FLOPs and seconds are the mean over `every` steps, bytes those of the larger kind.
        states: bytes of the optimizer's states of a parameter.
    """

    def measured(frozen_inputs: Collection[str]) -> Measured:
        passes = _Passes(task, blocks, draw, outside, frozenset(frozen_inputs), states)
        return _measured(passes, tuple(order), batch, exact)

    if not outside or not inputs or every == 1:
        return measured(())
    short = measured(inputs)
    if not every:
        return short
    long = measured(())
    flops, seconds = (_mean(a, b, 1 / every) for a, b in ((long.flops, short.flops), (long.seconds, short.seconds)))
    return Measured(flops, seconds, long.bytes, exact, long.spent + short.spent, max(long.peak, short.peak))


def _measured(passes: _Passes, names: tuple[str, ...], batch: int, exact: bool) -> Measured:
    places = sorted({round(k * (len(names) - 1) / (DEPTHS - 1)) for k in range(DEPTHS)})
    sizes = {block.name: sum(p.numel() for p in block.parameters()) for block in passes.blocks}
    states = {block.name: sum(map(passes.states, block.parameters())) for block in passes.blocks}
    above = max(sum(sizes[name] for name in names[1:]), 1)
    passes.warm_up(names, batch)

    def costs(at: dict[int, float], everything: float, own: Mapping[str, float]) -> PassCosts:
        """`own` is the cost of each block's weights at any depth; the rest is interpolated between the depths."""
        beside = _between({k: value - own[names[k]] for k, value in at.items()})
        alone = {name: value + own[name] for name, value in zip(names, beside, strict=True)}
        rest = max(everything - alone[names[0]] - sum(own[name] for name in names[1:]), 0.0) / above
        return PassCosts(names, alone, {name: rest * sizes[name] + own[name] for name in names})

    counted = {k: passes.count([names[k]], batch) for k in places}
    everything, none = passes.count(names, batch), dict.fromkeys(names, 0.0)
    flops = costs({k: both[0] for k, both in counted.items()}, everything[0], none)
    size = costs({k: both[1] for k, both in counted.items()}, everything[1], states)
    seconds = costs({k: passes.time([names[k]], batch) for k in places}, passes.time(names, batch), none)
    if exact:
        alone = {name: passes.count([name], batch)[0] for name in names}
        added = {name: passes.count([names[0], name], batch)[0] - alone[names[0]] for name in names[1:]}
        flops = PassCosts(names, alone, {names[0]: 0.0, **added})
    return Measured(flops, seconds, size, exact, passes.spent, passes.peak)


def _mean(often: PassCosts, rarely: PassCosts, share: float) -> PassCosts:
    """Costs with `share` of the first and the rest of the second."""
    parts = (
        {name: share * a[name] + (1 - share) * b[name] for name in often.order}
        for a, b in ((often.alone, rarely.alone), (often.added, rarely.added))
    )
    return PassCosts(often.order, *parts)


def _between(known: dict[int, float]) -> list[float]:
    """Values at every index from 0 to the last known one, linearly interpolated."""
    values = [known[0]]
    for (a, first), (b, second) in pairwise(sorted(known.items())):
        values += [first + (second - first) * (k - a) / (b - a) for k in range(a + 1, b + 1)]
    return values


def _synchronize(task: Predictor) -> None:
    if next(task.model.parameters()).is_cuda:
        torch.cuda.synchronize()
