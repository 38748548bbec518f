"""AdamW with 8-bit states: torchao's arithmetic over states that are kept as plain tensors."""

import logging
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, optim

from entprog.plan.ledger import plain
from entprog.plan.states import adamw8bit_states

__all__ = ["AdamW8bit"]

_loud = logging.getLogger("torchao")
_level = _loud.level
_loud.setLevel(logging.ERROR)  # it tells of each CUDA library that a CPU does not load
try:
    from torchao.optim import AdamW8bit as Torchao
    from torchao.optim.subclass_8bit import OptimState8bit
finally:
    _loud.setLevel(_level)

MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
"""State -> whether it has a sign."""


class AdamW8bit(optim.Optimizer):
    """AdamW whose moments are held in blockwise dynamic 8 bits (arXiv 2110.02861).

    Equal bit for bit to `torchao.optim.AdamW8bit`, whose states are tensor subclasses that can neither be copied
    nor written to a safetensors file. Here a moment is two plain tensors, "exp_avg.codes" (uint8, the
    parameter's shape) and "exp_avg.scale" (float32, one for 256 values), which are wrapped for each step.
    Parameters with fewer than 4096 values, or a count that is no multiple of 256, keep full moments.
    On a CPU the step runs uncompiled, so it needs no compiler; on a GPU torchao compiles it once a shape.
    """

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": False})
        placeholder = torch.nn.Parameter(torch.zeros(1))
        self._low = Torchao([placeholder], lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        devices = {p.device for group in self.param_groups for p in group["params"]}
        # The values behind the 256 codes. Made here: a step that is metered makes nothing that stays.
        self._maps = {
            (device, signed): OptimState8bit.zeros((256,), signed, device=device).qmap
            for device in devices
            for signed in (True, False)
        }

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Step every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            ready = [p for p in group["params"] if p.grad is not None]
            if ready:
                self._step(group, ready)
        return loss

    def state_bytes(self, parameter: Tensor) -> list[int]:
        """Bytes of each state that the first step makes for a parameter; meters ask beforehand."""
        counted = parameter.device.type == "cpu"
        parts = plain(parameter)
        return [n for p in parts for n in adamw8bit_states(tuple(p.shape), p.element_size(), counted=counted)]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a copy of saved states, each tensor in its own type (torch would make floats of codes)."""
        super().load_state_dict(state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        for place, values in state_dict["state"].items():
            p = parameters[place]
            self.state[p] = {
                key: value.to(value.device if key == "step" else p.device, copy=True) for key, value in values.items()
            }

    def _step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        self._low.param_groups = [{**group, "params": parameters, "lr": torch.tensor(float(group["lr"]))}]
        self._low.state.clear()
        for p in parameters:
            if self.state.get(p):
                self._low.state[p] = self._wrapped(self.state[p])
        eager = all(p.device.type == "cpu" for p in parameters)
        with torch.compiler.set_stance("force_eager") if eager else nullcontext():
            self._low.step()
        for p in parameters:
            # Codes and scales are written in place: only new states are not ours yet.
            if not self.state.get(p):
                self.state[p] = _plain(self._low.state[p])
        self._low.state.clear()

    def _wrapped(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {key: value for key, value in values.items() if "." not in key}
        for name, signed in MOMENTS.items():
            if f"{name}.codes" in values:
                codes, scale = values[f"{name}.codes"], values[f"{name}.scale"]
                table = self._maps[codes.device, signed]
                found[name] = OptimState8bit(codes, scale, table, signed, dtype=torch.float32)
        return found


def _plain(state: dict[str, Any]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if isinstance(value, OptimState8bit):
            found[f"{key}.codes"], found[f"{key}.scale"] = value.codes, value.scale
        else:
            found[key] = value
    return found
