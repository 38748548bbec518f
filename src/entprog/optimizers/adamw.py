"""AdamW by torch."""

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, optim

from entprog.core.types import AdamOptions
from entprog.optimizers._stepping import Rounding
from entprog.optimizers.base import OptimizerPlugin
from entprog.profiling.states import adamw_states

__all__ = ["AdamW"]


@dataclass(frozen=True)
class AdamW(OptimizerPlugin):
    """AdamW (arXiv 1711.05101), torch's fused step: two states for each parameter."""

    shards: ClassVar[bool] = True

    def build(self, groups: list[dict[str, Any]], adam: AdamOptions) -> optim.Optimizer:
        """See `OptimizerPlugin`."""
        return FusedAdamW(groups, lr=groups[0]["lr"], **adam.arguments(), fused=True)


class FusedAdamW(Rounding, optim.AdamW):
    """torch's, with bfloat16 parameters stepped in float32."""

    def step_all(self) -> None:
        """See `Rounding`."""
        inspect.unwrap(optim.AdamW.step)(self)  # the wrapper would call this optimizer's hooks once more

    def state_bytes(self, parameter: Tensor) -> list[int]:
        """Bytes of each state that a parameter's first step makes."""
        return adamw_states(tuple(parameter.shape), parameter.element_size(), counted=True)
