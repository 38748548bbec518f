"""AdamW with 8-bit states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

from torch import optim

from entprog.core.types import AdamOptions, Role
from entprog.optimizers.base import OptimizerPlugin
from entprog.profiling.states import adamw8bit_states

__all__ = ["Adamw8bit"]


@dataclass(frozen=True)
class Adamw8bit(OptimizerPlugin):
    """AdamW with 8-bit states (arXiv 2110.02861), by torchao's arithmetic; small parameters keep full states."""

    shards: ClassVar[bool] = True
    packages: ClassVar[Mapping[str, str]] = {"torchao": 'pip install "entprog[lowbit]"'}

    def build(self, groups: list[dict[str, Any]], adam: AdamOptions) -> optim.Optimizer:
        """See `OptimizerPlugin`.

        Raises:
            ValueError: torchao is not installed.
        """
        if find_spec("torchao") is None:
            raise ValueError("train.optimizer = 'adamw8bit': it is not installed; pip install \"entprog[lowbit]\"")
        from entprog.optimizers._quantized import AdamW8bit

        return AdamW8bit(groups, lr=groups[0]["lr"], **adam.arguments())

    def states(self, shape: Sequence[int], size: int, *, counted: bool, role: Role) -> list[int]:
        """Codes and scales of both moments; the step count is on the CPU."""
        return adamw8bit_states(shape, size, counted=counted)
