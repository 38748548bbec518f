"""What a recipe can say, in words: each key's type, range, default and meaning, read from the schema."""

import dataclasses
import re
import typing
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from entprog.config.schema import Config, PhaseConfig


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """What the schema says of a key; the dotted names of those of a phase begin with "phases.*".

    Attributes:
        interval: the numbers that it takes, such as "[0, 1)", of a list each item; None where any value goes.
        plugin: the kind of plugin that it names, or names a list of.
        options: dotted name of the table with this plugin's options.
        packages: value -> packages that it needs beyond entprog's own: module -> how to install it.
        also: what other trainers call it.
    """

    name: str
    kind: Any
    meaning: str
    interval: str | None
    plugin: str
    options: str
    packages: dict[str, dict[str, str]]
    also: tuple[str, ...]


def hints(table: type[Any]) -> dict[str, Any]:
    """The keys of a table with their types, in order."""
    own = {field.name for field in dataclasses.fields(table)}
    return {name: kind for name, kind in typing.get_type_hints(table).items() if name in own}


def _keys() -> Iterator[Key]:
    for table, owner in TABLES.items():
        for name, info in owner.__pydantic_fields__.items():
            if info.description is not None:  # a table has none
                yield Key(f"{table}.{name}".lstrip("."), hints(owner)[name], info.description, **info.json_schema_extra)


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


def dotted_keys(phases: Sequence[str] = ("*",)) -> list[str]:
    """Every dotted key, those of a phase once for each of `phases`."""
    return [key.replace("*", phase) for key in KEYS for phase in (phases if "*" in key else [""])]


def limit(dotted: str) -> str | None:
    """The interval of a key; None where any value goes."""
    key = key_at(dotted)
    return key.interval if key else None


def nearest(dotted: str, phases: Sequence[str]) -> list[str]:
    """The keys that somebody who wrote `dotted` may have meant, best first; none where nothing is near."""
    known = dotted_keys(phases)
    table, _, last = dotted.rpartition(".")
    if also := [key for key in known if last in KEYS[_starred(key)].also]:
        return also[:3]
    beside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == table}
    if near := get_close_matches(last, beside, 1, 0.7):
        return [beside[near[0]]]
    endings = [key.rpartition(".")[2] for key in known]
    if near := get_close_matches(last, endings, 1, 0.8):
        same = [key for key, ending in zip(known, endings, strict=True) if ending == near[0]]
        return sorted(same, key=lambda key: key.split(".")[0] != table)[:3]
    whole = get_close_matches(dotted, [*known, *filter(None, TABLES), *(f"phases.{phase}" for phase in phases)], 1, 0.6)
    return whole or [beside[near[0]] for near in [get_close_matches(last, beside, 1, 0.5)] if near]


def _starred(dotted: str) -> str:
    return re.sub(r"^phases\.[^.]+\.", "phases.*.", dotted)
