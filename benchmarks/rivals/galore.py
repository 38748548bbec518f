"""GaLore: AdamW in a subspace of the gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import optim

from benchmarks.rivals.galore_adamw import GaLoreAdamW, galore_states
from entprog.core.types import AdamOptions, Role
from entprog.optimizers._base import OptimizerPlugin

__all__ = ["Galore"]


@dataclass(frozen=True)
class Galore(OptimizerPlugin):
    """AdamW whose states of the blocks' matrices live in a low-rank subspace of their gradients (arXiv 2403.03507).

    Attributes:
        rank: dimensions of the subspace; matrices of no more rows or columns are left to AdamW.
        update_proj_gap: steps after which it is computed anew, from the gradient of that step.
        scale: what an update that comes back from it is multiplied by.
    """

    rank: int = 128
    update_proj_gap: int = 200
    scale: float = 0.25

    def __post_init__(self) -> None:
        for name in ("rank", "update_proj_gap", "scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"train.optimizer_options.{name} = {getattr(self, name)}: must be above 0")

    def build(self, groups: list[dict[str, Any]], adam: AdamOptions) -> optim.Optimizer:
        """See `OptimizerPlugin`; matrices of blocks are projected, those of adapters are not."""

        def in_block(group: dict[str, Any]) -> bool:
            name = group.get("name", "outside")
            return name != "outside" and not name.endswith(" lora")

        return GaLoreAdamW(
            [{**group, "project": in_block(group)} for group in groups], lr=groups[0]["lr"], **adam.arguments(),
            rank=self.rank, update_proj_gap=self.update_proj_gap, scale=self.scale,
        )  # fmt: skip

    def states(self, shape: Sequence[int], size: int, *, counted: bool, role: Role) -> list[int]:
        """A projection and two small moments of a matrix of a block that is longer than `rank` on both sides."""
        return galore_states(shape, size, counted=counted, projected=self.rank if role == "block" else 0)
