"""Replace the `forward` of one module instance, and restore it."""

import copyreg
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

from torch import nn

__all__ = ["restore_class", "swap_class", "swapped_forward", "swapped_with"]

Run = Callable[[Callable[..., Any], nn.Module, tuple[Any, ...], dict[str, Any]], Any]
"""Called for a forward, with the module's own forward, the module and the arguments."""


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


def swap_class(module: nn.Module, run: Run) -> None:
    """Let `run` be called for the module's forward, without a closure on the instance.

    The module gets a subclass of its own class, so copies run their own weights. Copies (`copy.deepcopy`) and saved
    files (`torch.save`) of the model are of the plain class again, and loadable without this package.
    """
    module.__class__ = _class_with(type(module), run)  # type: ignore[arg-type]


def swapped_with(module: nn.Module, run: Run) -> bool:
    """Whether the last `swap_class` of the module was with `run`."""
    return getattr(type(module), "entprog_run", None) is run


def restore_class(module: nn.Module) -> None:
    """Undo the last `swap_class` of the module."""
    module.__class__ = type(module).entprog_before  # type: ignore[attr-defined]


@cache
def _class_with(kind: type[Any], run: Run) -> type[nn.Module]:
    """A class that differs from `kind` in its forward only; one for all modules of a class."""

    class Swapped(kind):
        entprog_before, entprog_plain = kind, getattr(kind, "entprog_plain", kind)
        entprog_run = staticmethod(run)

        @wraps(kind.forward)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return run(super().forward, self, args, kwargs)

        def __reduce_ex__(self, protocol: Any) -> Any:
            """A copy or a pickle is of the plain class."""
            state = super().__reduce_ex__(2)[2]
            return copyreg._reconstructor, (type(self).entprog_plain, object, None), state  # type: ignore[attr-defined]

    Swapped.__name__, Swapped.__qualname__ = kind.__name__, kind.__qualname__
    Swapped.__module__ = kind.__module__
    return Swapped
