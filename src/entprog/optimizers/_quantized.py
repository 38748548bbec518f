"""AdamW with 8-bit states: torchao's arithmetic over states in plain tensors."""

import logging
from typing import Any

import torch
from torch import Tensor

from entprog.core.sharded import is_sharded
from entprog.optimizers._shards import coded_in_parts, fitting, flat, local, own_codes, own_values, spread
from entprog.optimizers._stepping import Stepping
from entprog.profiling.ledger import plain
from entprog.profiling.states import SCALED, adamw8bit_states

__all__ = ["AdamW8bit"]

_loud = logging.getLogger("torchao")
_level = _loud.level
_loud.setLevel(logging.ERROR)  # it warns of each CUDA library that a CPU does not load
try:
    from torchao.optim import AdamW8bit as Torchao
    from torchao.optim.adam import single_param_adam
    from torchao.optim.quant_utils import dequant_with_qmap, quantize_8bit_with_qmap, scale_tensor
    from torchao.optim.subclass_8bit import OptimState8bit
finally:
    _loud.setLevel(_level)

MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
"""State -> whether it is signed."""


class AdamW8bit(Stepping):
    """AdamW whose moments are stored in blockwise dynamic 8 bits (arXiv 2110.02861).

    Equal bit for bit to `torchao.optim.AdamW8bit`, whose states are tensor subclasses that can neither be copied
    nor written to a safetensors file. Here a moment is two plain tensors, "exp_avg.codes" (uint8, the
    parameter's shape) and "exp_avg.scale" (float32, one for 256 values), which are wrapped for each step.
    Parameters with fewer than 4096 values, or a count that is not a multiple of 256, keep full moments.
    On a CPU the step runs uncompiled (no compiler needed) and looks codes up in tables; on a GPU torchao compiles it
    once for each shape.
    Of a sharded parameter each process steps its own part; `_shards.py` says how its states are held.
    """

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": False})
        placeholder = torch.nn.Parameter(torch.zeros(1))
        self._low = Torchao([placeholder], lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        devices = {p.device for group in self.param_groups for p in group["params"]}
        # The values behind the 256 codes. Made here, so that a metered step leaves no new tensors.
        self._maps = {
            (device, signed): OptimState8bit.zeros((256,), signed, device=device).qmap
            for device in devices
            for signed in (True, False)
        }
        self._codes = {
            signed: _Codes(self._maps[device, signed]) for device, signed in self._maps if device.type == "cpu"
        }

    def step_group(self, group: dict[str, Any], ready: list[Tensor]) -> None:
        """See `Stepping`."""
        for p in ready:
            self._fit(p)
            if p.device.type == "cpu":
                self._step_on_cpu(group, p)
        if on_device := [p for p in ready if p.device.type != "cpu"]:
            self._step(group, on_device)

    def state_bytes(self, parameter: Tensor) -> list[int]:
        """Bytes of each state that the first step makes for a parameter, for meters."""
        counted = parameter.device.type == "cpu"
        parts = plain(parameter)
        return [n for p in parts for n in adamw8bit_states(tuple(p.shape), p.element_size(), counted=counted)]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a copy of saved states, each tensor in its own type (torch would convert codes to floats)."""
        super().load_state_dict(state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        for place, values in state_dict["state"].items():
            p = parameters[place]
            self.state[p] = {
                key: value.to(value.device if key == "step" else p.device, copy=True) for key, value in values.items()
            }

    def _fit(self, p: Tensor) -> None:
        """Make the states of a sharded parameter, or divide saved ones anew if they are of other processes."""
        state, coded = self.state[p], coded_in_parts(p)
        if not state and is_sharded(p):
            own = local(p)
            made = {
                name: OptimState8bit.zeros(own.shape, signed, device=own.device) if coded else torch.zeros_like(own)
                for name, signed in MOMENTS.items()
            }
            self.state[p] = spread(_plain({"step": torch.tensor(0.0), **made}), p)
        elif state and not fitting(state, p, coded):
            self.state[p] = spread(self._taken(state, p, coded), p)

    def _taken(self, saved: dict[str, Tensor], p: Tensor, coded: bool) -> dict[str, Tensor]:
        """States of this process's part of a parameter, from those of any number of processes.

        Codes stay as they are, unless parts of this size keep full moments; full ones are quantised if need be.
        """
        found = {"step": saved["step"]}
        for name, signed in MOMENTS.items():
            table = self._maps[p.device, signed]
            if name in saved:
                own = own_values(saved, name, p)
                if coded:
                    scaled, scale = scale_tensor(own.reshape(-1, SCALED), SCALED)
                    codes = quantize_8bit_with_qmap(scaled, table).view(own.shape)
                    found |= {f"{name}.codes": codes, f"{name}.scale": scale}
                else:
                    found[name] = own
                continue
            codes, scales = own_codes(saved, name, p)
            if coded:
                found |= {f"{name}.codes": codes, f"{name}.scale": scales.view(-1)[::SCALED].contiguous()}
            else:
                found[name] = table[codes.int()] * scales
        return found

    def _step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        own = [local(p) for p in parameters]
        for p, part in zip(parameters, own, strict=True):
            if part is not p:
                assert p.grad is not None
                part.grad = local(p.grad)
        ready = [part for part in own if part.numel()]
        self._low.param_groups = [{**group, "params": ready, "lr": torch.tensor(float(group["lr"]))}]
        self._low.state.clear()
        for p, part in zip(parameters, own, strict=True):
            if self.state.get(p):
                self._low.state[part] = self._wrapped(flat(self.state[p]))
        self._low.step()
        for p, part in zip(parameters, own, strict=True):
            # Codes and scales are written in place: only new states are not stored yet.
            if not self.state.get(p):
                self.state[p] = _plain(self._low.state[part])
        self._low.state.clear()

    def _step_on_cpu(self, group: dict[str, Any], p: Tensor) -> None:
        state = flat(self.state[p])
        if not state:
            made = {name: self._low._new_buffer(p, signed) for name, signed in MOMENTS.items()}
            state = self.state[p] = _plain({"step": torch.tensor(0.0), **made})
        state["step"] += 1
        own, gradient = local(p), p.grad
        assert gradient is not None
        if not own.numel():  # a sharded parameter with fewer rows than there are processes
            return
        moments = {
            name: dequant_with_qmap(state[f"{name}.codes"], self._maps[p.device, signed], state[f"{name}.scale"])
            if f"{name}.codes" in state else state[name]
            for name, signed in MOMENTS.items()
        }  # fmt: skip
        single_param_adam(
            own.detach(), local(gradient), state["step"], *moments.values(), None, torch.tensor(float(group["lr"])),
            *group["betas"], group["weight_decay"], group["eps"], True, False,
        )  # fmt: skip
        for name, signed in MOMENTS.items():
            if f"{name}.codes" in state:
                scaled, scale = scale_tensor(moments[name], self._low.block_size)
                state[f"{name}.codes"].copy_(self._codes[signed](scaled))
                state[f"{name}.scale"].copy_(scale)

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


class _Codes:
    """torchao's `quantize_8bit_with_qmap` of one map, by tables: the same codes, several times faster on a CPU.

    A value's sign, exponent and first 7 bits of mantissa leave at most two possible codes, as neighbours in the map
    are further apart than that; where the second begins is found by bisection over the other 16 bits.
    """

    def __init__(self, qmap: Tensor) -> None:
        least = torch.arange(-(2**15), 2**15, dtype=torch.int32) << 16

        def code(rest: Tensor | int) -> Tensor:
            return quantize_8bit_with_qmap((least | rest).view(torch.float32), qmap)

        low, high = torch.zeros_like(least), torch.full_like(least, 2**16 - 1)
        self.first, self.second = code(low), code(high)
        for _ in range(16):
            middle = (low + high) // 2
            same = code(middle) == self.first
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        self.begin = least | high

    def __call__(self, values: Tensor) -> Tensor:
        """Codes (uint8) of values in [-1, 1], float32 of any shape."""
        bits = values.view(torch.int32)
        cell = (bits >> 16) + 2**15
        return torch.where(bits >= self.begin[cell], self.second[cell], self.first[cell])
