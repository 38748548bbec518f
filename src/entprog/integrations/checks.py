"""What `attach` checks before it ranks: each fault is an error of one line, or put right with a warning."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn, optim

from entprog.core.blocks import Blocks, discover_blocks, shortened
from entprog.core.skip import Skipper
from entprog.core.types import Draw, Ranking

__all__ = [
    "check_draws", "check_optimizer", "checked_prediction", "evaluating", "plain_optimizer", "usable_blocks",
]  # fmt: skip

FIRST = "give tensors with the batch first; predict can take anything else from its own scope"


def plain_optimizer(optimizer: Any) -> optim.Optimizer:
    """The torch optimizer inside a wrapper (accelerate, Lightning): its hooks and states are what counts.

    Raises:
        ValueError: it is no torch optimizer.
    """
    inside = optimizer
    while isinstance(getattr(inside, "optimizer", None), optim.Optimizer):
        inside = inside.optimizer
    if not isinstance(inside, optim.Optimizer):
        raise ValueError(
            f"optimizer: a {type(optimizer).__name__} is no torch.optim.Optimizer and holds none as .optimizer; give "
            "the torch optimizer of the loop"
        )
    return inside


def check_optimizer(model: nn.Module, optimizer: optim.Optimizer) -> None:
    """Every parameter that requires a gradient must be the optimizer's.

    Raises:
        ValueError: one is not, so it would never train.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trainable = [(name, id(p)) for name, p in model.named_parameters() if p.requires_grad]
    missing = [name for name, key in trainable if key not in held]
    if missing and len(missing) == len(trainable):
        raise ValueError(
            "optimizer: holds none of the model's trainable parameters: it was made for another model, or before this "
            "one was moved, wrapped or sharded; make it from model.parameters() after that"
        )
    if missing:
        raise ValueError(
            f"optimizer: lacks {len(missing)} of {len(trainable)} trainable parameters, which would never train: "
            f"{shortened(missing, 3)}; add them, or set requires_grad_(False) on them"
        )


def check_draws(probe: Sequence[Draw]) -> None:
    """The probe's draws must be what scores can take apart.

    Raises:
        ValueError: tau outside of 0..1 or not one number a sample; a condition that is no tensor with the batch first.
    """
    for place, draw in enumerate(probe):
        size, named = draw.size, f"probe[{place}]"
        if draw.tau.shape != (size,):
            raise ValueError(f"{named}.tau has shape {list(draw.tau.shape)} for {size} samples: give one time a sample")
        low, high = float(draw.tau.min()), float(draw.tau.max())
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"{named}.tau is in [{low:.4g}, {high:.4g}], but must be a time in 0..1: divide timesteps by the noise "
                "scheduler's num_train_timesteps, and multiply in predict"
            )
        for name, value in draw.condition.items():
            if not isinstance(value, Tensor):
                raise ValueError(f"{named}.condition[{name!r}] is of type {type(value).__name__}: {FIRST}")
            if value.dim() == 0 or len(value) != size:
                raise ValueError(
                    f"{named}.condition[{name!r}] has shape {list(value.shape)} for {size} samples: {FIRST}"
                )


def checked_prediction(prediction: Any, target: Tensor, *, shape: bool = True) -> Tensor:
    """A prediction that has the shape of its target, so that their difference does not broadcast.

    Raises:
        ValueError: it is no tensor, or has another shape.
    """
    if not isinstance(prediction, Tensor):
        field = " (its .sample)" if hasattr(prediction, "sample") else " (the first)" if prediction else ""
        raise ValueError(f"predict gave a {type(prediction).__name__}: return the predicted tensor itself{field}")
    given, wanted = list(prediction.shape), list(target.shape)
    if not shape or given == wanted:
        return prediction
    channels = [axis for axis in range(min(len(given), len(wanted))) if given[axis] != wanted[axis]]
    if len(given) == len(wanted) and len(channels) == 1 and given[channels[0]] == 2 * wanted[channels[0]]:
        axis = channels[0]
        raise ValueError(
            f"predict gave shape {given}, twice the target's {wanted}: it predicts a variance, too (learned sigma); "
            f"return the first half, prediction.chunk(2, {axis})[0]"
        )
    raise ValueError(f"predict gave shape {given}, but draw.target has {wanted}: both must be of one shape")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without compiled code; each module's own mode is restored at the end."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        # A compiled model would compile anew for each swapped forward of a block.
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def usable_blocks(
    model: nn.Module,
    blocks: str | Sequence[str] | Blocks | None,
    run: Callable[[], Any] | None,
    ranking: Ranking | None = None,
) -> tuple[Blocks, set[str]]:
    """The blocks that have something to train and that the model calls, and the names of those left out.

    Blocks with nothing to train are left out with a warning, and so are guessed blocks that `run` never calls. Those of
    a given ranking stay, with a warning, where they have nothing to train.

    Args:
        run: calls the model once; None where there is no draw to do so.

    Raises:
        ValueError: a block that was named is never called; no block is left.
    """
    found = blocks if isinstance(blocks, Blocks) else discover_blocks(model, blocks)
    fixed = [block.name for block in found if not any(p.requires_grad for p in block.parameters())]
    if len(fixed) == len(found):
        raise ValueError(
            f"blocks: nothing in them requires a gradient ({shortened(fixed, 3)}); set requires_grad_(True), or add "
            "adapters to them before attach"
        )
    if fixed:
        done = "stay in the given ranking" if ranking else "are left out"
        warnings.warn(f"blocks without a parameter that requires a gradient {done}: {shortened(fixed)}", stacklevel=3)
        fixed = [] if ranking else fixed
    found = _without(found, fixed)
    if run is None:
        return found, set(fixed)
    with Skipper(found) as skipper:
        _run_once(model, run)
    uncalled = skipper.uncalled
    if len(uncalled) == len(found) or (uncalled and blocks is not None):
        raise ValueError(
            f"blocks: predict never calls the forward of {shortened(uncalled, 3)}, so they can't be ranked or trained; "
            "name the modules that it calls (blocks=), or call the attached model in predict"
        )
    if uncalled:
        warnings.warn(f"blocks that predict never calls are left out: {shortened(uncalled)}", stacklevel=3)
    return _without(found, uncalled), {*fixed, *uncalled}


def _run_once(model: nn.Module, run: Callable[[], Any]) -> None:
    """Call the model; in one process on the CPU with a graph whose tensors are dropped, to see whether it can train.

    Raises:
        ValueError: it has no backward there, as with FlexAttention.
    """
    grouped = dist.is_available() and dist.is_initialized()
    if not grouped and all(p.device.type == "cpu" for p in model.parameters()):
        dropped = torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda kept: kept)
        try:
            with torch.enable_grad(), dropped:
                run()
            return
        except RuntimeError as error:
            if "FlexAttention" in str(error):
                raise ValueError(
                    "model: its FlexAttention has no backward on the CPU, so it can't train there; move the model to a "
                    "GPU, or use another attention"
                ) from error
            # A probe of inference tensors, for one, has no graph, but can be predicted: see whether the model runs.
    with torch.no_grad():
        run()


def _without(blocks: Blocks, names: Sequence[str]) -> Blocks:
    if not names:
        return blocks
    return Blocks(
        (block for block in blocks if block.name not in names),
        role=blocks.role,
        adapters={name: adapter for name, adapter in blocks.adapters.items() if name not in names},
    )
