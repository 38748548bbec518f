"""A crash of torch's group norm on the CPU, worked round."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from entprog.core.swap import restore_class, swap_class, swapped_with

__all__ = ["keep_group_norms_from_crashing"]


def keep_group_norms_from_crashing(model: nn.Module) -> Callable[[], None]:
    """Give group norms on the CPU their input in the usual memory format, until the returned function is called.

    In torch 2.13 their backward ends the process (a segmentation fault) where the input is in channels_last and only
    the weights need a gradient, as after an attention block of a U-Net that is frozen. On a GPU nothing changes.
    """
    changed = [
        module for module in model.modules()
        if isinstance(module, nn.GroupNorm) and module.affine and module.weight.device.type == "cpu"
        and "forward" not in module.__dict__ and not swapped_with(module, _contiguous)
    ]  # fmt: skip
    for module in changed:
        swap_class(module, _contiguous)

    def undo() -> None:
        for module in changed:
            if swapped_with(module, _contiguous):
                restore_class(module)

    return undo


def _contiguous(forward: Callable[[Tensor], Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
    given = [value.contiguous() for value in (*args, *kwargs.values())]
    return forward(*given)
