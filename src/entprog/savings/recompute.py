"""Gradient checkpointing of exactly those block calls that a backward will run through."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from entprog.core.blocks import Block, Blocks
from entprog.core.swap import swapped_forward

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
            stack.enter_context(swapped_forward(block.module, _saving(block)))
        yield


def recompute(blocks: Blocks) -> None:
    """As `recomputed`, permanently: for a loop that has no place to end a context."""
    for block in blocks:
        block.module.__dict__["forward"] = _saving(block)


def _saving(block: Block) -> Callable[..., Any]:
    original = block.module.forward

    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not _leaves_a_graph(block.module, args, kwargs):
            return original(*args, **kwargs)
        return checkpoint(original, *args, use_reentrant=False, **kwargs)

    return forward


def _leaves_a_graph(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if not torch.is_grad_enabled():
        return False
    needing = (leaf.requires_grad for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
    return any(needing) or any(parameter.requires_grad for parameter in module.parameters())
