"""AdamW by torch."""

from dataclasses import dataclass
from typing import Any

from torch import optim

from entprog.core.types import AdamOptions
from entprog.optimizers.base import OptimizerPlugin

__all__ = ["AdamW"]


@dataclass(frozen=True)
class AdamW(OptimizerPlugin):
    """AdamW (arXiv 1711.05101), torch's fused step: two states for each parameter."""

    def build(self, groups: list[dict[str, Any]], adam: AdamOptions) -> optim.Optimizer:
        """See `OptimizerPlugin`."""
        return optim.AdamW(groups, lr=groups[0]["lr"], **adam.arguments(), fused=True)
