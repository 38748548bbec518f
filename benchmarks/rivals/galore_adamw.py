"""AdamW whose states of matrices live in a low-rank subspace of their gradients (GaLore, arXiv 2403.03507)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from entprog.optimizers._stepping import Stepping
from entprog.profiling.states import COUNTER, moment_size

__all__ = ["GaLoreAdamW", "galore_states"]


class GaLoreAdamW(Stepping):
    """The authors' `galore_torch.GaLoreAdamW` with its "std" projection, but for rounding.

    A matrix of a group with "project" whose sides are both longer than `rank` has its gradient G projected: on the
    right by the first right singular vectors P [rank, n] where it is at least as tall as wide, else on the left by
    the first left ones P [m, rank]. AdamW runs on what is left of G; its step, times `scale`, is taken back through P.
    P comes from the gradient of the parameter's first step and of every `update_proj_gap`-th after it; moments stay
    across such a change. Other parameters get the same AdamW without projection. Epsilon is added before the bias
    correction, and weight decay comes after the step, as there.

    Here all states are plain tensors ("projection", "exp_avg", "exp_avg_sq" and the scalar "step"), so that they are
    copied, offloaded and saved like AdamW's. The singular value decomposition is computed in float32.
    """

    def __init__(
        self, params: Any, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
        rank: int, update_proj_gap: int, scale: float,
    ) -> None:  # fmt: skip
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "rank": rank,
            "update_proj_gap": update_proj_gap, "scale": scale, "project": False,
        }  # fmt: skip
        super().__init__(params, defaults)
        self._projected = {
            id(p): group["project"] and p.ndim == 2 and min(p.shape) > group["rank"]
            for group in self.param_groups
            for p in group["params"]
        }

    def step_group(self, group: dict[str, Any], ready: list[Tensor]) -> None:
        """See `Stepping`."""
        for p in ready:
            assert p.grad is not None
            self._step(group, p, p.grad)

    def state_bytes(self, parameter: Tensor) -> list[int]:
        """Bytes of each state that a parameter's first step makes."""
        rank = self.defaults["rank"] if self._projected[id(parameter)] else 0
        counted = parameter.device.type == "cpu"
        return galore_states(tuple(parameter.shape), parameter.element_size(), counted=counted, projected=rank)

    def _step(self, group: dict[str, Any], p: Tensor, gradient: Tensor) -> None:
        state, tall = self.state[p], p.shape[0] >= p.shape[-1]
        if not state:
            state["step"] = torch.zeros(())
        count, projected = int(state["step"]), self._projected[id(p)]
        if projected:
            if count % group["update_proj_gap"] == 0:
                state["projection"] = _subspace(gradient, group["rank"], right=tall)
            projection = state["projection"]
            gradient = gradient @ projection.t() if tall else projection.t() @ gradient
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(gradient)
            state["exp_avg_sq"] = torch.zeros_like(gradient)
        first, second = state["exp_avg"], state["exp_avg_sq"]
        beta1, beta2 = group["betas"]
        state["step"] += 1
        count += 1
        first.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        change = first / second.sqrt().add_(group["eps"])
        if projected:
            change = (change @ projection if tall else projection @ change) * group["scale"]
        p.add_(change, alpha=-group["lr"] * math.sqrt(1.0 - beta2**count) / (1.0 - beta1**count))
        if group["weight_decay"] > 0.0:
            p.add_(p, alpha=-group["lr"] * group["weight_decay"])


def galore_states(shape: Sequence[int], size: int, *, counted: bool, projected: int) -> list[int]:
    """Bytes of each state of a parameter: a matrix longer than `projected` on both sides keeps so much (0: none)."""
    size = moment_size(size)
    moments = [math.prod(shape) * size] * 2
    if projected and len(shape) == 2 and min(shape) > projected:
        moments = [projected * min(shape) * size] + [projected * max(shape) * size] * 2
    return moments + [COUNTER] * counted


def _subspace(gradient: Tensor, rank: int, *, right: bool) -> Tensor:
    """The first `rank` right singular vectors as rows, or left ones as columns."""
    left, _, rows = torch.linalg.svd(gradient.float(), full_matrices=False)
    found = rows[:rank] if right else left[:, :rank]
    # A view would keep all of the decomposition alive; and a checkpoint gives tensors back in this order of memory,
    # which is what sums round by.
    return found.to(gradient.dtype).clone(memory_format=torch.contiguous_format)
