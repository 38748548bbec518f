"""BAdam: one block at a time trains by Adam, then the next."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.rivals.block_turns import Turns
from entprog.core.types import MethodContext
from entprog.methods._unranked import BoundUnranked
from entprog.methods.base import Method

__all__ = ["Badam"]

ROUNDS = 3
"""Turns of each block in a phase, where `every` does not say how long one is: those of the paper's experiments."""
LONGEST = 100
"""Steps of a turn at most then, as the authors advise."""


@dataclass(frozen=True)
class Badam(Turns):
    """Block coordinate descent with AdamW's update (arXiv 2404.02827): blocks train one by one, round after round.

    All optimizer states are dropped at a switch, those of what always trains, too, as in the authors' package, whose
    updates these are. Parameters behind the blocks (the head) always train: that costs next to nothing.

    Attributes:
        order: of the blocks in a round: "random" (drawn anew for each), "ascending" (from the input on) or
            "descending".
        every: steps of a turn, the paper's K; 0 for as many as give each block three turns, at most 100.
        inputs: when parameters that stand before the blocks (embeddings, pose adapter at the input) train: in the
            turns of the "first" block, which the backward runs down to anyway; "always", which takes every backward
            to the input; or "never", the package's default.
        always: blocks that train in every turn, the package's active modules, such as "temporal.*" for new ones, as the
            authors advise; `*` is one dotted part.
        resolution, frames, tokens, batch: one value for each of equally long stages, or empty for the phase's own.
    """

    order: Literal["random", "ascending", "descending"] = "random"
    inputs: Literal["first", "always", "never"] = "first"

    @property
    def rests_inputs(self) -> bool:
        """As `inputs` says."""
        return self.inputs != "always"

    def turn_steps(self, names: Sequence[str], steps: int) -> int:
        """`every`, or what the docstring says of 0."""
        return self.every or max(1, min(LONGEST, steps // (ROUNDS * max(1, len(self.rest(names))))))

    def drawn(self, turn: int, names: Sequence[str], seed: int) -> Sequence[str]:
        """The one block whose turn it is."""
        number, place = divmod(turn, len(names))
        order = list(names)
        if self.order == "random":
            random.Random(f"badam {seed} {number}").shuffle(order)
        elif self.order == "descending":
            order.reverse()
        return (order[place],)

    def reaches_inputs(self, turn: int, names: Sequence[str], seed: int) -> bool:
        """As `inputs` says."""
        return self.inputs == "always" or (self.inputs == "first" and names[0] in self.active(turn, names, seed))

    def bind(self, context: MethodContext) -> Method:
        """Needs neither ranking nor schedule; `MethodContext.inputs` says what stands before the blocks."""
        return _Bound(context, self, states="drop", inputs=context.inputs)


class _Bound(BoundUnranked):
    def switch(self) -> None:
        self.context.optimizer.state.clear()
