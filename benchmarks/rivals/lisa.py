"""LISA: a few blocks drawn at random train at a time, embeddings and head always."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.rivals.block_turns import Turns
from entprog.core.types import MethodContext
from entprog.methods._unranked import BoundUnranked
from entprog.methods.base import Method

__all__ = ["Lisa"]

TURNS = 25
"""Turns of a phase, where `every` does not say how long one is."""
LONGEST = 20
"""Steps of a turn at most then: the interval of the authors' own script."""


@dataclass(frozen=True)
class Lisa(Turns):
    """Trains gamma blocks drawn anew every so many steps, and what lies outside the blocks always (arXiv 2403.17919).

    Blocks are drawn uniformly without repetition, as in the paper: its probabilities are 1 for embeddings and head
    and gamma / L for every block.

    Attributes:
        gamma: blocks that train at a time; the paper uses 2 and more. All of them in a phase that has fewer.
        every: steps of a turn, the paper's K; 0 for a 25th of the phase, at most 20.
        states: what becomes of the optimizer states of blocks that freeze: "drop" them, which saves the memory, or
            "keep" them, as the authors' first script did.
        always: blocks that train in every turn, such as "temporal.*" for new ones; `*` is one dotted part.
        resolution, frames, tokens, batch: one value for each of equally long stages, or empty for the phase's own.
    """

    gamma: int = 2
    states: Literal["drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma < 1:
            raise ValueError(f"method_options.gamma = {self.gamma}: must be at least 1")

    def turn_steps(self, names: Sequence[str], steps: int) -> int:
        """`every`, or what the docstring says of 0."""
        return self.every or max(1, min(LONGEST, steps // TURNS))

    def drawn(self, turn: int, names: Sequence[str], seed: int) -> Sequence[str]:
        """gamma of the blocks."""
        return random.Random(f"lisa {seed} {turn}").sample(names, min(self.gamma, len(names)))

    def bind(self, context: MethodContext) -> Method:
        """Needs neither ranking nor schedule."""
        return BoundUnranked(context, self, states=self.states)
