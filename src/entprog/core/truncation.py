"""Which parameters outside of blocks extend the backward below the lowest active block."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from entprog.core.blocks import Block, Blocks, outside_parameters
from entprog.core.swap import swapped_forward

__all__ = ["input_parameters"]


def input_parameters(model: nn.Module, blocks: Blocks, run: Callable[[], Any]) -> tuple[str, ...]:
    """Parameters outside of blocks that the model reads before its last block call has ended.

    Autograd goes down to the lowest parameter that needs a gradient. One on the input side (a patch, time or pose
    embedding) extends it through every block; one that is read after the last block (the head) costs nothing.

    Args:
        run: calls the model once; no gradient is kept.

    Returns:
        Full names in the model's order. Parameters that the forward never reads are left out.
    """
    watch = _FirstReads(model, blocks)
    with ExitStack() as stack, torch.no_grad():
        for block in blocks:
            stack.enter_context(watch.counted(block))
        with watch:
            run()
    return tuple(name for name, ended in watch.first.items() if ended is not None and ended < watch.ended)


class _FirstReads(TorchFunctionMode):
    """For each parameter outside of blocks, how many block calls had ended when an operation first read it."""

    def __init__(self, model: nn.Module, blocks: Blocks) -> None:
        super().__init__()
        outside = outside_parameters(model, blocks)
        self.names = {id(parameter): name for name, parameter in outside.items()}
        self.first: dict[str, int | None] = dict.fromkeys(outside)
        self.ended = 0

    def counted(self, block: Block) -> AbstractContextManager[None]:
        """Count the calls of `block` as they end."""
        original = block.module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            finally:
                self.ended += 1

        return swapped_forward(block.module, forward)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # Reading metadata (dtype, device, shape) does not count: only operations that return a tensor do.
        if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(result)):
            for value in tree_leaves((args, kwargs or {})):
                name = self.names.get(id(value))
                if name is not None and self.first[name] is None:
                    self.first[name] = self.ended
        return result
