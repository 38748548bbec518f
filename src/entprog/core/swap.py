"""Replace the `forward` of one module instance, and restore it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["swapped_forward"]


@contextmanager
def swapped_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Call `forward` in place of `module.forward` within the context.

    The swap is on the instance, so other instances of the class, hooks and `state_dict` are not affected.
    The previous forward (even if swapped by other code) is restored at the end, also after an exception.
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
