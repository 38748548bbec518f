"""The output of the frozen prefix of a pretrained network, to start a forward pass there.

The output of the block below the lowest active one is all that later blocks need in a single stack. Everything outside
the blocks (embeddings, time, text) runs again: it is cheap, and blocks read it.

Shape legend: B samples, N tokens, D width.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from entprog.core.blocks import Block, Blocks
from entprog.core.swap import swapped_forward

__all__ = ["Prefix", "lowest_active"]


def lowest_active(network: nn.Module, blocks: Blocks, head: tuple[str, ...]) -> int:
    """Place of the lowest active block among `blocks` (in execution order); 0 where there is no frozen prefix.

    Args:
        head: beginnings of the names of output-side parameters; any other that trains outside the blocks is read
            before them.
    """
    inside = {id(p) for block in blocks for p in block.parameters()}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and id(parameter) not in inside and not name.startswith(head):
            return 0
    active = (i for i, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters()))
    return next(active, 0)


class _ReachedError(Exception):
    """The forward pass has come to the lowest active block."""


class Prefix:
    """Computes what the frozen prefix returns, and runs the network from there."""

    def __init__(self) -> None:
        self._forms: dict[str, tuple[int, ...]] = {}

    def output(self, blocks: Blocks, place: int, run: Callable[[], Any]) -> Tensor | None:
        """What the block below `place` returns in `run`, as one tensor; None where its outputs can't be joined.

        Several outputs ([B, N, D] each, such as video and text tokens) are joined along the tokens.
        """
        with ExitStack() as stack:
            for i in range(place):
                stack.enter_context(swapped_forward(blocks[i].module, self._noting(blocks[i], last=i == place - 1)))
            found: list[Tensor] = []
            try:
                run()
            except _ReachedError as reached:
                found = list(reached.args)
        if len(found) == 1:
            return found[0]
        return torch.cat(found, 1) if all(part.dim() == 3 for part in found) else None

    def _noting(self, block: Block, *, last: bool) -> Callable[..., Any]:
        """The block's forward, which notes the token counts of its outputs; the last one ends the pass."""
        original = block.module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            alone = isinstance(output, Tensor)
            self._forms[block.name] = () if alone else tuple(part.shape[1] for part in output)
            if last:
                raise _ReachedError(*([output] if alone else output))
            return output

        return forward

    @contextmanager
    def entered(self, blocks: Blocks, place: int, hidden: Tensor) -> Iterator[None]:
        """Blocks below `place` do not run: each returns `hidden`, which `output` gave, in its own form."""
        with ExitStack() as stack:
            final = self._forms[blocks[place - 1].name]
            for i in range(place):
                parts = self._parts(blocks[i], final, hidden)
                stack.enter_context(swapped_forward(blocks[i].module, lambda *args, parts=parts, **kwargs: parts))
            yield

    def _parts(self, block: Block, final: tuple[int, ...], hidden: Tensor) -> Tensor | tuple[Tensor, ...]:
        """`hidden` as a block returns it: only that of the last block counts, the others need its shapes."""
        form = self._forms[block.name]
        if not form:
            return hidden if not final else hidden[:, : max(final)]
        parts = list(hidden.split(final or [hidden.shape[1]], dim=1))
        if form == final:
            return tuple(parts)
        by_length = {part.shape[1]: part for part in parts}
        return tuple(by_length[length] for length in form)
