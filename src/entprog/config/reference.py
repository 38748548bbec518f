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
class Key:
    """What the schema says of a key; the dotted names of those of a phase begin with "phases.*".

    Attributes:
        interval: the numbers that it takes, such as "[0, 1)", of a list each item; None where any value goes.
        plugin: the kind of plugin that it names, or names a list of.
        options: dotted name of the table with this plugin's options.
        packages: value -> packages that it needs beyond entprog's own: module -> how to install it.
    """

    name: str
    kind: Any
    meaning: str
    interval: str | None
    plugin: str
    options: str
    packages: dict[str, dict[str, str]]


def hints(table: type[Any]) -> dict[str, Any]:
    """The keys of a table with their types, in order."""
    own = {field.name for field in dataclasses.fields(table)}
    return {name: kind for name, kind in typing.get_type_hints(table).items() if name in own}


def _interval(limits: dict[str, Any]) -> str | None:
    if not limits:
        return None
    low = f"[{limits['ge']}" if "ge" in limits else f"({limits['gt']}" if "gt" in limits else "(-inf"
    return f"{low}, " + (f"{limits['le']}]" if "le" in limits else f"{limits['lt']})" if "lt" in limits else "inf)")


def _keys() -> Iterator[Key]:
    for table, owner in TABLES.items():
        for name, info in owner.__pydantic_fields__.items():
            if info.description is not None:  # a table has none
                more = dict(info.json_schema_extra)
                dotted, interval = f"{table}.{name}".lstrip("."), _interval(more.pop("limits"))
                yield Key(dotted, hints(owner)[name], info.description, interval, **more)


TABLES: dict[str, Any] = {"": Config} | {
    "phases.*" if name == "phases" else name: PhaseConfig if name == "phases" else kind
    for name, kind in hints(Config).items()
    if name == "phases" or dataclasses.is_dataclass(kind)
}
"""Every table by its dotted name."""

KEYS = {key.name: key for key in _keys()}
"""Every key by its dotted name."""

PLUGINS = tuple(key for key in KEYS.values() if key.plugin)
"""The keys that name plugins."""


def key_at(dotted: str) -> Key | None:
    """The key of a dotted name with the name of a phase in it; None where there is none."""
    return KEYS.get(_starred(dotted))


def dotted_keys(phases: Iterable[str] = ("*",)) -> list[str]:
    """Every dotted key, those of a phase once for each of `phases`."""
    phases = list(phases)
    return [key.replace("*", phase) for key in KEYS for phase in (phases if "*" in key else [""])]


def limit(dotted: str) -> str | None:
    """The interval of a key; None where any value goes."""
    key = key_at(dotted)
    return key.interval if key else None


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
    if typing.get_origin(kind) is dict:
        return "a table"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[kind]


def nearest(dotted: str, phases: Iterable[str]) -> list[str]:
    """The keys that somebody who wrote `dotted` may have meant, best first; none where nothing is near."""
    phases = list(phases)
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
    whole = get_close_matches(dotted, [*known, *filter(None, TABLES), *(f"phases.{phase}" for phase in phases)], 1, 0.6)
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
    first, config, tables = next(iter(PUBLISHED)), Config(), []
    for table in TABLES:
        if table == "phases.*":
            for phase, values in PUBLISHED.items():
                tables.append(_explained(f"phases.{phase}", table, values, comments=phase == first))
        else:
            tables.append(_explained(table, table, getattr(config, table) if table else config))
    return "\n\n".join("\n".join(lines) for lines in tables) + "\n"


def _explained(name: str, table: str, values: Any, *, comments: bool = True) -> Iterator[str]:
    if name and comments:
        # The docstring begins with the table itself, in brackets.
        summary = (inspect.getdoc(TABLES[table]) or "").split("\n")[0].partition("] ")[2]
        yield from _comment(f"{summary[:1].upper()}{summary[1:]}")
    if name:
        yield f"[{name}]"
    for key in KEYS.values():
        above, _, last = key.name.rpartition(".")
        if above == table:
            yield from _comment(_sentence(key)) if comments else ()
            yield f"{last} = {_toml(getattr(values, last))}"


def _sentence(key: Key) -> str:
    """What a key means, and what may be set, unless the meaning names all choices already."""
    origin, said = typing.get_origin(key.kind), key.meaning
    if key.plugin:
        names = f'{", ".join(plugins.names(key.plugin))}, or package.module:Class (plugin kind "{key.plugin}")'
        return f"{said}. {'Any' if origin is tuple else 'One'} of {names}."
    if origin is Literal and all(f'"{choice}"' in said for choice in typing.get_args(key.kind)):
        return f"{said}."
    takes = expected(key.kind).removeprefix("a ").removeprefix("an ")
    return f"{said} ({takes}{f', {in_words(key.interval)}' if key.interval else ''})."


def _toml(value: Any) -> str:
    if isinstance(value, dict | tuple):
        # tomli_w would give an empty table a line of its own, and each item of a list.
        return "{}" if isinstance(value, dict) else f"[{', '.join(_toml(item) for item in value)}]"
    return tomli_w.dumps({"value": value}).strip().removeprefix("value = ")


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


def _starred(dotted: str) -> str:
    return re.sub(r"^phases\.[^.]+\.", "phases.*.", dotted)
