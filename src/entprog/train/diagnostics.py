"""The failure signs of the method (METHOD lists them), watched during training."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from entprog.core.statistics import spearman

STILL = 3
"""Steps in a row without any gradient that are a sign of a mistake."""

WINDOW = 12
"""Steps before and after a change that are compared for a loss spike."""


@dataclass
class Watch:
    """Collects what the signs need and warns once for each.

    Attributes:
        warn: called with (sign, message).
    """

    warn: Callable[[str, str], None]
    losses: list[float] = field(default_factory=list)
    changed_at: int | None = None
    active: frozenset[str] | None = None
    background: list[float] = field(default_factory=list)
    saved: float = 0.0
    spent: float = 0.0
    still: int = 0

    def order(self, values: Mapping[str, float], needed: Mapping[str, float]) -> None:
        """Sign 1: the ranking does not correlate with what training needs (the gradient's size by block)."""
        names = list(values)
        agreement = spearman([values[n] for n in names], [needed[n] for n in names])
        if agreement < 0.1:
            self.warn(
                "order",
                f"the ranking hardly agrees with the gradient's size by block (rank correlation {agreement:.2f}): "
                "compare with ranking.score = 'gradient' or a random order",
            )

    def step(self, loss: float, active: Sequence[str], searching: bool, norm: float | None = None) -> None:
        """Sign 3: the loss jumps after blocks were frozen or unfrozen. And: the gradient is exactly 0."""
        self.still = self.still + 1 if norm == 0 else 0
        if self.still == STILL:
            self.warn(
                "still",
                f"no gradient reaches any trained parameter since {STILL} steps: nothing trains. Does the output side "
                "rest at zero (phases.NAME.outside, freeze.outside), or does the model not use what trains?",
            )
        now = frozenset(active)
        if self.active is not None and now != self.active and not searching:
            self.changed_at = len(self.losses)
        self.active = now
        self.losses.append(loss)
        at = self.changed_at
        if at is not None and len(self.losses) == at + WINDOW and at >= WINDOW:
            before = sum(self.losses[at - WINDOW : at]) / WINDOW
            after = sum(self.losses[at:]) / WINDOW
            if math.isfinite(after) and after > 1.3 * before:
                self.warn(
                    "spike",
                    f"the loss rose from {before:.4g} to {after:.4g} after the active blocks changed: "
                    "lower the learning rate or warm up newly unfrozen blocks",
                )

    def search(self, spent: float, full: float | None, steps: Sequence[float]) -> None:
        """Sign 2: the search costs more FLOPs than freezing has saved compared with training all blocks."""
        if not spent or full is None:
            return
        saved = sum(full - flops for flops in steps)
        if spent > saved:
            self.warn(
                "search",
                f"the search cost {spent:.3g} FLOPs, freezing saved {saved:.3g}: "
                "use fewer search steps, fewer holdout clips, or a schedule without a search",
            )

    def background_error(self, value: float) -> None:
        """Sign 4: the error outside the person rises between validations."""
        self.background.append(value)
        if len(self.background) >= 2 and value > 1.15 * min(self.background[:-1]):
            self.warn(
                "background",
                f"the error of the background rose to {value:.4g} from {min(self.background[:-1]):.4g}: "
                "the method's known weakness without the adaptive schedule",
            )

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "losses": self.losses[-2 * WINDOW :],
            "changed_at": None if self.changed_at is None else self.changed_at - max(0, len(self.losses) - 2 * WINDOW),
            "active": None if self.active is None else sorted(self.active),
            "background": self.background,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.losses = list(state["losses"])
        self.changed_at = state["changed_at"]
        self.active = None if state["active"] is None else frozenset(state["active"])
        self.background = list(state["background"])
