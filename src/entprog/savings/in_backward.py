"""The optimizer of a phase as the recipe names it, and an optimizer that steps inside the backward pass."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn, optim

from entprog import plugins
from entprog.config.schema import TrainConfig
from entprog.core.types import AdamOptions

__all__ = ["InBackward", "adam_options", "build_optimizer", "optimizer_plugin", "release"]


def optimizer_plugin(config: TrainConfig) -> Any:
    """The plugin of kind "optimizer" that `train.optimizer` names, with `train.optimizer_options`."""
    return plugins.load("optimizer", config.optimizer, **config.optimizer_options)


def adam_options(config: TrainConfig) -> AdamOptions:
    """The `train.adam_*` keys."""
    return AdamOptions(config.adam_beta1, config.adam_beta2, config.adam_epsilon, config.adam_weight_decay)


def build_optimizer(config: TrainConfig, groups: list[dict[str, Any]]) -> optim.Optimizer:
    """The optimizer that `config.optimizer` names, over `groups` (`param_groups`, each with its "lr").

    States appear at a parameter's first step, so blocks that never train have none. All states are plain
    tensors, whatever the optimizer: they are copied, offloaded and saved like AdamW's.

    Raises:
        ValueError: an optimizer that is not installed, or one in the backward pass together with what needs
            all gradients at once.
    """
    seeded = [{**group, "seed": config.seed} for group in groups]  # of the rounding of bfloat16 parameters
    plain: optim.Optimizer = optimizer_plugin(config).build(seeded, adam_options(config))
    if not config.optimizer_in_backward:
        return plain
    if config.gradient_accumulation_steps > 1:
        raise ValueError(
            f"train.gradient_accumulation_steps = {config.gradient_accumulation_steps}: the optimizer in the backward "
            "pass steps at each micro-batch; set 1 and a larger batch, or train.optimizer_in_backward = false"
        )
    if config.max_grad_norm > 0:
        raise ValueError(
            f"train.max_grad_norm = {config.max_grad_norm}: clipping needs all gradients at once, the optimizer in the "
            "backward pass never has them; set 0, or train.optimizer_in_backward = false"
        )
    if config.mixed_precision == "fp16":
        raise ValueError(
            "train.mixed_precision = 'fp16': its loss scale is judged by all gradients at once, the optimizer in the "
            "backward pass never has them; choose bf16 or no, or train.optimizer_in_backward = false"
        )
    return InBackward(plain)


def release(optimizer: optim.Optimizer) -> None:
    """Remove an optimizer's hooks from its parameters, so that only the next one's run."""
    if isinstance(optimizer, InBackward):
        optimizer.release()


class InBackward(optim.Optimizer):
    """Steps each parameter as soon as its gradient is there, and frees the gradient at once.

    A wrapper: groups, states and saved states are those of the optimizer inside, which is given one parameter at a
    time. Equal to it bit for bit where a parameter's step depends on no other parameter. `step`
    itself only runs its hooks. Peak memory falls by the gradients only if gradients are live at the peak:
    with gradient checkpointing; without it activations fall while gradients rise and nothing is saved.

    A parameter that does not require a gradient is never stepped, even by a graph built before it was frozen.

    Args:
        inside: the optimizer that does the work; use it through this one only.
    """

    def __init__(self, inside: optim.Optimizer) -> None:
        super().__init__(inside.param_groups, inside.defaults)
        self.inside = inside
        self._group = {id(p): k for k, group in enumerate(self.param_groups) for p in group["params"]}
        self._norms: dict[int, Tensor] = {}
        self._handles = [
            p.register_post_accumulate_grad_hook(self._step_one) for group in self.param_groups for p in group["params"]
        ]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Does nothing: the backward pass has stepped already. `closure` is only called."""
        return None if closure is None else closure()

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> float:
        """Norm of the gradients that were stepped since the last call, as `clip_grad_norm_` computes it.

        Args:
            parameters: in the order in which `clip_grad_norm_` would get them.
        """
        norms = [self._norms[id(p)] for p in parameters if id(p) in self._norms]
        self._norms = {}
        return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As the optimizer inside loads it."""
        self.inside.param_groups, self.inside.state = self.param_groups, self.state
        self.inside.load_state_dict(state_dict)
        self.param_groups, self.state = self.inside.param_groups, self.inside.state

    def release(self) -> None:
        """Remove the hooks from the parameters."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _step_one(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        if parameter.requires_grad:
            self._norms[id(parameter)] = torch.linalg.vector_norm(gradient)
            # A search restores states by replacing them, so the optimizer inside must use the present ones.
            self.inside.state = self.state
            self.inside.param_groups = [{**self.param_groups[self._group[id(parameter)]], "params": [parameter]}]
            self.inside.step()
        parameter.grad = None
