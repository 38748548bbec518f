"""One dispatch-mode meter: bytes of live storages by category, and FLOPs, of what runs inside it."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *rest, out_val=None, **other: sdpa_flop(
        q.shape, k.shape, v.shape
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *rest, out_val=None, **other: sdpa_backward_flop(grad.shape, q.shape, k.shape, v.shape)
    ),
}
"""FLOPs of CPU flash attention, which torch's own counter leaves at zero."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one optimizer step costs.

    `flops` counts matrix products, convolutions and attention; `peak` is the largest sum of live bytes while the
    forward and backward passes run, `by_category` that sum's parts: weights, gradients, optimizer, activations.
    """

    flops: int
    peak: int
    by_category: dict[str, int] = field(default_factory=dict)


class Meter(TorchDispatchMode):
    """Counts while it is entered; results are read afterwards. Numerics are untouched.

    Args:
        model: its parameters are the weights; None counts FLOPs only.
        optimizer: its states count as they stand; AdamW states that active parameters still lack are added, so
            that the first step of a workload measures like any later one.
    """

    def __init__(self, model: nn.Module | None = None, optimizer: optim.Optimizer | None = None) -> None:
        super().__init__()
        self.model, self.optimizer = model, optimizer
        self.flops = 0
        self.peak = 0
        self.at_peak: dict[str, int] = {}
        self._live: dict[int, tuple[int, str, Any]] = {}
        self._now = {"weights": 0, "gradients": 0, "optimizer": 0, "activations": 0}
        self._hooks: list[Any] = []

    def __enter__(self) -> "Meter":
        if self.model is not None:
            for parameter in self.model.parameters():
                self._add(parameter, "weights")
                if parameter.grad is not None:
                    self._add(parameter.grad, "gradients")
                if parameter.requires_grad:
                    self._hooks.append(parameter.register_post_accumulate_grad_hook(self._relabel))
            self._now["optimizer"] += self._optimizer_bytes()
            self._mark()
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *details: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        super().__exit__(*details)

    def cost(self) -> StepCost:
        """What was counted so far."""
        return StepCost(self.flops, self.peak, dict(self.at_peak))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in ATTENTION:
            self.flops += ATTENTION[packet](*args, **kwargs, out_val=out)
        elif packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        if self.model is not None:
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    self._add(leaf, "activations")
            self._mark()
        return out

    def _add(self, tensor: Tensor, category: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = storage.nbytes()
        self._live[key] = (size, category, weakref.ref(storage, partial(self._free, key)))
        self._now[category] += size

    def _free(self, key: int, gone: Any = None) -> None:
        size, category, _ = self._live.pop(key)
        self._now[category] -= size

    def _relabel(self, parameter: Tensor) -> None:
        if parameter.grad is None:  # stepped and freed in the backward pass
            return
        key = parameter.grad.untyped_storage()._cdata
        entry = self._live.get(key)
        if entry is not None and entry[1] == "activations":
            self._live[key] = (entry[0], "gradients", entry[2])
            self._now["activations"] -= entry[0]
            self._now["gradients"] += entry[0]

    def _mark(self) -> None:
        total = sum(self._now.values())
        if total > self.peak:
            self.peak, self.at_peak = total, dict(self._now)

    def _optimizer_bytes(self) -> int:
        if self.optimizer is None:
            return 0
        total = 0
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter)
                if state:
                    total += sum(v.numel() * v.element_size() for v in state.values() if isinstance(v, Tensor))
                elif parameter.requires_grad:
                    total += 2 * parameter.numel() * parameter.element_size()
        return total
