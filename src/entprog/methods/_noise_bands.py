"""Shared by all methods: which noise levels a step draws from."""

from bisect import bisect
from dataclasses import dataclass, replace
from itertools import pairwise

from entprog.core.sizes import check_bands
from entprog.core.types import MethodContext, Shape

__all__ = ["NoiseBands"]

SPREAD = 2**0.5
"""Steps walk round the circle of bands by this: unlike the golden ratio, by which samples walk through the levels."""


@dataclass(frozen=True, kw_only=True)
class NoiseBands:
    """Options that divide a step's draws by their noise level.

    Attributes:
        noise_edges: noise levels that divide a step's draws into bands, as shares of all levels from the cleanest up:
            each step draws from one band. Empty: from all levels.
        noise_shares: the share of the steps for each band, from the cleanest up; empty for the bands' own widths.
    """

    noise_edges: tuple[float, ...] = ()
    noise_shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_bands(self.noise_edges, self.noise_shares)

    def band(self, i: int) -> int:
        """The band of step i, 0 for the cleanest; in any run of steps each band has about its share of them."""
        if not self.noise_edges:
            return 0
        shares = self.noise_shares or [b - a for a, b in pairwise([0.0, *self.noise_edges, 1.0])]
        place = (i * SPREAD) % 1.0
        return bisect([sum(shares[: k + 1]) for k in range(len(shares) - 1)], place)

    def drawn_from(self, band: int, shape: Shape) -> Shape:
        """The shape of a step that draws from a band."""
        return replace(shape, band=([0.0, *self.noise_edges][band], [*self.noise_edges, 1.0][band]))

    def check_drawn(self, context: MethodContext) -> None:
        """Raise ValueError where the loop draws the noise levels itself."""
        if self.noise_edges and context.shape is None:
            raise ValueError(
                f"noise_edges = {list(self.noise_edges)}: noise levels are drawn by band in entprog train only; "
                'leave it empty, or choose another method than "bands"'
            )
