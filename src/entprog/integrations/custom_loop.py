"""Use the method in your own training loop."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn, optim

from entprog import plugins
from entprog.core.blocks import Blocks
from entprog.core.outside import used_outside
from entprog.core.sharded import reshard, sharded_modules
from entprog.core.truncation import input_parameters
from entprog.core.types import Draw, MethodContext, Ranking, Scores
from entprog.integrations import checks, former, processes
from entprog.integrations.choices import Choices, in_execution_order, put_on
from entprog.integrations.group_norm import keep_group_norms_from_crashing
from entprog.integrations.prefix_cache import KnownBatches, check_can_skip
from entprog.integrations.skip_adapters import with_ready_adapters
from entprog.integrations.summary import summary
from entprog.methods.base import Method
from entprog.savings.recompute import recompute


class _UsersTask:
    """A model and two functions of the user's, as a task."""

    def __init__(
        self, model: nn.Module, predict: Callable[[Draw], Tensor], loss: Callable[[Draw], Tensor] | None
    ) -> None:
        if not callable(predict):
            raise ValueError(f"predict = {predict!r}: give a function of a draw that returns the model's prediction")
        self.model = model
        self._predict, self._own_loss = predict, loss

    def predict(self, draw: Draw) -> Tensor:
        """The user's prediction, of the target's shape; with a loss of the user's own, of any shape."""
        return checks.checked_prediction(self._predict(draw), draw.target, shape=self._own_loss is None)

    def loss(self, draw: Draw) -> Tensor:
        """The user's loss, or the mean squared error."""
        if self._own_loss is None:
            return self._squared(draw).mean()
        value = self._own_loss(draw)
        if value.numel() != 1:
            raise ValueError(
                f"loss gave shape {list(value.shape)}: return one number for the whole draw, such as .mean()"
            )
        return value

    def losses(self, draw: Draw) -> Tensor:
        """One loss for each sample; with the user's own loss, that of the whole draw."""
        if self._own_loss is not None:
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
    prefix_cache: int = 0,
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
        gradient_checkpointing: recompute activations of blocks that need a gradient, in scoring, too, until the method
            is released. Turn the model's own switch off.
        prefix_cache: how many batches keep the output of their frozen blocks below the lowest active one, which are not
            run when `with method.batch(key):` names such a batch again; 0 for none. Needs a model that is a single
            stack, which is tried by one forward of the first draw for each block, and frozen input-side parameters.
        cost: "seconds" (measured) or "flops" (proportional to the count of active blocks here).
        quiet: do not print `method.summary`, which says what each stage trains and what it does not save.

    Under `torch.distributed` every process calls it, each with its own probe of the same sizes or with the same one;
    scores and a search's readings are averaged over processes, so that all of them train the same blocks.

    Raises:
        ValueError: no block matches, more stages than steps, a search longer than its stage, an unknown option, or one
            of the faults in docs/loops.md.
    """
    given = {
        "method": method, "method_options": method_options, "storage": storage, "select": select, "score": score,
        "score_options": score_options, "schedule": schedule, "schedule_options": schedule_options,
    }  # fmt: skip
    choices = Choices.of(preset, given)
    task = _UsersTask(model, predict, loss)
    optimizer = checks.plain_optimizer(optimizer)
    former.release_former(model)
    reshard(sharded_modules(model))
    checks.check_optimizer(model, optimizer)
    checks.check_draws(probe)
    check_can_skip(model, prefix_cache, probe)
    processes.check_options(model, probe, {"inputs_every": inputs_every, "states": states})
    trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    with ExitStack() as undoing:
        undoing.callback(keep_group_norms_from_crashing(model))
        with checks.evaluating(model), processes.wrappers_in() as wrappers:
            wrappers += [module for module in model.modules() if isinstance(module, processes.DistributedDataParallel)]
            found, left_out = checks.usable_blocks(
                model, blocks, (lambda: task.predict(probe[0])) if probe else None, ranking
            )
            processes.check_wrappers(wrappers)
            found = with_ready_adapters(found)
            found = in_execution_order(task, found, probe[0]) if probe else found
        if gradient_checkpointing:
            undoing.callback(recompute(found))
        if ranking is None and choices.ranked:
            scorer = plugins.load("score", choices.score, **choices.score_options)
            with checks.evaluating(model), processes.unsynchronised(wrappers):
                if probe:  # warns of parameters used outside their block
                    used_outside(model, found, lambda: predict(probe[0]))
                scores: Scores = scorer.score(task, found, probe)
            ranking = choices.ranking(processes.mean_scores(scores) if processes.several() else scores, found)
            reshard(sharded_modules(model))
            for parameter in model.parameters():
                parameter.grad = None
        elif ranking is not None:
            ranking = Ranking(tuple(name for name in ranking.names if name not in left_out))
        rests = choices.rests_inputs(inputs_every)
        inputs = _inputs(model, found, predict, probe) if rests or prefix_cache else ()
        found = put_on(choices.plugin, model, found, optimizer, seed)
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
            inputs=inputs if rests else (),
            storage=choices.stored(found),
            states=states,  # type: ignore[arg-type]
            notify=_warn,
            seed=seed,
            reenters=True,
            agree=processes.agreeing(),
        )
        bound: Method = choices.plugin.bind(context)
        known = None
        if prefix_cache:
            early = [p for name, p in model.named_parameters() if name in inputs]
            known = KnownBatches(
                model, found, optimizer, inputs=early, inputs_train=not trainable.isdisjoint(inputs), keep=prefix_cache
            )
            undoing.callback(known.remover())
            with checks.evaluating(model):
                known.check(lambda: task.predict(probe[0]))
            bound.known = known.batch
        undo = undoing.pop_all().close
    former.remember(model, trainable, bound.freezer, undo)
    bound.summary = summary(choices, context, known)
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
