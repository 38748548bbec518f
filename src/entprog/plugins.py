"""Find an implementation by name: a plugin is registered by its file name."""

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

__all__ = [
    "Description",
    "Option",
    "declared",
    "describe",
    "find",
    "lacking",
    "load",
    "names",
    "not_installed",
    "problems",
    "ranked",
]

CONTRACTS = ("animator", "base", "config_checks", "data_record", "finished_run", "loading")
"""Modules of a kind's folder that are no plugins: its contracts, what it asks or records, what opens it, what
reads its files."""

FOLDERS = {
    "score": "scores",
    "schedule": "schedules",
    "method": "methods",
    "optimizer": "optimizers",
    "metric": "metrics",
    "codec": "codecs",
    "pose": "poses",
    "task": "tasks",
}

MEMBERS = {
    "score": ("score",),
    "schedule": ("stages", "search_steps", "estimator", "candidates", "choose", "shapes"),
    "method": ("bind", "for_phase", "groups", "workloads", "shapes"),  # MethodPlugin has all but the first
    "optimizer": ("build", "states"),
    "metric": ("update", "compute"),
    "codec": ("open",),
    "pose": ("open",),
    "task": ("build",),
}
"""Members that a class of a kind must have (core/types.py)."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a plugin: its type as a user reads it, and its default unless it is `required`."""

    name: str
    type: str
    default: Any
    required: bool


@dataclass(frozen=True, slots=True)
class Description:
    """Description of a plugin; `summary` is the first line of its docstring."""

    kind: str
    name: str
    summary: str
    options: tuple[Option, ...]


def names(kind: str) -> list[str]:
    """The names of a kind that come with entprog, sorted; imports none of them."""
    return list(_names(kind))


def _names(kind: str) -> tuple[str, ...]:
    if kind not in FOLDERS:
        raise ValueError(f"no plugin kind {kind!r}{_nearest(kind, FOLDERS)}")
    spec = importlib.util.find_spec(f"entprog.{FOLDERS[kind]}")
    return _listed(tuple(spec.submodule_search_locations or ())) if spec is not None else ()


@cache
def _listed(folders: tuple[str, ...]) -> tuple[str, ...]:
    """The plugins in folders, read from disk once a process: checking one configuration asks dozens of times."""
    found = [module.name for module in pkgutil.iter_modules(folders)]
    return tuple(sorted(name for name in found if not name.startswith("_") and name not in CONTRACTS))


def find(kind: str, name: str) -> type[Any]:
    """The class behind a name: the one public class of `entprog.<folder>.<name>`, or "package.module:Class".

    Raises:
        ValueError: unknown kind or name (the nearest is named), or not a dataclass.
    """
    known = _names(kind)
    if name.replace("-", "_") in known:  # openpose-json is openpose_json
        name = name.replace("-", "_")
    if ":" in name and not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        raise ValueError('expected a name, or your own as "package.module:Class"')
    if ":" in name:
        path, _, attribute = name.partition(":")
    elif name in known:
        path, attribute = f"entprog.{FOLDERS[kind]}.{name}", ""
    else:
        raise ValueError(f"no {kind} {name!r}{_nearest(name, known)}; your own is named 'package.module:Class'")
    module = _import(kind, name, path)
    if not attribute:
        public = list(getattr(module, "__all__", ()))
        if len(public) != 1:
            raise ValueError(f"{kind} {name!r}: {path}.__all__ must name the one public class, but is {public}")
        attribute = public[0]
    if not hasattr(module, attribute):
        classes = [n for n, value in vars(module).items() if inspect.isclass(value)]
        raise ValueError(f"{kind} {name!r}: {path} has no {attribute!r}{_nearest(attribute, classes)}")
    found = getattr(module, attribute)
    if not (inspect.isclass(found) and dataclasses.is_dataclass(found)):
        raise ValueError(f"{kind} {name!r}: {attribute} is not a dataclass, whose fields would be its options")
    return found


def load(kind: str, name: str, /, **options: Any) -> Any:
    """Build a plugin with its options; lists become tuples, integers floats, text paths, as the fields' types need.

    Raises:
        ValueError: unknown kind, name or option, or a value of the wrong type; the message lists every wrong option.
    """
    cls = find(kind, name)
    values, wrong = _checked(cls, kind, name, options)
    if wrong:
        raise ValueError("\n".join(wrong))
    return cls(**values)


def problems(kind: str, name: str, options: Mapping[str, Any]) -> list[str]:
    """Every error that `load` would raise, one line each; an empty list if none."""
    try:
        cls = find(kind, name)
    except ValueError as error:
        return [str(error)]
    values, wrong = _checked(cls, kind, name, options)
    if wrong:
        return wrong
    try:
        cls(**values)
    except ValueError as error:
        return [f"{kind} {name!r}: {error}"]
    return []


def describe(kind: str, name: str) -> Description:
    """Options with their defaults, and the first line of the docstring."""
    cls = find(kind, name)
    options = tuple(Option(f.name, _written(f.type), _default(f), _required(f)) for f in _options(cls))
    documented = inspect.getdoc(cls) if "__doc__" in vars(cls) else None
    return Description(kind, name, (documented or "").split("\n")[0], options)


