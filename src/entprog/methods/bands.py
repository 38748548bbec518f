"""Blocks by noise level: high noise, which decides what a picture shows, trains more of the network than low noise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from entprog.config.checks import Finding, running
from entprog.config.schema import Config
from entprog.core.sizes import block_count
from entprog.core.types import MethodContext, Shape, Workload
from entprog.methods._unranked import BoundUnranked, Unranked
from entprog.methods.base import Method

__all__ = ["Bands"]


@dataclass(frozen=True, kw_only=True)
class Bands(Unranked):
    """Each step draws from one band of noise levels, and the band decides how many of the last blocks train.

    Where fewer than all blocks train, input-side parameters (embeddings, pose adapter at the input) rest, so that the
    backward ends at the lowest active block. What lies below that is frozen within such a step only: a step at high
    noise moves it. With `echo` above 1 the steps of a band therefore come in runs, and within a run what the frozen
    blocks made of a sample stays true: the following steps train on it again, bit for bit as if it were computed anew.

    Attributes:
        noise_edges: noise levels that divide the bands, as shares of all levels from the cleanest up.
        noise_shares: the share of the steps for each band; empty for the bands' own widths.
        m: how many blocks each band trains, from the cleanest band up and counted from the last block; a share of them
            below 1, 0 for all.
        echo: steps in a row of one band; where fewer than all blocks train they train on the same samples, with the
            same noise and learning rate, and the frozen start of the network runs at the first of them only.
        resolution, frames, tokens, batch: one value for each of equally long stages, or empty for the phase's own.
    """

    noise_edges: tuple[float, ...] = (0.6,)
    m: tuple[float, ...] = (0.34, 0)
    echo: int = 1

    inputs: ClassVar[str] = "bands"  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.echo < 1:
            raise ValueError(f"echo = {self.echo}: give 1 (each sample trains once) or more")
        if len(self.m) != len(self.noise_edges) + 1 or any(m < 0 or (m > 1 and m != int(m)) for m in self.m):
            raise ValueError(
                f"m = {list(self.m)}: give {len(self.noise_edges) + 1} numbers, one for each band of noise_edges: "
                "whole numbers of blocks, shares below 1, or 0 for all"
            )

    @classmethod
    def problems(cls, config: Config) -> Iterator[Finding]:
        """Echoes by `phases.NAME.echo`, which know nothing of bands, together with the method's own."""
        yield from super().problems(config)
        for name, phase in running(config).items():
            if phase.echo > 1 and config.method_options.get("echo", 1) > 1:
                yield Finding(
                    (f"phases.{name}.echo", "method_options.echo"),
                    f" = {phase.echo}: repeats samples whatever their band, and method_options.echo those of a band; "
                    "leave one of them at 1",
                )

    def band(self, i: int) -> int:
        """The band of step i, the same for each run of `echo` steps."""
        return super().band(i // self.echo)

    def replays(self, i: int, names: Sequence[str], shape: Shape | None, steps: int, seed: int) -> int:
        """The first step of the run that repeats one batch: i itself where all blocks train."""
        workload = self.workload(i, names, shape, steps, seed)
        if workload.inputs:
            return i
        run = range(i - i % self.echo, i)  # which a stage of another size may divide
        return next((k for k in run if self.workload(k, names, shape, steps, seed) == workload), i)

    def at(self, band: int, turn: int, size: Shape | None, names: Sequence[str], seed: int) -> Workload:
        """The last `m` blocks of the band."""
        m = self.m[band]
        count = block_count(m, len(names), f"method_options.m = {m:g}") if m else len(names)
        return Workload(tuple(names[-count:]), size, inputs=count == len(names))

    def bind(self, context: MethodContext) -> Method:
        """Needs neither ranking nor schedule."""
        return BoundUnranked(context, self, inputs=context.inputs)
