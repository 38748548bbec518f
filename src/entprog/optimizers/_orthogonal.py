"""Muon for the matrices of blocks, AdamW for everything else."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from entprog.core.sharded import full_tensor, placed
from entprog.optimizers._stepping import Stepping
from entprog.profiling.states import COUNTER, adamw_states, moment_size

__all__ = ["MuonAdamW", "muon_states", "orthogonalised"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd quintic whose iteration takes singular values towards 1, as Muon's author chose them."""

ITERATIONS = 5

TOGETHER = 2**18
"""Values of small matrices of one shape that are orthogonalised in one batch: fewer operations, the same result."""

RMS = 0.2
"""Approximate root mean square of an AdamW step: the factor makes learning rates comparable (arXiv 2502.16982)."""


class MuonAdamW(Stepping):
    """Steps matrices along their momentum with all singular values near 1 (Muon), other parameters by AdamW.

    For a parameter of two dimensions [m, n] in a group with "orthogonal": M <- momentum M + G, then a step of
    lr * 0.2 sqrt(max(m, n)) * `orthogonalised`(G + momentum M), after decoupled weight decay
    (https://kellerjordan.github.io/posts/muon; but for rounding equal to `torch.optim.Muon` with adjust_lr_fn =
    "match_rms_adamw"). One state instead of AdamW's two. Of a sharded matrix each process orthogonalises the whole.

    Args:
        momentum: of matrices, 0..1.
        rows: blocks of this many rows are orthogonalised separately where they divide m and n is larger, as if the
            matrix were several, such as an attention's heads: each iteration then costs `rows` / min(m, n) of the cost
            for the whole. 0: always the whole matrix.
    """

    def __init__(
        self, params: Any, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
        momentum: float = 0.95, rows: int = 0,
    ) -> None:  # fmt: skip
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum": momentum, "rows": rows,
            "orthogonal": False,
        }  # fmt: skip
        super().__init__(params, defaults)
        self._matrices = {
            id(p) for group in self.param_groups if group["orthogonal"] for p in group["params"] if p.ndim == 2
        }

    def step_all(self) -> None:
        """See `Rounding`."""
        self._pending: dict[torch.Size, list[tuple[Tensor, Tensor, float]]] = {}
        super().step_all()
        for pending in self._pending.values():
            _step_matrices(pending)
        self._pending.clear()

    def step_group(self, group: dict[str, Any], ready: list[Tensor]) -> None:
        """See `Stepping`; matrices step last, those of one shape together."""
        for p in ready:
            assert p.grad is not None
            p.mul_(1.0 - group["lr"] * group["weight_decay"])
            one = self._muon if id(p) in self._matrices else self._adamw
            one(group, p, p.grad)

    def state_bytes(self, parameter: Tensor) -> list[int]:
        """Bytes of each state that a parameter's first step makes."""
        counted, matrix = parameter.device.type == "cpu", id(parameter) in self._matrices
        return muon_states(tuple(parameter.shape), parameter.element_size(), counted=counted, matrix=matrix)

    def _muon(self, group: dict[str, Any], p: Tensor, gradient: Tensor) -> None:
        state, momentum = self.state[p], group["momentum"]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].mul_(momentum).add_(gradient)
        parts = in_rows(full_tensor(gradient.add(state["momentum"], alpha=momentum)), group["rows"])
        size = RMS * math.sqrt(max(parts.shape[1:]))
        pending = self._pending.setdefault(parts.shape[1:], [])
        if sum(other.numel() for _, other, _ in pending) + parts.numel() > TOGETHER:
            _step_matrices(pending)
            pending.clear()
        pending.append((p, parts, -group["lr"] * size))

    def _adamw(self, group: dict[str, Any], p: Tensor, gradient: Tensor) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        count, (beta1, beta2) = int(state["step"]), group["betas"]
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(gradient, 1.0 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        size = second.sqrt().div_(math.sqrt(1.0 - beta2**count)).add_(group["eps"])
        p.addcdiv_(first, size, value=-group["lr"] / (1.0 - beta1**count))


def muon_states(shape: Sequence[int], size: int, *, counted: bool, matrix: bool) -> list[int]:
    """Bytes of each state of a parameter; `matrix`: whether Muon steps it if it has two dimensions."""
    if matrix and len(shape) == 2:
        return [math.prod(shape) * moment_size(size)] + [COUNTER] * (counted and size < 4)
    return adamw_states(shape, size, counted=counted)


def _step_matrices(pending: list[tuple[Tensor, Tensor, float]]) -> None:
    """Step matrices along their updates [k, m, n], all of one m and n, orthogonalised; each with its own step size."""
    if not pending:
        return
    matrices, updates, lengths = zip(*pending, strict=True)
    steps = orthogonalised(torch.cat(updates)).split([len(update) for update in updates])
    for matrix, step, length in zip(matrices, steps, lengths, strict=True):
        matrix.add_(placed(step.reshape(matrix.shape), matrix), alpha=length)


def in_rows(matrix: Tensor, rows: int) -> Tensor:
    """A matrix [m, n] as [m / rows, rows, n] where `rows` divide m and n is larger; else as [1, m, n]."""
    m, n = matrix.shape
    return matrix.reshape(m // rows, rows, n) if rows and n > rows and m % rows == 0 else matrix[None]


def orthogonalised(parts: Tensor) -> Tensor:
    """Matrices [k, m, n] with their singular values near 1: between about .7 and 1.2, but for the very smallest.

    Five iterations of Newton and Schulz, in bfloat16 on a CUDA device and in the matrices' own precision elsewhere.
    """
    a, b, c = COEFFICIENTS
    tall = parts.shape[1] > parts.shape[2]
    x = parts.mT if tall else parts
    x = x.bfloat16() if x.device.type == "cuda" else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(parts.dtype)