def lacking(kind: str, found: type[Any]) -> list[str]:
    """Members of its kind that a class lacks."""
    fields = {field.name for field in dataclasses.fields(found)}
    return [member for member in MEMBERS.get(kind, ()) if member not in fields and not hasattr(found, member)]


def declared(kind: str, name: str, attribute: str, otherwise: Any) -> Any:
    """An optional class attribute of a plugin, or `otherwise` where it has none.

    Any plugin may have `packages` (module that it needs -> how to install it); a task the class methods
    `problems(config)`, `missing(config)` and `without_effect(config, given)`, which yield findings (config/checks.py);
    a method the first and the last of these, `ranked = False` and `every_block = True` (no block ever rests); an
    optimizer the last of these and `reads` (keys `train.adam_*` that change something); a metric `at_least` ("clips" or
    "frames" -> how many it needs); a pose estimator the method `missing()` (what it cannot be opened without).

    Raises:
        ValueError: as for `find`.
    """
    return getattr(find(kind, name), attribute, otherwise)


def not_installed(needed: Mapping[str, str]) -> str:
    """Which of some packages are missing, and how to install them; empty where all are there."""
    absent = [module for module in needed if not _is_there(module)]
    install = "; ".join(dict.fromkeys(needed[module] for module in absent))
    return f"{' and '.join(absent)} not installed; {install}" if absent else ""


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that a dotted name is in
        return False


def ranked(method: str) -> bool:
    """Whether a method needs a ranking and a schedule; one that does not says `ranked = False` in its class."""
    return bool(declared("method", method, "ranked", True))


def _checked(cls: type[Any], kind: str, name: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Options converted to the types of the fields, and what is wrong with them."""
    fields = {f.name: f for f in _options(cls)}
    hints = _hints(cls)  # type: ignore[arg-type]  # mypy holds no class for hashable
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for option, value in options.items():
        if option not in fields:
            wrong.append(f"{kind} {name!r} has no option {option!r}{_nearest(option, fields)}")
            continue
        try:
            values[option] = _convert(value, hints[option])
        except TypeError:
            wanted = _written(hints[option])
            wrong.append(f"{kind} {name!r}: {option} = {value!r} is {_kind_of(value)}; it must be {wanted}")
    missing = [f for f in fields.values() if _required(f) and f.name not in options]
    wrong += [f"{kind} {name!r} needs the option {f.name!r} ({_written(hints[f.name])})" for f in missing]
    return values, wrong


@lru_cache(maxsize=256)
def _hints(cls: type[Any]) -> Mapping[str, Any]:
    """The types of a class's fields, as objects: resolving their names takes most of a check's time."""
    return typing.get_type_hints(cls)


def _convert(value: Any, hint: Any) -> Any:
    """The value converted to the annotation.

    Raises:
        TypeError: it doesn't fit.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Annotated:
        return _convert(value, arguments[0])
    if origin is typing.Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise TypeError
    if origin in (typing.Union, types.UnionType):
        return _convert_to_one_of(value, arguments)
    if origin is tuple or hint is tuple:
        return _convert_to_tuple(value, arguments)
    if origin is list and isinstance(value, list | tuple):
        return [_convert(item, arguments[0]) for item in value]
    if origin is not None and isinstance(origin, type) and isinstance(value, origin):
        return value
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and issubclass(hint, Path) and isinstance(value, str):
        return hint(value)
    # True is an int in Python, but is not accepted as a number.
    if isinstance(hint, type) and isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise TypeError


def _convert_to_one_of(value: Any, hints: Iterable[Any]) -> Any:
    hints = list(hints)
    # An exact match first, so that the 1 of `int | float` stays an int.
    for hint in sorted(hints, key=lambda hint: hint is not type(value)):
        try:
            return _convert(value, hint)
        except TypeError:
            continue
    raise TypeError


def _convert_to_tuple(value: Any, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    if not hints:
        return tuple(value)
    if len(hints) == 2 and hints[1] is Ellipsis:
        return tuple(_convert(item, hints[0]) for item in value)
    if len(hints) != len(value):
        raise TypeError
    return tuple(_convert(item, hint) for item, hint in zip(value, hints, strict=True))


def _import(kind: str, name: str, path: str) -> types.ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        # A module that exists and lacks one of its own imports: raise that error unchanged.
        if error.name is None or not (path == error.name or path.startswith(error.name + ".")):
            raise
        raise ValueError(f"{kind} {name!r}: there is no module {error.name!r} on the import path") from error


def _options(cls: type[Any]) -> list["dataclasses.Field[Any]"]:
    return [f for f in dataclasses.fields(cls) if f.init]


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _written(hint: Any) -> str:
    """An annotation as a user reads it: choices as 'a' | 'b', types by name."""
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(repr(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(_written(part) for part in typing.get_args(hint))
    if hint is type(None):
        return "None"
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint)


def _kind_of(value: Any) -> str:
    return f"a {type(value).__name__}"


def _nearest(name: str, known: Iterable[str]) -> str:
    options = list(known)
    near = get_close_matches(name, options, 1)
    listed = f"choose from {', '.join(options)}" if options else "there are none"
    return (f"; did you mean {near[0]!r}?" if near else "") + f" ({listed})"
