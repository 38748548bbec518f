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
from entprog.integrations.choices import Choices, in_execution_order, put_on
from entprog.integrations.skip_adapters import with_ready_adapters
from entprog.integrations.summary import summary
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
    method: str | None = None,
    method_options: dict[str, Any] | None = None,
    preset: str = "",
    storage: str | None = None,
    select: str | None = None,
    score: str | None = None,
    score_options: dict[str, Any] | None = None,
    schedule: str | None = None,
    schedule_options: dict[str, Any] | None = None,
    ranking: Ranking | None = None,
    states: str = "keep",
    inputs_every: int = 1,
    gradient_checkpointing: bool = False,
    cost: str = "seconds",
    seed: int = 0,
    quiet: bool = False,
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
        method: "progressive" (the default), "lora", "mixed", "full", or "package.module:Class"; with `method_options`.
            "lora" and "mixed" add adapters to the model and a group to the optimizer: make the learning-rate scheduler
            after it, and call `method.finish()` at the end, which merges them.
        preset: "entprog" (LoRA on the last third, bf16 storage) or "paper" (CEI, adaptive schedule): what is not given.
        storage: of weights that are frozen: "full" (as they are, the default), "bf16", "int8", "nf4" or "offload".
        select: of m blocks those with the highest score: "importance" (the default); or "per_flop", the set with the
            most importance for the FLOPs of its step, which is less where no low block extends the backward.
        score, schedule: plugin names with their options; "gradient" and "linear" by default.
        ranking: a known ranking, used instead of a score.
        inputs_every: input-side parameters (embeddings and all else before the blocks) train at every n-th step only,
            0 for never; the backward then ends at the lowest active block. Found by a forward of the first probe draw.
        gradient_checkpointing: recompute activations of blocks that need a gradient; remains on the model. Turn the
            model's own switch off.
        cost: "seconds" (measured) or "flops" (proportional to the count of active blocks here).
        quiet: do not print `method.summary`, which says what each stage trains and what it does not save.

    Raises:
        ValueError: no block matches, more stages than steps, a search longer than its stage, an unknown option.
    """
    given = {
        "method": method, "method_options": method_options, "storage": storage, "select": select, "score": score,
        "score_options": score_options, "schedule": schedule, "schedule_options": schedule_options,
    }  # fmt: skip
    choices = Choices.of(preset, given)
    task = _UsersTask(model, predict, loss)
    found = with_ready_adapters(blocks if isinstance(blocks, Blocks) else discover_blocks(model, blocks))
    found = in_execution_order(task, found, probe[0]) if probe else found
    if ranking is None and choices.ranked:
        training = model.training
        model.eval()
        try:
            if probe:  # warns of parameters used outside their block
                used_outside(model, found, lambda: predict(probe[0]))
            scorer = plugins.load("score", choices.score, **choices.score_options)
            ranking = choices.ranking(scorer.score(task, found, probe), found)
        finally:
            model.train(training)
        for parameter in model.parameters():
            parameter.grad = None
    inputs = _inputs(model, found, predict, probe) if choices.rests_inputs(inputs_every) else ()
    found = put_on(choices.plugin, model, found, optimizer, seed)
    if gradient_checkpointing:
        recompute(found)
    context = MethodContext(
        task=task,
        blocks=found,
        optimizer=optimizer,
        total_steps=steps,
        holdout=probe,
        ranking=ranking,
        schedule=plugins.load("schedule", choices.schedule, **choices.schedule_options) if choices.ranked else None,
        cost=cost,
        inputs_every=inputs_every,
        inputs=inputs,
        storage=choices.stored(found),
        states=states,  # type: ignore[arg-type]
        notify=_warn,
        seed=seed,
    )
    bound = choices.plugin.bind(context)
    bound.summary = summary(choices, context)
    if not quiet:
        print(bound.summary)
    return bound


def _inputs(
    model: nn.Module, blocks: Blocks, predict: Callable[[Draw], Tensor], probe: Sequence[Draw]
) -> tuple[str, ...]:
    if not probe:
        raise ValueError("inputs_every: needs a draw to see which parameters are on the input side; give probe")
    return input_parameters(model, blocks, lambda: predict(probe[0]))


__all__ = ["attach"]
