"""Blocks by noise level: high noise, which decides what a picture shows, trains more of the network than low noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from entprog.core.sizes import block_count
from entprog.core.types import MethodContext, Shape, Workload
from entprog.methods._unranked import BoundUnranked, Unranked
from entprog.methods.base import Method

__all__ = ["Bands"]


@dataclass(frozen=True, kw_only=True)
class Bands(Unranked):
    """Each step draws from one band of noise levels, and the band decides how many of the last blocks train.

    Where fewer than all blocks train, input-side parameters (embeddings, pose adapter at the input) rest, so that the
    backward ends at the lowest active block.

    Attributes:
        noise_edges: noise levels that divide the bands, as shares of all levels from the cleanest up.
        noise_shares: the share of the steps for each band; empty for the bands' own widths.
        m: how many blocks each band trains, from the cleanest band up and counted from the last block; a share of them
            below 1, 0 for all.
        resolution, frames, tokens, batch: one value for each of equally long stages, or empty for the phase's own.
    """

    noise_edges: tuple[float, ...] = (0.6,)
    m: tuple[float, ...] = (0.34, 0)

    inputs: ClassVar[str] = "bands"  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.m) != len(self.noise_edges) + 1 or any(m < 0 or (m > 1 and m != int(m)) for m in self.m):
            raise ValueError(
                f"m = {list(self.m)}: give {len(self.noise_edges) + 1} numbers, one for each band of noise_edges: "
                "whole numbers of blocks, shares below 1, or 0 for all"
            )

    def at(self, band: int, turn: int, size: Shape | None, names: Sequence[str], seed: int) -> Workload:
        """The last `m` blocks of the band."""
        m = self.m[band]
        count = block_count(m, len(names), f"method_options.m = {m:g}") if m else len(names)
        return Workload(tuple(names[-count:]), size, inputs=count == len(names))

    def bind(self, context: MethodContext) -> Method:
        """Needs neither ranking nor schedule."""
        return BoundUnranked(context, self, inputs=context.inputs)
