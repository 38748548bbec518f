"""Shared by our own optimizers: the closure, and a step of every parameter with a gradient, group by group."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, optim

__all__ = ["Stepping"]


class Stepping(optim.Optimizer):
    """An optimizer that defines how the parameters of one group step."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Step every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.step_group(group, [p for p in group["params"] if p.grad is not None])
        return loss

    @abstractmethod
    def step_group(self, group: dict[str, Any], ready: list[Tensor]) -> None:
        """Step the parameters of a group that have a gradient."""
