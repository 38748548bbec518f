"""Gradient scores: how large the loss gradient of a block is."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from entprog.core.blocks import Blocks
from entprog.core.processes import in_turn, rank, sharers
from entprog.core.sharded import full_tensor, is_sharded, reshard, sharded_modules
from entprog.core.types import Draw, Predictor, Scores
from entprog.scores._skipping import choose, part, scoring, summary

__all__ = ["Gradient"]


@dataclass(frozen=True)
class Gradient:
    """Size of the loss gradient in a block, or its signal to noise ratio over draws.

    With g_d the gradient of draw d in a block of n parameters: l1 is the mean over draws of sum |g_d| / n, l2
    of sqrt(sum g_d^2 / n), fisher of sum g_d^2 / n (the diagonal of the empirical Fisher information); all are divided
    by n, so that blocks of any size compare. snr is the mean over parameters of |mean_d g_d| / std_d g_d.

    Attributes:
        norm: which of these.
        tau_min, tau_max: samples with tau outside are left out.
        samples: use at most this many.
    """

    norm: Literal["l1", "l2", "fisher", "snr"] = "l1"
    tau_min: float = 0.0
    tau_max: float = 1.0
    samples: int | None = None

    def score(self, task: Predictor, blocks: Blocks, draws: Sequence[Draw]) -> Scores:
        """The gradient score of each block, with the standard error over draws (none for snr).

        Gradients and gradient flags of the model do not change. Under FSDP2 the gradient is that of the mean loss over
        processes, and every process gets the same scores.

        Raises:
            ValueError: no sample has tau in range; snr with a single draw or under FSDP2; a block without trainable
                parameters.
        """
        reshard(sharded_modules(task.model))
        chosen = choose(draws, self.tau_min, self.tau_max, self.samples)
        if self.norm == "snr" and len(chosen) < 2:
            raise ValueError(f'norm = "snr" needs at least 2 draws, got {len(chosen)}; use smaller batches')
        members = {block.name: [p for p in block.parameters() if p.is_floating_point()] for block in blocks}
        if empty := [name for name, parameters in members.items() if not parameters]:
            raise ValueError(f"block {empty[0]!r} has no parameters, so no gradient")
        sharded = any(is_sharded(p) for parameters in members.values() for p in parameters)
        if sharded and self.norm == "snr":
            raise ValueError('norm = "snr" keeps whole gradients, which fully_shard avoids; use "l1", "l2" or "fisher"')
        stream = (
            partial(_sharded_gradients, task.model, list(task.model.parameters())) if sharded else _stream_gradients
        )
        sizes: dict[str, list[float]] = {name: [] for name in members}
        running = {name: [_Moments(p) for p in parameters] for name, parameters in members.items()}
        everything = [p for parameters in members.values() for p in parameters]
        moments = [m for each in running.values() for m in each]
        with scoring(task.model, gradient=True), _requiring_gradient(everything):

            def measure(item: tuple[Draw, list[int]]) -> list[float]:
                sums = [0.0] * len(everything)

                def take(place: int, gradient: Tensor) -> None:
                    if self.norm == "snr":
                        moments[place].add(gradient)
                    else:
                        sums[place] = self._sum(gradient)

                stream(_loss_of_share(task, *item) if sharded else task.loss(part(*item)), everything, take)
                return sums

            # Gradients of shards are means over processes, which therefore share each draw's samples.
            repeated = sharded or self.norm == "snr"
            for sums in map(measure, chosen) if repeated else in_turn(chosen, measure):
                found = iter(sums)
                for name, parameters in members.items():
                    count = sum(p.numel() for p in parameters)
                    mean = math.fsum(next(found) for _ in parameters) / count
                    sizes[name].append(math.sqrt(mean) if self.norm == "l2" else mean)
        samples = sum(len(places) for _, places in chosen)
        if self.norm == "snr":
            return summary({name: [_snr(each)] for name, each in running.items()}, samples)
        return summary(sizes, samples)

    def _sum(self, gradient: Tensor) -> float:
        part = gradient.abs() if self.norm == "l1" else gradient.square()
        return float(part.sum(dtype=torch.float64))


def _loss_of_share(task: Predictor, draw: Draw, places: Sequence[int]) -> Tensor:
    """The loss of this process's share of a draw; its mean over the processes is the loss of the draw.

    A process without a sample computes one that counts for nothing, as all must run the model.
    """
    count = sharers()
    if count == 1:
        return task.loss(part(draw, places))
    begin, end = (len(places) * (rank() + k) // count for k in range(2))
    own = places[begin:end]
    return task.loss(part(draw, own or places[:1])) * (len(own) * count / len(places))


class _Moments:
    """Mean and spread of a gradient's elements over draws, updated one draw at a time (Welford)."""

    def __init__(self, like: Tensor) -> None:
        self.count = 0
        self.like = like

    def add(self, gradient: Tensor) -> None:
        if not self.count:
            self.mean = torch.zeros(self.like.shape, dtype=torch.float32, device=self.like.device)
            self.spread = torch.zeros_like(self.mean)
        self.count += 1
        change = gradient.float() - self.mean
        self.mean += change / self.count
        self.spread += change * (gradient.float() - self.mean)

    def ratio(self) -> Tensor:
        """|mean| / standard deviation of each element; 0 where there was no gradient."""
        deviation = (self.spread / (self.count - 1)).sqrt()
        return torch.where(self.mean == 0, 0.0, self.mean.abs() / deviation.clamp_min(1e-30))


