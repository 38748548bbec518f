"""What a recipe can say, in words: each key's type, range, default and meaning, read from the schema."""

import dataclasses
import inspect
import re
import textwrap
import tomllib
import typing
from collections.abc import Iterable, Iterator
from datetime import date, time
from difflib import get_close_matches
from functools import cache
from math import isfinite
from typing import Any, Literal

import tomli_w
from pydantic import TypeAdapter, ValidationError

from entprog import plugins
from entprog.config.schema import LARGEST, PUBLISHED, Config, PhaseConfig

ELSEWHERE = {
    "batch_size": "phases.*.batch",
    "train_batch_size": "phases.*.batch",
    "lr": "phases.*.learning_rate",
    "max_train_steps": "phases.*.steps",
    "num_train_epochs": "phases.*.steps",
    "epochs": "phases.*.steps",
    "output": "output_dir",
    "pretrained_model_name_or_path": "model.init",
    "cfg": "sample.guidance_scale",
}
"""What other trainers call a key -> the key here."""


@dataclasses.dataclass(frozen=True, slots=True)
class PluginKey:
    """A key that names a plugin of `kind`, or a list of them; `options` is the dotted key of its options' table."""

    key: str
    kind: str
    options: str


# The keys


def hints(table: type[Any]) -> dict[str, Any]:
    """The keys of a table with their types, in order."""
    own = {field.name for field in dataclasses.fields(table)}
    return {name: kind for name, kind in typing.get_type_hints(table).items() if name in own}


def is_table(kind: Any) -> bool:
    """Whether a key of this type is a table of keys of its own."""
    return dataclasses.is_dataclass(kind)


def kind_of(path: Iterable[str]) -> Any:
    """The type of a key, given as its parts; None where there is no such key. Options have the type `Any`."""
    kind: Any = Config
    for part in path:
        if is_table(kind):
            kind = hints(kind).get(part)
        elif typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
        else:
            return Any if kind is Any else None
    return kind


@cache
def dotted_keys(phases: tuple[str, ...] = ("*",)) -> list[str]:
    """Every dotted key, those of a phase once for each of `phases`."""
    return [f"{table}.{key}" if table else key for table, kind in _tables(phases) for key in _own(kind)]


@cache
def plugin_keys() -> tuple[PluginKey, ...]:
    """The keys that name plugins."""
    about = {dotted: _about(dotted) for dotted in dotted_keys()}
    return tuple(PluginKey(dotted, more["plugin"], more["options"]) for dotted, more in about.items() if more["plugin"])


@cache
def needed_packages() -> dict[str, dict[str, dict[str, str]]]:
    """Dotted key -> value -> packages that this value needs beyond entprog's own: module -> how to install it."""
    return {dotted: packages for dotted in dotted_keys() if (packages := _about(dotted)["packages"])}


def limit(dotted: str) -> str | None:
    """The interval of a key such as "[0, 1)", of a list that of each item; None where any value goes."""
    dotted = _starred(dotted)
    ends = _about(dotted)["limits"] if dotted in dotted_keys() else {}
    if not ends:
        return None
    low = f"[{ends['ge']}" if "ge" in ends else f"({ends['gt']}" if "gt" in ends else "(-inf"
    return f"{low}, " + (f"{ends['le']}]" if "le" in ends else f"{ends['lt']})" if "lt" in ends else "inf)")


def inside(value: float, interval: str) -> bool:
    """Whether a number lies in an interval such as "[0, 1)"."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def in_words(interval: str) -> str:
    """An interval as a sentence has it: "at least 0 and below 1"."""
    low, high = interval[1:-1].split(", ")
    words = f"at least {low}" if interval[0] == "[" else f"above {low}"
    if high == "inf":
        return words
    return f"{words} and {'at most' if interval[-1] == ']' else 'below'} {high}"


def expected(kind: Any) -> str:
    """A type as the reader of an error wants it: "an integer", 'one of "no", "bf16"'."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if typing.get_origin(inner) is Literal:
            return "a list with any of " + expected(inner).removeprefix("one of ")
        return "a list of " + {int: "integers", float: "numbers", str: "texts"}[inner]
    if typing.get_origin(kind) is dict or is_table(kind):
        return "a table"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[kind]


def nearest(dotted: str, phases: Iterable[str]) -> list[str]:
    """The keys that somebody who wrote `dotted` may have meant, best first; none where nothing is near."""
    phases = tuple(phases)
    known = dotted_keys(phases)
    table, _, last = dotted.rpartition(".")
    if last in ELSEWHERE:
        return [key for key in known if _starred(key) == ELSEWHERE[last]][:3]
    beside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == table}
    if near := get_close_matches(last, beside, 1, 0.7):
        return [beside[near[0]]]
    endings = [key.rpartition(".")[2] for key in known]
    if near := get_close_matches(last, endings, 1, 0.8):
        same = [key for key, ending in zip(known, endings, strict=True) if ending == near[0]]
        return sorted(same, key=lambda key: key.split(".")[0] != table)[:3]
    whole = get_close_matches(dotted, [*known, *(name for name, _ in _tables(phases) if name)], 1, 0.6)
    return whole or [beside[near[0]] for near in [get_close_matches(last, beside, 1, 0.5)] if near]


# Values


