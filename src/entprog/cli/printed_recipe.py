"""The recipe that `entprog train --keys` prints: every key at its default, explained."""

import inspect
import textwrap
import typing
from collections.abc import Iterator
from typing import Any, Literal

import tomli_w

from entprog import plugins
from entprog.config.reference import KEYS, TABLES, Key
from entprog.config.schema import PUBLISHED, Config
from entprog.toml.values import expected, in_words


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
