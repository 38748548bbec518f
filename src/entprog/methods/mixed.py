"""Mixed rank: the blocks that the schedule chooses train in full, all others through LoRA."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from entprog.core.blocks import Blocks
from entprog.core.freeze import Freezer
from entprog.core.types import MethodContext
from entprog.methods._low_rank import MixedFreezer, grouped, put_on, take_off
from entprog.methods._noise_bands import NoiseBands
from entprog.methods.base import Method, MethodPlugin
from entprog.methods.lora import check
from entprog.methods.progressive import BoundProgressive

__all__ = ["Mixed"]


@dataclass(frozen=True)
class Mixed(NoiseBands, MethodPlugin):
    """Prioritized progressive learning with LoRA adapters (by peft) on the blocks that would otherwise be frozen.

    Ranking, schedule and search are those of "progressive". When a block becomes active its adapter is merged
    into it; one that freezes gets a new adapter at zero. Adapters reach down to the lowest block, so the backward
    pass does, too. For blocks that stay frozen use "progressive".

    Attributes:
        rank: of each adapter.
        alpha: an adapter's output is scaled by alpha / rank.
        lr_factor: the adapters' learning rate over the phase's.
    """

    packages: ClassVar[Mapping[str, str]] = {"peft": 'pip install "peft>=0.17"'}

    rank: int = 16
    alpha: int = 16
    lr_factor: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.rank, self.alpha, self.lr_factor)

    def groups(self, model: nn.Module, blocks: Blocks, *, lr: float, seed: int) -> list[dict[str, Any]]:
        """Adds the adapters and returns the optimizer's groups."""
        put_on(model, blocks, rank=self.rank, alpha=self.alpha, seed=seed)
        return grouped(model, blocks, lr=lr, factor=self.lr_factor)

    def bind(self, context: MethodContext) -> Method:
        """Needs an optimizer over `groups`, a ranking and a schedule.

        Raises:
            ValueError: as for "progressive".
        """
        if context.ranking is None or context.schedule is None:
            raise ValueError("method = 'mixed': needs a ranking and a schedule; set [ranking] and [schedule]")
        return _Bound(context, context.ranking, context.schedule, self)


class _Bound(BoundProgressive):
    freezer_class: ClassVar[type[Freezer]] = MixedFreezer

    def finish(self) -> None:
        """Merge the adapters at the end of the phase, into the original weights where they are stored otherwise."""
        if self.context.storage is not None:
            self.context.storage.release()
        take_off(self.context.task.model)
