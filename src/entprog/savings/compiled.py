"""torch.compile for each block separately, with a limited and counted number of graphs."""

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch

from entprog.core.blocks import Block, Blocks
from entprog.core.swap import swapped_forward

__all__ = ["Compiled", "compiled", "missing_compiler"]

LIMIT = 64
"""Graphs that one class of block may have: passes x (frozen, active, above) x sizes; further ones run uncompiled."""


@dataclass
class Compiled:
    """Result of the compilation: `graphs` compiled so far, and why it was stopped, if it was."""

    graphs: int = 0
    failed: str = ""


@contextmanager
def compiled(blocks: Blocks, *, backend: str = "inductor", limit: int = LIMIT) -> Iterator[Compiled]:
    """Within the context, each block's forward runs compiled; blocks of one class share their graphs.

    A graph is compiled for each combination of shapes, of pass (reference or denoising), and of what needs a
    gradient (a frozen block below the lowest active one, above it, an active block), so each change of the
    active set may compile; after `limit` graphs of one class, new combinations run uncompiled. Shapes are
    static. Under a dispatch mode, as the meter is, blocks run uncompiled.

    Not bit-identical: fused operations round differently. Where the compiler is missing or fails, one warning says
    so and everything runs uncompiled. Enter `recomputed` and `Skipper` inside this context.
    """
    state = Compiled()
    reason = missing_compiler(next(blocks[0].parameters()).device) if backend == "inductor" else ""
    if reason:
        _give_up(state, reason)
        yield state
        return
    # Slow to import, and few runs compile.
    import torch._dynamo as dynamo
    from torch._dynamo.backends.registry import lookup_backend

    make = lookup_backend(backend)

    def counting(graph: Any, inputs: Any) -> Any:
        state.graphs += 1
        return make(graph, inputs)

    with ExitStack() as stack:
        stack.enter_context(dynamo.config.patch(recompile_limit=limit, accumulated_recompile_limit=4 * limit))
        for block in blocks:
            stack.enter_context(swapped_forward(block.module, _compiling(block, counting, state)))
        yield state


def missing_compiler(device: torch.device) -> str:
    """Why torch's own compiler can't work for this device; empty where it can."""
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "triton is not installed; pip install triton"
    names = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name]
    if any(shutil.which(name) for name in names):
        return ""
    return "no C++ compiler found; install g++, or name one in the environment variable CXX"


def _compiling(block: Block, backend: Callable[..., Any], state: Compiled) -> Callable[..., Any]:
    from torch._dynamo.exc import BackendCompilerFailed

    original = block.module.forward
    fast = torch.compile(original, backend=backend, dynamic=False)

    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        # A meter must see the operations, and fake tensors can't be compiled.
        if state.failed or torch._C._len_torch_dispatch_stack():
            return original(*args, **kwargs)
        try:
            return fast(*args, **kwargs)
        except BackendCompilerFailed as error:
            reason = error.inner_exception
            _give_up(state, f"{type(reason).__name__}: {reason}".split("\n")[0])
            return original(*args, **kwargs)

    return forward


def _give_up(state: Compiled, reason: str) -> None:
    state.failed = reason
    warnings.warn(f"blocks run uncompiled: {reason}", stacklevel=3)
