"""LoRA: the blocks stay frozen, low-rank adapters on their linear layers train."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from entprog.core.adapters import adapted_layers
from entprog.core.blocks import Blocks
from entprog.core.freeze import Freezer
from entprog.core.types import Method, Setting
from entprog.methods._adapters import (
    AdapterFreezer,
    grouped,
    layers_to_adapt,
    put_on,
    spared_modules,
    take_off,
)
from entprog.methods._unranked import BoundUnranked, Unranked

__all__ = ["Lora"]


@dataclass(frozen=True)
class Lora(Unranked):
    """Trains a LoRA adapter (arXiv 2106.09685, by peft) on every linear layer of the phase's blocks.

    What lies outside the blocks trains as it does for every method. At the end of a phase the adapters are
    merged: final weights are plain.

    Attributes:
        rank: of each adapter.
        alpha: an adapter's output is scaled by alpha / rank.
        lr_factor: the adapters' learning rate over the phase's.
        full: modules of the blocks that train in full instead, such as "temporal.*" for new ones; `*` is one
            dotted part. Those that `model.fresh` names are among them by themselves.
        resolution, frames, tokens, batch: one value for each of equally long stages, or empty for the phase's own.
    """

    rank: int = 16
    alpha: int = 16
    lr_factor: float = 10.0
    full: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.rank, self.alpha, self.lr_factor)

    def groups(self, model: nn.Module, blocks: Blocks, *, lr: float, seed: int) -> list[dict[str, Any]]:
        """Puts the adapters on, freezes what they stand for, and gives the optimizer's groups."""
        spared = spared_modules(blocks, self.full)
        for block in blocks:
            for name, parameter in block.named_parameters():
                if not any(name.startswith(f"{module}.") for module in spared):
                    parameter.requires_grad_(False)
        put_on(model, blocks, rank=self.rank, alpha=self.alpha, full=self.full, seed=seed)
        return grouped(model, blocks, lr=lr, factor=self.lr_factor)

    def with_new(self, modules: Sequence[str]) -> "Lora":
        """The same, with modules that are new to the network, which train in full."""
        return replace(self, full=tuple(dict.fromkeys((*self.full, *modules))))

    def bind(self, setting: Setting) -> Method:
        """Needs an optimizer over `groups`, neither ranking nor schedule."""
        if not layers_to_adapt(setting.blocks, self.full) and not any(
            adapted_layers(block.module) for block in setting.blocks
        ):
            return BoundUnranked(setting, self)  # a phase of new blocks only
        return _Bound(setting, self)


class _Bound(BoundUnranked):
    freezer_class: ClassVar[type[Freezer]] = AdapterFreezer

    def finish(self) -> None:
        """Merge the adapters at the end of the phase."""
        take_off(self.setting.task.model)


def check(rank: int, alpha: int, lr_factor: float) -> None:
    """Raise ValueError for options that no adapter can have."""
    for name, value in (("rank", rank), ("alpha", alpha), ("lr_factor", lr_factor)):
        if not value > 0:
            raise ValueError(f"{name} = {value}: must be above 0")
