"""LoRA: the blocks stay frozen, low-rank adapters on their linear layers train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import nn

from entprog.core.blocks import Blocks
from entprog.core.freeze import Freezer
from entprog.core.sizes import block_count
from entprog.core.types import MethodContext
from entprog.methods._low_rank import (
    AdapterFreezer,
    grouped,
    layers_to_adapt,
    put_on,
    spared_modules,
    take_off,
)
from entprog.methods._unranked import BoundUnranked, Unranked
from entprog.methods.base import Method
from entprog.savings.adapters import adapted_layers

__all__ = ["Lora"]


@dataclass(frozen=True)
class Lora(Unranked):
    """Trains a LoRA adapter (arXiv 2106.09685, by peft) on every linear layer of the phase's blocks.

    Parameters outside the blocks train as they do for every method. At the end of a phase the adapters are
    merged: final weights are plain.

    Attributes:
        rank: of each adapter.
        alpha: an adapter's output is scaled by alpha / rank.
        lr_factor: the adapters' learning rate over the phase's.
        m: how many of the phase's blocks have adapters, counted from the last; a share of them below 1, 0 for all.
            The others do not train at all.
        m_images: the same for phases of single frames; empty for `m`. Such phases teach appearance, which on another
            domain than the base's takes every block, and their steps are cheap compared with those of clips.
        inputs: whether input-side parameters (embeddings, pose adapter at the input) train:
            "always", or "never", so that the backward ends at the lowest adapter.
        full: modules of the blocks that train in full instead, such as "temporal.*" for new ones; `*` is one
            dotted part. Those that `model.fresh` names are always included.
        resolution, frames, tokens, batch: one value for each of equally long stages, or empty for the phase's own.
    """

    rank: int = 16
    alpha: int = 16
    lr_factor: float = 10.0
    m: float = 0
    m_images: float | None = None
    inputs: Literal["always", "never"] = "always"
    full: tuple[str, ...] = ()

    packages: ClassVar[Mapping[str, str]] = {"peft": 'pip install "peft>=0.17"'}

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.rank, self.alpha, self.lr_factor)
        for name, m in (("m", self.m), ("m_images", self.m_images or 0)):
            if m < 0 or (m > 1 and m != int(m)):
                raise ValueError(f"{name} = {m:g}: give a whole number of blocks, a share below 1, or 0 for all")

    def active(self, turn: int, names: Sequence[str], seed: int) -> tuple[str, ...]:
        """The last `m`."""
        return tuple(names[-block_count(self.m, len(names), f"method_options.m = {self.m:g}") :] if self.m else names)

    def reaches_inputs(self, turn: int, names: Sequence[str], seed: int) -> bool:
        """As `inputs` says."""
        return self.inputs == "always"

    def groups(self, model: nn.Module, blocks: Blocks, *, lr: float, seed: int) -> list[dict[str, Any]]:
        """Adds the adapters, freezes the layers under them, and returns the optimizer's groups."""
        chosen = self._chosen(blocks)
        spared = spared_modules(chosen, self.full)
        for block in blocks:
            for name, parameter in block.named_parameters():
                if block.name not in chosen.names or not any(name.startswith(f"{module}.") for module in spared):
                    parameter.requires_grad_(False)
        put_on(model, chosen, rank=self.rank, alpha=self.alpha, full=self.full, seed=seed)
        return grouped(model, blocks, lr=lr, factor=self.lr_factor)

    def for_phase(self, frames: int, new: Sequence[str] = ()) -> "Lora":
        """`m_images` in place of `m` on single frames; new modules train in full."""
        m = self.m if self.m_images is None or frames > 1 else self.m_images
        return replace(self, m=m, full=tuple(dict.fromkeys((*self.full, *new))))

    def bind(self, context: MethodContext) -> Method:
        """Needs an optimizer over `groups`, neither ranking nor schedule."""
        inputs = context.inputs if self.inputs != "always" else ()
        if not layers_to_adapt(self._chosen(context.blocks), self.full) and not any(
            adapted_layers(block.module) for block in context.blocks
        ):
            return BoundUnranked(context, self, inputs=inputs)  # a phase of new blocks only
        return _Bound(context, self, inputs=inputs)

    def _chosen(self, blocks: Blocks) -> Blocks:
        names = set(self.active(0, blocks.names, 0))
        return Blocks([block for block in blocks if block.name in names], role=blocks.role)


class _Bound(BoundUnranked):
    freezer_class: ClassVar[type[Freezer]] = AdapterFreezer

    def finish(self) -> None:
        """Merge the adapters at the end of the phase, into the original weights where they are stored otherwise."""
        if self.context.storage is not None:
            self.context.storage.release()
        take_off(self.context.task.model)


def check(rank: int, alpha: int, lr_factor: float) -> None:
    """Raise ValueError for options that are impossible for an adapter."""
    for name, value in (("rank", rank), ("alpha", alpha), ("lr_factor", lr_factor)):
        if not value > 0:
            raise ValueError(f"{name} = {value}: must be above 0")
