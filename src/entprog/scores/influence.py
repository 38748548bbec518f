"""Block influence: how much a block changes the direction of its tokens."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from entprog.core.blocks import Blocks
from entprog.core.processes import in_turn
from entprog.core.skip import ROLES, Skipper
from entprog.core.types import Draw, Predictor, Scores
from entprog.scores._skipping import choose, notes_on, part, scoring, summary

__all__ = ["Influence"]


@dataclass(frozen=True)
class Influence:
    """1 - cosine between a block's identity output and its output, averaged over tokens (ShortGPT).

    A token is a vector along the last axis. One forward for each draw (arXiv 2403.03853, equation 1).

    Attributes:
        calls: the passes in which a block is measured.
        tau_min, tau_max: samples with tau outside are left out.
        samples: use at most this many.
    """

    calls: Literal["denoising", "reference", "both"] = "denoising"
    tau_min: float = 0.0
    tau_max: float = 1.0
    samples: int | None = None

    def score(self, task: Predictor, blocks: Blocks, draws: Sequence[Draw]) -> Scores:
        """Influences, weighted by the samples of each draw, with the standard error over draws.

        Raises:
            ValueError: no sample has tau in range; a block's identity can't be found; no reference pass where one is
                to be measured.
        """
        turns: dict[str, list[float]] = {name: [] for name in blocks.names}
        roles = ROLES if self.calls == "both" else (self.calls,)
        with scoring(task.model), Skipper(blocks) as skipper:

            def measure(item: tuple[Draw, list[int]]) -> dict[str, float]:
                with skipper.record():
                    task.predict(part(*item))
                return {name: _mean_turn(skipper, name, roles) for name in turns}

            chosen = choose(draws, self.tau_min, self.tau_max, self.samples)
            sizes = [len(places) for _, places in chosen]
            for found in in_turn(chosen, measure):
                for name, value in found.items():
                    turns[name].append(value)
            notes = notes_on(skipper, self.calls, "calls")
        return summary(turns, int(sum(sizes)), weights=sizes, notes=notes)


def _mean_turn(skipper: Skipper, name: str, roles: Sequence[str]) -> float:
    """Mean over the recorded calls of a block."""
    turned = [_turn(skipper.identity(name, call), call.output) for call in skipper.calls[name] if call.role in roles]
    return math.fsum(turned) / max(len(turned), 1)


def _turn(passed_on: Any, output: Any) -> float:
    """Mean of 1 - cosine over the tokens of all outputs."""
    cosines = [torch.cosine_similarity(a.double(), b.double(), dim=-1).flatten() for a, b in _pairs(passed_on, output)]
    return 1.0 - float(torch.cat(cosines).mean())


def _pairs(first: Any, second: Any) -> Iterator[tuple[Tensor, Tensor]]:
    for a, b in zip(tree_leaves(first), tree_leaves(second), strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            yield a, b
