"""The rows of a CSV, JSON or JSONL file, each with its place for error messages."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["SUFFIXES", "Row", "first_of", "read_rows", "read_text"]

SUFFIXES = (".csv", ".json", ".jsonl")
LISTED = 10
"""Lines of one kind that an error message lists; the others are counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its place, such as "line 4", and its values by column."""

    place: str
    values: Mapping[str, Any]


def read_rows(path: Path) -> list[Row]:
    """All rows of a file.

    A CSV file has a header and commas; a JSON file a list of objects; a JSONL file an object on each line.

    Raises:
        ValueError: the file is none of these, or lines are broken (all are listed).
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"metadata: {path}: not one of {', '.join(SUFFIXES)}; convert it")
    text = read_text(path, "metadata")
    if path.suffix.lower() == ".csv":
        rows, wrong = _csv(text)
    elif text.lstrip().startswith("["):
        rows, wrong = _json(text)
    else:
        rows, wrong = _jsonl(text)
    if wrong:
        raise ValueError("\n".join(first_of(f"metadata: {path}, {line}" for line in wrong)))
    if not rows:
        raise ValueError(f"metadata: {path}: no rows in it; give a row for each video")
    return rows


def read_text(path: Path, field: str) -> str:
    """A UTF-8 text file, with or without a byte order mark.

    Raises:
        ValueError: it is not UTF-8 or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{field}: {path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ValueError(f"{field}: {path}: cannot be read ({error.strerror}); check the path") from error


def first_of(lines: Iterable[str]) -> list[str]:
    """The first lines, and how many more there are."""
    every = list(lines)
    more = [f"... and {len(every) - LISTED} more such lines"] if len(every) > LISTED else []
    return every[:LISTED] + more


def _csv(text: str) -> tuple[list[Row], list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    wrong: list[str] = []
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            wrong.append(f"line {line}: {error}; double the quotes inside quoted text")
            break
        if cells is None:
            break
        if not cells:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if twice := sorted({name for name in header if header.count(name) > 1}):
                wrong.append(f"line {line}: column {twice[0]!r} is there twice; rename one")
        elif len(cells) != len(header):
            wrong.append(
                f"line {line}: {len(cells)} fields under {len(header)} columns; "
                'put text with commas or line breaks between double quotes (")'
            )
        else:
            rows.append(Row(f"line {line}", dict(zip(header, cells, strict=True))))
    return rows, wrong


def _json(text: str) -> tuple[list[Row], list[str]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        return [], [f"{_where(error, 1)}; mend the line"]
    rows = [Row(f"row {i}", values) for i, values in enumerate(found, 1) if isinstance(values, dict)]
    wrong = [
        f"row {i}: {_short(value)} is not an object" for i, value in enumerate(found, 1) if not isinstance(value, dict)
    ]
    return rows, [f'{line}; give objects such as {{"video": ..., "prompt": ...}}' for line in wrong]


def _jsonl(text: str) -> tuple[list[Row], list[str]]:
    rows, wrong = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            wrong.append(f"{_where(error, number)}; mend the line")
            continue
        if isinstance(values, dict):
            rows.append(Row(f"line {number}", values))
        else:
            wrong.append(f'line {number}: {_short(values)} is not an object; give {{"video": ..., "prompt": ...}}')
    return rows, wrong


def _where(error: ValueError, line: int) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {line + error.lineno - 1}: no JSON ({error.msg} at column {error.colno})"
    return f"line {line}: no JSON ({error})"


def _short(value: object) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