def converted(value: Any, kind: Any) -> Any:
    """The value as a key of this type has it.

    Raises:
        TypeError: it is of another type; the message says what is expected.
    """
    given = tuple(value) if typing.get_origin(kind) is tuple and isinstance(value, list) else value
    try:
        return TypeAdapter(kind).validate_python(given, strict=True)
    except ValidationError:
        raise TypeError(refusal(value, kind)) from None


def refusal(value: Any, kind: Any) -> str:
    """What to say of a value that is not of this type."""
    if kind in (int, float) and isinstance(value, int) and abs(value) > LARGEST:
        return "too large a number"
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    near = get_close_matches(value, choices, 1, 0.5) if isinstance(value, str) else []
    return f"expected {expected(kind)}" + (f'; did you mean "{near[0]}"?' if near else "")


def outside(value: Any, interval: str | None) -> str | None:
    """What is wrong with a number, or with a number of a list; None where nothing is."""
    items = value if isinstance(value, tuple | list) else (value,)
    numbers = [item for item in items if isinstance(item, int | float)]
    if any(isinstance(number, int) and abs(number) > LARGEST for number in numbers):
        return "too large a number"
    if not all(isfinite(number) for number in numbers):
        return "must be a finite number"
    if interval is not None and not all(inside(number, interval) for number in numbers):
        return f"must be {in_words(interval)}"
    return None


def from_command_line(text: str, kind: Any) -> Any:
    """What was typed, as TOML where the key is not text: lists need no brackets, text no quotes."""
    value = literal(text)
    if kind is str or typing.get_origin(kind) is Literal:
        return value if isinstance(value, str) else str(text)
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if typing.get_origin(kind) is tuple and not isinstance(value, list):
        listed = literal(f"[{text}]")
        return listed if isinstance(listed, list) else [part.strip() for part in text.split(",")]
    return value


def literal(text: str) -> Any:
    """Text as a TOML value, or as it is where it is none."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return str(text)
    return parsed["value"] if list(parsed) == ["value"] else str(text)


def shown(value: Any) -> str:
    """A value in an error, short and on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value) if isinstance(value, date | time) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# The printed recipe


def recipe() -> str:
    """A recipe with each key at its default and a comment that explains it; it reads back as `Config()`."""
    first, defaults = next(iter(PUBLISHED)), Config()
    tables = []
    for name, kind in _tables(tuple(PUBLISHED)):
        _, _, phase = name.partition("phases.")
        values = PUBLISHED[phase] if phase else getattr(defaults, name) if name else defaults
        tables.append("\n".join(_explained(name, kind, values, comments=phase in ("", first))))
    return "\n\n".join(tables) + "\n"


def _explained(name: str, table: type[Any], values: Any, *, comments: bool) -> Iterator[str]:
    if name and comments:
        # The docstring begins with the table itself, in brackets.
        summary = (inspect.getdoc(table) or "").split("\n")[0].partition("] ")[2]
        yield from _comment(f"{summary[:1].upper()}{summary[1:]}")
    if name:
        yield f"[{name}]"
    for key in _own(table):
        if comments:
            yield from _comment(_sentence(_starred(f"{name}.{key}") if name else key, hints(table)[key]))
        yield f"{key} = {_toml(getattr(values, key))}"


def _sentence(dotted: str, kind: Any) -> str:
    """What a key means, and what may be set, unless the meaning names all choices already."""
    about, interval = _about(dotted), limit(dotted)
    said = about["meaning"]
    if about["plugin"]:
        names = ", ".join(plugins.names(about["plugin"]))
        start = "Any of" if typing.get_origin(kind) is tuple else "One of"
        return f'{said}. {start} {names}, or package.module:Class (plugin kind "{about["plugin"]}").'
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    if choices and all(f'"{choice}"' in said for choice in choices):
        return f"{said}."
    takes = expected(kind).removeprefix("a ").removeprefix("an ") + (f", {in_words(interval)}" if interval else "")
    return f"{said} ({takes})."


def _toml(value: Any) -> str:
    if isinstance(value, dict | tuple):
        # tomli_w would give an empty table a line of its own, and each item of a list.
        return "{}" if isinstance(value, dict) else f"[{', '.join(_toml(item) for item in value)}]"
    return tomli_w.dumps({"value": value}).strip().removeprefix("value = ")


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


# The schema


def _tables(phases: Iterable[str]) -> list[tuple[str, type[Any]]]:
    """Every table with its dotted name, the top level first, that of a phase once for each of `phases`."""
    found: list[tuple[str, type[Any]]] = [("", Config)]
    for name, kind in hints(Config).items():
        if name == "phases":
            found += [(f"phases.{phase}", PhaseConfig) for phase in phases]
        elif is_table(kind):
            found.append((name, kind))
    return found


def _own(table: type[Any]) -> list[str]:
    """The keys of a table that are no tables of keys themselves."""
    return [key for key, kind in hints(table).items() if not is_table(kind) and key != "phases"]


def _about(dotted: str) -> dict[str, Any]:
    """What the schema says of a key; those of a phase are "phases.*.steps"."""
    table, _, name = dotted.rpartition(".")
    info = dict(_tables(("*",)))[table].__pydantic_fields__[name]
    return {"meaning": info.description, **info.json_schema_extra}


def _starred(dotted: str) -> str:
    return re.sub(r"^phases\.[^.]+\.", "phases.*.", dotted)
