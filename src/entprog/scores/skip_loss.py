"""Loss rise on skip: how much worse the model gets without a block."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from entprog.core.blocks import Blocks
from entprog.core.processes import in_turn
from entprog.core.skip import Skipper
from entprog.core.types import Draw, Predictor, Scores
from entprog.scores._skipping import Skip, choose, notes_on, part, scoring, summary, without_each

__all__ = ["SkipLoss"]


@dataclass(frozen=True)
class SkipLoss:
    """Rise of the training loss when a block is skipped, averaged over draws.

    Attributes:
        skip: the passes in which a block is skipped.
        tau_min, tau_max: samples with tau outside are left out.
        samples: use at most this many.
        fast: replay blocks before the skipped one; off for the slow reference, with identical values.
    """

    skip: Skip = "denoising"
    tau_min: float = 0.0
    tau_max: float = 1.0
    samples: int | None = None
    fast: bool = True

    def score(self, task: Predictor, blocks: Blocks, draws: Sequence[Draw]) -> Scores:
        """Loss rises, weighted by the samples of each draw, with the standard error over draws.

        Raises:
            ValueError: no sample has tau in range; a block can't be skipped; no reference pass where one is
                to be skipped.
        """
        rises: dict[str, list[float]] = {name: [] for name in blocks.names}
        with scoring(task.model), Skipper(blocks) as skipper:

            def measure(item: tuple[Draw, list[int]]) -> dict[str | None, float]:
                loss = partial(task.loss, part(*item))
                return {n: float(v) for n, v in without_each(skipper, loss, self.skip, fast=self.fast)}

            chosen = choose(draws, self.tau_min, self.tau_max, self.samples)
            sizes = [len(places) for _, places in chosen]
            for losses in in_turn(chosen, measure):
                for name, values in rises.items():
                    values.append(losses[name] - losses[None])
        return summary(rises, int(sum(sizes)), weights=sizes, notes=notes_on(skipper, self.skip))
