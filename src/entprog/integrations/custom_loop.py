"""Use the method in your own training loop."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn, optim

from entprog import plugins
from entprog.core.blocks import Blocks, discover_blocks
from entprog.core.outside import used_outside
from entprog.core.truncation import input_parameters
from entprog.core.types import Draw, MethodContext, Ranking
from entprog.methods.base import Method
from entprog.savings.recompute import recompute


class _UsersTask:
    """A model and two functions of the user's, as a task."""

    def __init__(
        self, model: nn.Module, predict: Callable[[Draw], Tensor], loss: Callable[[Draw], Tensor] | None
    ) -> None:
        self.model = model
        self.predict = predict
        self._own = loss is not None
        self.loss = loss or (lambda draw: self._squared(draw).mean())

    def losses(self, draw: Draw) -> Tensor:
        """One loss for each sample; with the user's own loss, that of the whole draw for each."""
        if self._own:
            return self.loss(draw).reshape(1)
        return self._squared(draw).reshape(draw.size, -1).mean(1)

    def _squared(self, draw: Draw) -> Tensor:
        return (self.predict(draw).float() - draw.target.float()).pow(2)


def _warn(event: str, values: dict[str, Any]) -> None:
    if event == "warning":
        warnings.warn(values["message"], stacklevel=2)


def attach(
    model: nn.Module,
    optimizer: optim.Optimizer,
    *,
    steps: int,
    predict: Callable[[Draw], Tensor],
    probe: Sequence[Draw],
    loss: Callable[[Draw], Tensor] | None = None,
    blocks: str | Sequence[str] | Blocks | None = None,
    score: str = "gradient",
    score_options: dict[str, Any] | None = None,
    schedule: str = "linear",
    schedule_options: dict[str, Any] | None = None,
    ranking: Ranking | None = None,
    states: str = "keep",
    inputs_every: int = 1,
    gradient_checkpointing: bool = False,
    cost: str = "seconds",
    seed: int = 0,
) -> Method:
    """Rank a model's blocks and return the method to train it with: `with method.step(i):` around each step.

    Args:
        model: any `nn.Module`; its blocks are discovered, or named by `blocks`.
        optimizer: the loop's own optimizer over all parameters, made before; its states of frozen blocks are
            kept, dropped or offloaded as `states` says.
        steps: optimizer steps that the loop will take.
        predict: what the model predicts for a draw (noise, v or velocity), the shape of `draw.target`.
        probe: fixed draws that the score, and a schedule that searches, read the model on.
        loss: training loss of a draw; mean squared error of `predict` by default.
        blocks: exact names in which `*` is one dotted part ("transformer_blocks.*"), or ready Blocks.
        score, schedule: plugin names with their options.
        ranking: a known ranking, used instead of a score.
        inputs_every: input-side parameters (embeddings and all else before the blocks) train at every n-th step only,
            0 for never; the backward then ends at the lowest active block. Found by a forward of the first probe draw.
        gradient_checkpointing: recompute activations of blocks that need a gradient; remains on the model. Turn the
            model's own switch off.
        cost: "seconds" (measured) or "flops" (proportional to the count of active blocks here).

    Raises:
        ValueError: no block matches, more stages than steps, a search longer than its stage, an unknown option.
    """
    task = _UsersTask(model, predict, loss)
    found = blocks if isinstance(blocks, Blocks) else discover_blocks(model, blocks)
    if ranking is None:
        training = model.training
        model.eval()
        try:
            if probe:  # warns of parameters used outside their block
                used_outside(model, found, lambda: predict(probe[0]))
            ranking = plugins.load("score", score, **(score_options or {})).score(task, found, probe).ranking()
        finally:
            model.train(training)
        for parameter in model.parameters():
            parameter.grad = None
    if gradient_checkpointing:
        recompute(found)
    context = MethodContext(
        task=task,
        blocks=found,
        optimizer=optimizer,
        total_steps=steps,
        holdout=probe,
        ranking=ranking,
        schedule=plugins.load("schedule", schedule, **(schedule_options or {})),
        cost=cost,
        inputs_every=inputs_every,
        inputs=_inputs(model, found, predict, probe) if inputs_every != 1 else (),
        states=states,  # type: ignore[arg-type]
        notify=_warn,
        seed=seed,
    )
    method: Method = plugins.load("method", "progressive").bind(context)
    return method


def _inputs(
    model: nn.Module, blocks: Blocks, predict: Callable[[Draw], Tensor], probe: Sequence[Draw]
) -> tuple[str, ...]:
    if not probe:
        raise ValueError("inputs_every: needs a draw to see which parameters are on the input side; give probe")
    return input_parameters(model, blocks, lambda: predict(probe[0]))


__all__ = ["attach"]
