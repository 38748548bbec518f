"""Shared by our own optimizers: the closure, steps group by group, and bfloat16 parameters stepped in float32."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, optim

from entprog.optimizers.base import keep_types
from entprog.savings.rounding import rounded_stochastically

__all__ = ["Rounding", "Stepping"]


class Rounding(optim.Optimizer):
    """A mix-in, named before the optimizer's class: bfloat16 parameters step in float32 and are rounded stochastically.

    Each such parameter is converted for the time of its own step, so that one float32 copy exists at a time; its states
    are float32. The rounding is a pure function of a group's "seed" (0 without), the parameter's count of steps (a
    state) and its place among all parameters, so a run that goes on from a checkpoint rounds alike. Parameters
    of other types step as without this class.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Kept by identity: an optimizer that steps in the backward pass replaces the groups.
        everything = (p for group in self.param_groups for p in group["params"])
        self._places = {id(p): place for place, p in enumerate(everything)}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Step every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        low = [
            (group, p, p.grad)
            for group in self.param_groups
            for p in group["params"]
            if p.dtype == torch.bfloat16 and p.grad is not None
        ]
        for _, p, _ in low:
            p.grad = None
        self.step_all()
        for group, p, gradient in low:
            self._step_in_float32(group, p, gradient)
        return loss

    @abstractmethod
    def step_all(self) -> None:
        """Step the parameters of `param_groups` that have a gradient, without closure and hooks."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a copy of saved states, each in its own type: torch would give them the type of the parameter."""
        super().load_state_dict(state_dict)
        keep_types(self, state_dict)

    def _step_in_float32(self, group: dict[str, Any], p: Tensor, gradient: Tensor) -> None:
        groups, low = self.param_groups, p.data
        self.param_groups = [{**group, "params": [p]}]
        p.data = low.float()
        p.grad = gradient.float()
        try:
            self.step_all()
            low.copy_(rounded_stochastically(p.data, group.get("seed", 0), self._count(p), self._places[id(p)]))
        finally:
            p.grad = None
            p.data = low
            p.grad = gradient
            self.param_groups = groups

    def _count(self, p: Tensor) -> int:
        """Steps of a parameter so far; counted here where the optimizer does not."""
        state = self.state[p]
        if "step" in state:
            return int(state["step"])
        state["rounded"] = state["rounded"] + 1 if "rounded" in state else torch.ones(())
        return int(state["rounded"])


class Stepping(Rounding):
    """An optimizer that defines how the parameters of one group step."""

    def step_all(self) -> None:
        """See `Rounding`."""
        for group in self.param_groups:
            self.step_group(group, [p for p in group["params"] if p.grad is not None])

    @abstractmethod
    def step_group(self, group: dict[str, Any], ready: list[Tensor]) -> None:
        """Step the parameters of a group that have a gradient."""
