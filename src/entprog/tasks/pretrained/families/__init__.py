"""One file a model family; `family_of` finds the family of a network by its class."""

import importlib
import pkgutil
import re
from difflib import get_close_matches

from entprog.tasks.pretrained.families.base import Configs, Family

__all__ = ["families", "family_class", "family_of"]


def families() -> dict[str, type[Family]]:
    """Every class of networks that a family of this folder calls, by diffusers' name."""
    found: dict[str, type[Family]] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name != "base" and not module.name.startswith("_"):
            loaded = importlib.import_module(f"{__name__}.{module.name}")
            for name in loaded.__all__:
                family: type[Family] = getattr(loaded, name)
                found |= dict.fromkeys(family.networks, family)
    return dict(sorted(found.items()))


def family_class(own: str, field: str = "model.family") -> type[Family]:
    """A family of the user's, "package.module:Class".

    Args:
        field: how error messages call it.

    Raises:
        ValueError: not of that form, not to be imported, or no family.
    """
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", own):
        raise ValueError(f'{field} = {own!r}: expected "package.module:Class", or nothing for those known')
    path, _, name = own.partition(":")
    try:
        found = getattr(importlib.import_module(path), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{field} = {own!r}: can't be imported ({error})") from error
    if not (isinstance(found, type) and issubclass(found, Family)):
        raise ValueError(f"{field} = {own!r}: no subclass of entprog.tasks.pretrained.families.base.Family")
    return found


def family_of(configs: Configs, own: str = "") -> Family:
    """The family of a network.

    Args:
        own: `model.family`, a family of the user's as "package.module:Class"; empty: by `_class_name`.

    Raises:
        ValueError: no family calls this class; the message lists those known and how to add one.
    """
    if own:
        return family_class(own)(configs)
    known, name = families(), str(configs.network.get("_class_name", ""))
    if name in known:
        return known[name](configs)
    near = get_close_matches(name, known, 1)
    raise ValueError(
        f"model.pretrained: no family calls {name or 'a network without _class_name'!r}"
        f"{f'; did you mean {near[0]}?' if near else ''}; known: {', '.join(known)}. "
        'Yours is one file: a subclass of Family, named by model.family = "package.module:Class" (docs/models.md)'
    )
