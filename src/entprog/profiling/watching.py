"""How a meter gets to see what runs: every operation, every gradient as it is computed, every storage resized."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from entprog.profiling.operations import FORMULAS


class EveryOperation(TorchDispatchMode):
    """Calls `see(operation, args, kwargs, out)` after every operation that runs inside, the backward pass included."""

    supports_higher_order_operators = True

    def __init__(self, see: Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]) -> None:
        super().__init__()
        self.see = see

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if types and any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # sharded and quantised tensors first become operations on what they hold
        operation = getattr(func, "_overloadpacket", func)
        if torch.is_inference_mode_enabled() and operation not in FORMULAS and hasattr(func, "decompose"):
            with self:  # only here do composite operations arrive in one piece
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self.see(operation, args, kwargs, out)
        return out


def first_to_see_gradients(parameter: nn.Parameter, hook: Callable[[Tensor], None]) -> Any:
    """Register a hook that runs before all others: one that steps in the backward frees the gradient."""
    handle = parameter.register_post_accumulate_grad_hook(hook)
    parameter._post_accumulate_grad_hooks.move_to_end(handle.id, last=False)  # type: ignore[attr-defined]
    return handle


def watch_resizing(seen: Callable[[torch.UntypedStorage], None]) -> Callable[[], None]:
    """Tell `seen` of storages that are resized by themselves (FSDP does); returns what ends it."""
    own = torch.UntypedStorage.resize_

    def resize_(storage: torch.UntypedStorage, size: int) -> Any:
        out = own(storage, size)
        seen(storage)
        return out

    torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign, assignment]

    def restore() -> None:
        torch.UntypedStorage.resize_ = own  # type: ignore[method-assign]

    return restore
