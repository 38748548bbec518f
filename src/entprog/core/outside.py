"""Find parameters of a block that are used outside of it."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from entprog.core.blocks import Block, Blocks, shortened
from entprog.core.swap import swapped_forward

__all__ = ["used_outside"]


def used_outside(model: nn.Module, blocks: Blocks, run: Callable[[], Any]) -> tuple[str, ...]:
    """Find parameters of a block that are used outside their block's forward, by running the model once.

    Such a parameter still acts when its block is skipped, and freezing the block freezes that use, too:
    the head of diffusers' DiT, for one, embeds the time with block 0's embedding. Any operation that reads
    the parameter while its block is not executing counts, and so does registration under a second name in the
    model.

    Args:
        run: calls the model once, without gradient.

    Returns:
        Full names of the parameters, in the order of the blocks. A warning lists them, too.
    """
    watch = _OutsideUse(blocks)
    with ExitStack() as stack, torch.no_grad():
        for block in blocks:
            stack.enter_context(watch.entered(block))
        with watch:
            run()
    owner = {id(p): block.name for block in blocks for p in block.parameters()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in owner and not name.startswith(owner[id(parameter)] + "."):
            watch.seen.add(id(parameter))
    names = tuple(name for block in blocks for name, p in block.named_parameters() if id(p) in watch.seen)
    if names:
        warnings.warn(
            f"parameters of blocks are used outside their block: {shortened(names)}; skipping the block "
            "leaves that use in place, and freezing the block freezes it there, too",
            stacklevel=2,
        )
    return names


class _OutsideUse(TorchFunctionMode):
    """Collects the parameters of blocks that an operation reads while their block is not executing."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.owner = {id(p): block.name for block in blocks for p in block.parameters()}
        self.depth = dict.fromkeys(blocks.names, 0)
        self.seen: set[int] = set()

    def entered(self, block: Block) -> AbstractContextManager[None]:
        """Count how deep the execution is inside `block`."""
        original, depth, name = block.module.forward, self.depth, block.name

        def forward(*args: Any, **kwargs: Any) -> Any:
            depth[name] += 1
            try:
                return original(*args, **kwargs)
            finally:
                depth[name] -= 1

        return swapped_forward(block.module, forward)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs or {})):
            name = self.owner.get(id(value))
            # Reading metadata (dtype, device, shape) does not count: only operations that return a tensor do.
            if name is not None and not self.depth[name] and _yields_tensor(func, result):
                self.seen.add(id(value))
        return result


def _yields_tensor(func: Any, result: Any) -> bool:
    if getattr(func, "__self__", None) is torch.Tensor.grad:
        return False
    return any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(result))
