"""Put another `forward` on one module instance, and take it away again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["swapped_forward"]


@contextmanager
def swapped_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Call `forward` in place of `module.forward` within the context.

    The swap lives in the instance, so other instances of the class, hooks and `state_dict` see nothing of it.
    What stood there before (somebody else's swap included) comes back at the end, on exceptions, too.
    """
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before
