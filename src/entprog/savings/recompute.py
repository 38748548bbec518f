"""Gradient checkpointing of exactly those block calls that a backward will run through."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from entprog.core.blocks import Blocks
from entprog.core.swap import restore_class, swap_class, swapped_forward, swapped_with

__all__ = ["recompute", "recomputed"]


@contextmanager
def recomputed(blocks: Blocks) -> Iterator[None]:
    """Within the context, blocks keep their inputs only and recompute their activations in the backward.

    A call is checkpointed where its output needs a gradient: gradients are enabled, and an argument or a parameter of
    the block needs one. So blocks below the lowest active one run as they are, separately in each pass of a Siamese
    model; they keep no activations. Non-reentrant: inputs need no gradient, and random numbers
    (dropout) and autocast are those of the first run. Gradients are bit-identical to those without.

    The backward may come after the context has ended. Enter a `Skipper` inside this context.
    """
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(swapped_forward(block.module, _saving(block.module)))
        yield


def recompute(blocks: Blocks) -> Callable[[], None]:
    """As `recomputed`, until the returned function is called: for a loop that has no place to end a context.

    Copies (`copy.deepcopy`) and saved files (`torch.save`) of the model are without recomputation (see `swap_class`).
    """
    changed = [block.module for block in blocks if not swapped_with(block.module, _run)]
    for module in changed:
        _recompute_one(module)

    def undo() -> None:
        for module in changed:
            if swapped_with(module, _run):
                restore_class(module)
            elif getattr(module.__dict__.get("forward"), "entprog_original", None) is not None:
                module.__dict__["forward"] = module.__dict__["forward"].entprog_original

    return undo


def _recompute_one(module: nn.Module) -> None:
    if "forward" in module.__dict__:  # replaced by other code: a class's forward would not be called
        original = module.__dict__["forward"]
        module.__dict__["forward"] = _saving(module)
        module.__dict__["forward"].entprog_original = original
        return
    swap_class(module, _run)


def _saving(module: nn.Module) -> Callable[..., Any]:
    original = module.forward

    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return _run(original, module, args, kwargs)

    return forward


def _run(original: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a block's own forward, checkpointed where its output needs a gradient."""
    if not _leaves_a_graph(module, args, kwargs):
        return original(*args, **kwargs)
    if torch.compiler.is_compiling():
        return checkpoint(original, *args, use_reentrant=False, **kwargs)
    given = _versions(args, kwargs)

    @wraps(original)
    def unchanged(*args: Any, **kwargs: Any) -> Any:
        """The second run must see the inputs of the first."""
        if torch._C._current_graph_task_id() != -1 and _versions(args, kwargs) != given:
            raise ValueError(
                f"gradient_checkpointing: an input of a block ({type(module).__name__}) was written in place after its "
                "call began, so its activations can't be recomputed; write x = x + y for x += y there, or turn "
                "gradient_checkpointing off"
            )
        return original(*args, **kwargs)

    return checkpoint(unchanged, *args, use_reentrant=False, **kwargs)


def _versions(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    """How often each tensor was written in place; inference tensors count nothing and can't be written."""
    leaves = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
    return [leaf._version for leaf in leaves if not leaf.is_inference()]


def _leaves_a_graph(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if not torch.is_grad_enabled():
        return False
    needing = (leaf.requires_grad for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
    return any(needing) or any(parameter.requires_grad for parameter in module.parameters())
