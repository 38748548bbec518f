"""Conditional entropy inflation: how much wider the predicted noise gets without a block."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from entprog.core import entropy as entropies
from entprog.core.blocks import Blocks
from entprog.core.processes import in_turn, sharers
from entprog.core.skip import Skipper
from entprog.core.statistics import spearman
from entprog.core.types import Draw, Predictor, Scores
from entprog.scores._skipping import Skip, choose, notes_on, part, pieces, scoring, summary, without_each

__all__ = ["CEI"]

FEWEST_FOR_STABLE = 32


@dataclass(frozen=True)
class CEI:
    """Conditional entropy inflation, the published score.

    pi(b) = mean over samples of [H(eps_hat; skip b) - H(eps_hat)]; in the Gaussian form the entropy
    difference is log(sigma_skip(b)(eps_hat) / sigma(eps_hat)) (arXiv 2511.21136). Deterministic for given
    draws.

    Attributes:
        entropy: how the entropy of a prediction is computed: as that of a Gaussian with its sigma, or from its elements
            without assumption.
        sigma: over what the standard deviation is taken: all elements of a sample, or elementwise over
            `conditions` conditions of the same x_tau and tau (log sigma averaged over elements).
        skip: the passes in which a block is skipped.
        tau_min, tau_max: samples with tau outside are left out.
        samples: use at most this many.
        stable: stop once the rank correlation of the order with that from the first half of the samples is
            above this, after at least 32 samples.
        conditions: how many conditions `sigma = "conditions"` compares (limited by the size of the draws).
        fast: replay blocks before the skipped one; off for the slow reference, with identical values.
    """

    entropy: Literal["gaussian", "histogram", "knn"] = "gaussian"
    sigma: Literal["elements", "conditions"] = "elements"
    skip: Skip = "denoising"
    tau_min: float = 0.0
    tau_max: float = 1.0
    samples: int | None = None
    stable: float | None = None
    conditions: int = 4
    fast: bool = True

    def __post_init__(self) -> None:
        if self.sigma == "conditions" and self.entropy != "gaussian":
            raise ValueError(
                f'sigma = "conditions" has the gaussian form only, not entropy = {self.entropy!r}: '
                'few conditions give no density; use entropy = "gaussian" or sigma = "elements"'
            )
        if self.conditions < 2:
            raise ValueError(f"conditions = {self.conditions}: a standard deviation needs at least 2")
        if self.stable is not None and not 0 < self.stable < 1:
            raise ValueError(f"stable = {self.stable}: must be a rank correlation between 0 and 1, such as 0.95")

    def score(self, task: Predictor, blocks: Blocks, draws: Sequence[Draw]) -> Scores:
        """The entropy inflation of each block in nats, with the standard error over samples.

        Raises:
            ValueError: no sample has tau in range; a block can't be skipped; no reference pass where one is
                to be skipped; draws of a single sample where conditions are compared.
        """
        rises: dict[str, list[float]] = {name: [] for name in blocks.names}
        used = 0
        notes: tuple[str, ...] = ()
        with scoring(task.model), Skipper(blocks) as skipper:

            def measure(item: tuple[Draw, list[int]]) -> dict[str, list[float]]:
                over = self._over_conditions if self.sigma == "conditions" else self._over_elements
                whole, without = over(task, skipper, *item)
                return {name: (entropy - whole).tolist() for name, entropy in without.items()}

            chosen = choose(draws, self.tau_min, self.tau_max, self.samples)
            if self.sigma == "elements" and self.stable is None:
                chosen = pieces(chosen, sharers())
            passes = {min(self.conditions, draw.size) for draw, _ in chosen} if self.sigma == "conditions" else {1}
            # A sharded model computes in step: with different numbers of passes each process takes all draws.
            measured = in_turn(chosen, measure) if len(passes) == 1 else map(measure, chosen)
            for (_, places), found in zip(chosen, measured, strict=False):
                for name, values in found.items():
                    rises[name] += values
                used += len(places)
                if self.stable is not None and (agreement := _agreement(rises, used)) > self.stable:
                    notes += (f"stopped at {used} samples: order stable at {agreement:.3f} > {self.stable}",)
                    break
        return summary(rises, used, notes=notes + notes_on(skipper, self.skip))

    def _over_elements(
        self, task: Predictor, skipper: Skipper, draw: Draw, places: Sequence[int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Entropy [B] of the whole model, and without each block."""
        form: Callable[[Tensor], Tensor] = getattr(entropies, self.entropy)
        chosen = part(draw, places)
        found = {
            name: form(eps_hat)
            for name, eps_hat in without_each(skipper, partial(task.predict, chosen), self.skip, fast=self.fast)
        }
        return _split(found)

    def _over_conditions(
        self, task: Predictor, skipper: Skipper, draw: Draw, places: Sequence[int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean log sigma [B] over the elements, sigma being that of one element over conditions."""
        if draw.size < 2 or not draw.condition:
            raise ValueError(
                'sigma = "conditions" exchanges the conditions of the samples of a draw: it needs draws of at least '
                '2 samples, and a model with a condition; use sigma = "elements"'
            )
        predictions: dict[str | None, list[Tensor]] = {}
        for shift in range(min(self.conditions, draw.size)):
            chosen = part(draw.with_condition_of(shift), places)
            for name, eps_hat in without_each(skipper, partial(task.predict, chosen), self.skip, fast=self.fast):
                predictions.setdefault(name, []).append(eps_hat)
        # An element that no condition changes would have a sigma of zero; its noise must not decide.
        floor = 1e-6 * float(predictions[None][0].double().std())
        return _split(
            {
                name: torch.stack(eps_hats).double().std(0).clamp_min(floor).log().flatten(1).mean(1)
                for name, eps_hats in predictions.items()
            }
        )


def _split(entropy: dict[str | None, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    return entropy[None], {name: value for name, value in entropy.items() if name is not None}


def _agreement(rises: dict[str, list[float]], used: int) -> float:
    """Rank correlation of the order with that from the first half of the samples; 0 while there are few samples."""
    if used < FEWEST_FOR_STABLE or len(rises) < 2:
        return 0.0
    half = used // 2
    return spearman(
        [math.fsum(values) / used for values in rises.values()],
        [math.fsum(values[:half]) / half for values in rises.values()],
    )
