"""What a callback needs to attach the method once its trainer has a model and an optimizer."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn, optim

from entprog.core.types import Draw
from entprog.integrations.custom_loop import attach
from entprog.methods.base import Method

__all__ = ["Attaching"]


class Attaching:
    """Keeps the arguments of `attach` until training starts.

    Args:
        model: the network, from the trainer's model; the whole model by default.
        predict, probe, options: as for `attach`; `predict` gets a draw.

    Attributes:
        method: of the running training; None before.
    """

    def __init__(
        self,
        *,
        predict: Callable[[Draw], Tensor],
        probe: Sequence[Draw],
        model: Callable[[Any], nn.Module] = lambda model: model,
        **options: Any,
    ) -> None:
        self.predict, self.probe, self.model, self.options = predict, probe, model, options
        self.method: Method | None = None
        self._step = ExitStack()

    def _attach(self, model: Any, optimizer: optim.Optimizer, steps: int) -> Method:
        """Rank and attach."""
        return attach(self.model(model), optimizer, steps=steps, predict=self.predict, probe=self.probe, **self.options)
