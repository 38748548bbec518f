"""Adafactor by torch."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, optim

from entprog.core.types import AdamOptions, Role
from entprog.optimizers._stepping import Rounding
from entprog.optimizers.base import OptimizerPlugin
from entprog.profiling.states import adafactor_states

__all__ = ["Adafactor"]


@dataclass(frozen=True)
class Adafactor(OptimizerPlugin):
    """Adafactor (arXiv 1804.04235): a row and a column for each matrix instead of two states.

    Steps are relative to the size of the weights; use learning rates near 1e-2.
    """

    reads: ClassVar[tuple[str, ...]] = ("adam_weight_decay",)

    def build(self, groups: list[dict[str, Any]], adam: AdamOptions) -> optim.Optimizer:
        """See `OptimizerPlugin`."""
        # torch's default epsilon is far above the squared gradients of a diffusion model and would level rows and
        # columns; it is squared before use, and this is the paper's 1e-30.
        return RoundingAdafactor(groups, lr=groups[0]["lr"], eps=(1e-15, 1e-3), weight_decay=adam.weight_decay)

    def states(self, shape: Sequence[int], size: int, *, counted: bool, role: Role) -> list[int]:
        """A row and a column for each matrix; the step count is on the CPU."""
        return adafactor_states(shape, size, counted=counted)


class RoundingAdafactor(Rounding, optim.Adafactor):
    """torch's, with bfloat16 parameters stepped in float32."""

    def step_all(self) -> None:
        """See `Rounding`."""
        inspect.unwrap(optim.Adafactor.step)(self)  # the wrapper would call this optimizer's hooks once more

    def state_bytes(self, parameter: Tensor) -> list[int]:
        """Bytes of each state that a parameter's first step makes."""
        counted = parameter.device.type == "cpu"
        return adafactor_states(tuple(parameter.shape), parameter.element_size(), counted=counted)
