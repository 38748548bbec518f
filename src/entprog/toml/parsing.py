"""Reads a TOML file, or says why it can't be read."""

import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

LARGEST_FILE = 1_000_000
"""Bytes of a recipe; something larger is another file, given by mistake."""


class ConfigError(ValueError):
    """A configuration can't be used; `problems` holds one line for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def parsed(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: there is no file, or no TOML in it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except IsADirectoryError:
        inside = path / "config.toml"
        hint = f"; did you mean {inside}?" if inside.is_file() else ", not a recipe; give a TOML file"
        raise ConfigError([f"{path}: is a folder{hint}"]) from None
    except FileNotFoundError:
        beside = [entry.name for entry in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, 1, 0.5)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError([f"{path}: no such file{hint}"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from error
    if len(data) > LARGEST_FILE:
        raise ConfigError([f"{path}: larger than {LARGEST_FILE} bytes, so hardly a recipe; give a TOML file"])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {error.start}"
        raise ConfigError([f"{path}: not UTF-8 text ({where}); a recipe is a TOML file in UTF-8"]) from None
    if "\0" in text:
        raise ConfigError([f"{path}: a binary file; a recipe is a TOML file in UTF-8"])
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError([f"{path}: nested too deeply"]) from None
    except ValueError as error:
        message, _, place = str(error).rpartition(" (at ")
        where = f"{place.rstrip(')')}: {message}" if message else str(error)
        raise ConfigError([f"{path}: {where}"]) from None
