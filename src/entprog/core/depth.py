"""What training a block costs by its place and size: the backward runs down to the lowest active block."""

import warnings
from typing import Any

import torch

from entprog.core.blocks import Blocks
from entprog.core.skip import Skipper
from entprog.core.types import Draw, Task

__all__ = ["block_costs"]


def block_costs(task: Task, blocks: Blocks, draw: Draw) -> dict[str, dict[str, Any]]:
    """Measure by one forward where each block stands.

    Returns:
        block name -> `lowest_depth`, its place in the order of first execution from 0 (where the backward
        ends when it is the lowest active block); `parameters`, their count; `bytes` of these parameters.
        Blocks that the forward never calls come last, with a warning.
    """
    with torch.no_grad(), Skipper(blocks) as skipper:
        task.predict(draw)
    uncalled = [name for name in blocks.names if name not in skipper.order]
    if uncalled:
        warnings.warn(f"blocks that the forward never calls: {', '.join(uncalled)}", stacklevel=2)
    place = {name: i for i, name in enumerate([*skipper.order, *uncalled])}
    return {
        block.name: {
            "lowest_depth": place[block.name],
            "parameters": sum(p.numel() for p in block.parameters()),
            "bytes": sum(p.numel() * p.element_size() for p in block.parameters()),
        }
        for block in blocks
    }
