"""Which models `attach` has changed, so that a second `attach` starts from the user's own flags."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from entprog.core.freeze import Freezer
from entprog.core.sharded import reshard, sharded_modules

__all__ = ["release_former", "remember"]


@dataclass(frozen=True)
class _Former:
    """What an attach has left on a model; holds no reference to the model, so that it can be freed.

    Attributes:
        frozen: names of the parameters without gradient as the method last left them; it changes them in place.
    """

    trainable: frozenset[str]
    frozen: set[str]
    freezer: "weakref.ref[Freezer]"
    undo: Callable[[], None]


_FORMER: "weakref.WeakKeyDictionary[nn.Module, _Former]" = weakref.WeakKeyDictionary()


def remember(model: nn.Module, trainable: frozenset[str], freezer: Freezer, undo: Callable[[], None]) -> None:
    """Note an attach; `undo` takes off what it put on the blocks, and may be called twice."""
    freezer.at_release.append(undo)
    _FORMER[model] = _Former(trainable, freezer.frozen, weakref.ref(freezer), undo)


def release_former(model: nn.Module) -> None:
    """Release the method of an earlier attach of the model, of a part of it or of what wraps it.

    Flags that were changed by hand since then stay as they are.
    """
    own = set(model.modules())
    for known, former in list(_FORMER.items()):
        if known not in own and model not in set(known.modules()):
            continue
        reshard(sharded_modules(known))
        flags = {name: p.requires_grad for name, p in known.named_parameters()}
        frozen = set(former.frozen)
        freezer = former.freezer()
        if freezer is not None:
            freezer.release()
        untouched = {name for name, flag in flags.items() if not flag} == frozen
        for name, parameter in known.named_parameters():
            parameter.requires_grad_(name in former.trainable if untouched else flags[name])
        del _FORMER[known]
        former.undo()
