"""Methods whose blocks take turns, each for so many steps."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from entprog.methods._unranked import Unranked


@dataclass(frozen=True, kw_only=True)
class Turns(Unranked, ABC):
    """Blocks by turn, beside those that always train; a relative says whose turn it is.

    Attributes:
        every: steps of a turn; 0 to have them chosen by the length of the phase.
        always: blocks that train in every turn, such as "temporal.*" for new ones; `*` is one dotted part.
    """

    every: int = 0
    always: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 0:
            raise ValueError(f"method_options.every = {self.every}: give steps, or 0 to have them chosen")

    @abstractmethod
    def drawn(self, turn: int, names: Sequence[str], seed: int) -> Sequence[str]:
        """Whose turn it is, of `names`: the blocks that do not always train."""

    def rest(self, names: Sequence[str]) -> tuple[str, ...]:
        """The blocks that take turns."""
        patterns = [pattern.split(".") for pattern in self.always]
        return tuple(name for name in names if not any(_matches(name.split("."), wanted) for wanted in patterns))

    def active(self, turn: int, names: Sequence[str], seed: int) -> tuple[str, ...]:
        """Those whose turn it is and those that always train, in the network's order."""
        rest = self.rest(names)
        drawn = set(self.drawn(turn, rest, seed)) if rest else set()
        return tuple(name for name in names if name in drawn or name not in rest)


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    return len(parts) == len(wanted) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=True))
