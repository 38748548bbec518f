"""Single values of a recipe: from TOML, or as typed on the command line, to the type of their key."""

import tomllib
import typing
from datetime import date, time
from difflib import get_close_matches
from math import isfinite
from typing import Any, Literal

from entprog.config import reference


class Typed(str):
    """A value as typed on the command line; it is read once the type of its key is known."""


def converted(value: Any, kind: Any) -> Any:
    """The value as its key's type.

    Raises:
        TypeError: it is of another type; the message says what is expected.
    """
    if isinstance(value, Typed):
        value = _from_command_line(value, kind)
    wrong = TypeError(f"expected {reference.expected(kind)}")
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if isinstance(value, str) and value in choices:
            return str(value)
        near = get_close_matches(value, choices, 1, 0.5) if isinstance(value, str) else []
        raise TypeError(f'{wrong}; did you mean "{near[0]}"?') if near else wrong
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise wrong
        try:
            return tuple(converted(item, typing.get_args(kind)[0]) for item in value)
        except TypeError:
            raise wrong from None
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise wrong
        return {key: _option(item) for key, item in value.items()}
    if isinstance(value, int) and kind in (int, float) and abs(value) >= 2**63:
        raise TypeError("too large a number")
    # True is an int in Python, but not for somebody who asks for a number.
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise wrong
    return value


def _from_command_line(text: Typed, kind: Any) -> Any:
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


def _option(value: Any) -> Any:
    """An option of a plugin, whose type only the plugin knows."""
    if isinstance(value, Typed):
        return literal(value)
    return {key: _option(item) for key, item in value.items()} if isinstance(value, dict) else value


def literal(text: str) -> Any:
    """Text as a TOML value, or as it is where it is none."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return str(text)
    return parsed["value"] if list(parsed) == ["value"] else str(text)


def outside(value: Any, interval: str | None) -> str | None:
    """What is wrong with a number, or with a number of a list; None where nothing is."""
    items = value if isinstance(value, tuple) else (value,)
    numbers = [item for item in items if isinstance(item, int | float)]
    if not all(isfinite(number) for number in numbers):
        return "must be a finite number"
    if interval is not None and not all(reference.inside(number, interval) for number in numbers):
        return f"must be {reference.in_words(interval)}"
    return None


def shown(value: Any) -> str:
    """A value in an error, short and on one line."""
    value = literal(value) if isinstance(value, Typed) else value
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value) if isinstance(value, date | time) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
