"""Values of TOML: what was typed, of which type and in which range it must be, and how an error shows it."""

import re
import tomllib
import typing
from datetime import date, time
from difflib import get_close_matches
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import PlainValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

LARGEST = 2**63 - 1
"""The largest integer."""

LEAST_SIDE, MOST_SIDE = 16, 4096


def sides(value: int | str) -> tuple[int, int]:
    """Height and width in pixels of a side such as 64, or of a rectangle such as "480x832"."""
    height, _, width = str(value).partition("x")
    return int(height), int(width or height)


def _checked_sides(value: Any) -> Any:
    whole = type(value) is int or (isinstance(value, str) and re.fullmatch(r"\d{1,5}x\d{1,5}", value))
    if not whole or not all(LEAST_SIDE <= side <= MOST_SIDE for side in sides(value)):
        raise PydanticCustomError("sides", "no size of a picture")
    height, width = sides(value)
    return height if height == width else value


Sides = Annotated[int | str, PlainValidator(_checked_sides)]
"""The size of a picture: a side in pixels, or "HEIGHTxWIDTH"."""


def interval(**limits: float) -> str | None:
    """The interval between limits by pydantic's names (ge, gt, le, lt), such as "[0, 1)"; None without any."""
    if not limits:
        return None
    low = f"[{limits['ge']}" if "ge" in limits else f"({limits['gt']}" if "gt" in limits else "(-inf"
    return f"{low}, " + (f"{limits['le']}]" if "le" in limits else f"{limits['lt']})" if "lt" in limits else "inf)")


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
    if kind == int | str:
        return f'a side of {LEAST_SIDE} to {MOST_SIDE} pixels, or "HEIGHTxWIDTH"'
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[kind]


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
