"""What training a block costs by its place and size: the backward runs down to the lowest active block."""

import warnings
from typing import Any

import torch

from entprog.core.blocks import Blocks
from entprog.core.skip import Skipper
from entprog.core.types import Draw, Predictor

__all__ = ["block_costs", "depth_order"]


def block_costs(task: Predictor, blocks: Blocks, draw: Draw) -> dict[str, dict[str, Any]]:
    """Measure the position of each block by one forward pass.

    Returns:
        block name -> `lowest_depth`, its index in the order of execution (where the backward ends when it
        is the lowest active block); `parameters`, their count; `bytes` of these parameters. The index is that of
        the denoising calls; blocks with reference calls only come before them, and blocks that the forward
        never calls come last, with a warning.
    """
    place = {name: i for i, name in enumerate(depth_order(task, blocks, draw))}
    return {
        block.name: {
            "lowest_depth": place[block.name],
            "parameters": sum(p.numel() for p in block.parameters()),
            "bytes": sum(p.numel() * p.element_size() for p in block.parameters()),
        }
        for block in blocks
    }


def depth_order(task: Predictor, blocks: Blocks, draw: Draw) -> tuple[str, ...]:
    """All blocks in the order of the forward pass, the lowest first; runs one forward, without gradient."""
    with torch.no_grad(), Skipper(blocks) as skipper:
        task.predict(draw)
    if skipper.uncalled:
        warnings.warn(f"blocks that the forward never calls: {', '.join(skipper.uncalled)}", stacklevel=3)
    denoising = [name for name, role in skipper.order if role == "denoising"]
    reference = [name for name, role in skipper.order if role == "reference" and name not in denoising]
    return (*reference, *denoising, *skipper.uncalled)
