"""How words of the command line become values: as cyclopts does it, but nothing is rounded and no path is empty."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from cyclopts import Token, convert

__all__ = ["converted"]

DECIMAL = re.compile(r"[+-]?\d*\.\d*")


def converted(kind: Any, tokens: Sequence[Token]) -> Any:
    """The value of an option or argument.

    Raises:
        ValueError: a number with a decimal point where a whole one is wanted, or an empty path.
    """
    kinds = {kind, *get_args(kind)}
    for token in tokens:
        if int in kinds and DECIMAL.fullmatch(token.value):
            raise ValueError(f"{token.value!r} is no whole number")
        if Path in kinds and not token.value.strip():
            raise ValueError("'' is an empty path; give a file or folder (is a variable of the shell not set?)")
    return convert(kind, tokens)
