"""Full fine-tuning: every block trains at every step."""

from dataclasses import dataclass
from typing import ClassVar

from entprog.core.types import MethodContext
from entprog.methods._unranked import BoundUnranked, Unranked
from entprog.methods.base import Method

__all__ = ["Full"]


@dataclass(frozen=True)
class Full(Unranked):
    """Trains all blocks of the phase: the baseline that everything is measured against.

    With sizes it is the baseline that trains cheaper at first: a progression of resolution or frames, small early
    batches, or tokens that bypass the middle blocks. Nothing is ever frozen, ranked or searched.

    Attributes:
        resolution, frames, tokens, batch: one value for each of equally long stages, or empty for the phase's own.
    """

    every_block: ClassVar[bool] = True

    def bind(self, context: MethodContext) -> Method:
        """Needs neither ranking nor schedule."""
        return BoundUnranked(context, self)