def _snr(moments: Sequence[_Moments]) -> float:
    count = sum(m.mean.numel() for m in moments)
    return math.fsum(float(m.ratio().sum(dtype=torch.float64)) for m in moments) / count


def _stream_gradients(loss: Tensor, parameters: Sequence[nn.Parameter], take: Callable[[int, Tensor], None]) -> None:
    """Call `take` with the index and the gradient of each parameter, zeros where there is none.

    Each call is made as soon as the backward pass has the gradient, and none is kept: the gradients of the whole
    network are never in memory at the same time.
    """
    left = set(range(len(parameters)))

    def hook(place: int) -> Callable[[Tensor], Tensor]:
        def run(gradient: Tensor) -> Tensor:
            left.discard(place)
            take(place, gradient)
            return gradient.new_zeros(()).expand_as(gradient)  # stores one number

        return run

    handles = [p.register_hook(hook(i)) for i, p in enumerate(parameters)]  # type: ignore[no-untyped-call]
    try:
        torch.autograd.grad(loss, parameters, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    for place in sorted(left):
        given = parameters[place]  # may be a quantized weight, which gets no gradient and has no zeros_like
        take(place, torch.zeros((), dtype=given.dtype, device=given.device).expand(given.shape))


def _sharded_gradients(
    model: nn.Module,
    everything: Sequence[nn.Parameter],
    loss: Tensor,
    parameters: Sequence[nn.Parameter],
    take: Callable[[int, Tensor], None],
) -> None:
    """As `_stream_gradients` where the backward leaves each process a shard of the gradients, as FSDP2 does.

    Args:
        everything: the sharded parameters of the model; after a forward it may hold whole ones in their place.
    """
    before = [p.grad for p in everything]
    for p in everything:
        p.grad = None
    loss.backward()  # type: ignore[no-untyped-call]
    reshard(sharded_modules(model))
    for place, p in enumerate(parameters):
        take(place, torch.zeros(p.shape) if p.grad is None else full_tensor(p.grad))
    for p, kept in zip(everything, before, strict=True):
        p.grad = kept


@contextmanager
def _requiring_gradient(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    flags = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(True)
        yield
    finally:
        for p, flag in zip(parameters, flags, strict=True):
            p.requires_grad_(flag)
