"""A suite's results: one JSON file, one line a run; runs are added, never edited.

    results/SUITE.jsonl              a line a run: what was run and what it took
    results/SUITE-details.jsonl.gz   a line a run: its long lists (loss of each exam draw, curve, trials, rankings)

A record's `digest` is the SHA-256 of the whole record, long lists included, so that an edited one is refused. A run
that several suites share is stored by one of them; the others have a line that names it:
{"address": ..., "digest": ..., "stored_in": SUITE}.

Both files are written aside and renamed into place, the details first: whenever the process ends, every run that was
added is there and no line is half written.
"""

import gzip
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks.runner.run_record import Record

FORMAT = 1

LISTS = ("curve", "trials", "choices", "rankings")
"""Fields of a record that are stored with the details."""

EXAM_LISTS = ("per_draw", "clips", "tau")
"""Likewise, of its exam."""


class Busy(ValueError):
    """Another process works on this suite."""


def digest(record: Mapping[str, Any]) -> str:
    """The SHA-256 of a record's content."""
    content = {key: value for key, value in record.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def results_file(results: Path, suite: str) -> Path:
    """Where a suite's runs are stored."""
    return results / f"{suite}.jsonl"


def read_records(file: Path) -> dict[str, Record]:
    """All records of a suite by address; none where there is no file.

    Raises:
        ValueError: a line is no record, or was edited, or names a record that is not there.
    """
    found: dict[str, Record] = {}
    shared: dict[str, dict[str, str]] = {}
    details = _details(file)
    for number, row in _rows(file):
        place = f"{file}:{number}"
        if not isinstance(row, dict) or "address" not in row:
            raise ValueError(f"{place}: no record of a run; delete the line")
        address = str(row["address"])
        if address in found:
            raise ValueError(f"{place}: run {address} is there twice; delete one of the two lines")
        if "stored_in" in row:
            shared.setdefault(row["stored_in"], {})[address] = place
            found[address] = row  # keeps the order of the lines; filled in below
        else:
            found[address] = _checked(row, details.get(address, {}), place)
    for suite, places in shared.items():
        stored = _some(results_file(file.parent, suite), places)
        for address, place in places.items():
            if address not in stored or stored[address]["digest"] != found[address]["digest"]:
                raise ValueError(
                    f"{place}: run {address} is not in {suite}.jsonl as it was; put that file back, or delete the line "
                    "and the run is made again"
                )
            found[address] = stored[address]
    return found


def add_record(file: Path, record: Mapping[str, Any]) -> Record:
    """Add a record to a suite's file; only a reference where another suite beside it has stored the same run.

    Returns:
        The record as it will be read back, with its digest.

    Raises:
        ValueError: the file has this run already.
    """
    plain = json.loads(json.dumps({"format": FORMAT, **record}))  # floats and tuples as they will be read back
    plain["digest"] = digest(plain)
    row, details = _split(plain)
    _append(file, row, details)
    return plain  # type: ignore[no-any-return]


def add_reference(file: Path, address: str) -> Record | None:
    """Take over the record of this very run from another suite's file beside this one; None where none has it.

    Raises:
        ValueError: it was edited.
    """
    for other in sorted(file.parent.glob("*.jsonl")):
        if other == file:
            continue
        found = _some(other, {address: ""}).get(address)
        if found is not None:
            _append(file, {"address": address, "digest": found["digest"], "stored_in": other.stem}, {})
            return found
    return None


def write_records(file: Path, rows: list[dict[str, Any]], details: Mapping[str, dict[str, Any]]) -> None:
    """Write both files anew from lines as they are stored."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if details:
        lines = "".join(_line({"address": address, **lists}) for address, lists in details.items())
        packed = io.BytesIO()
        with gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=0) as stream:  # the same bytes at any time
            stream.write(lines.encode())
        _replace(details_file(file), packed.getvalue())
    _replace(file, "".join(map(_line, rows)).encode())


def details_file(file: Path) -> Path:
    """Where the long lists of a suite's runs are stored."""
    return file.with_name(f"{file.stem}-details.jsonl.gz")


def is_stored(file: Path, address: str) -> bool:
    """Whether a suite's file has this run, be it as a reference."""
    return any(isinstance(row, dict) and row.get("address") == address for _, row in _rows(file))


@contextmanager
def only_runner(suite: str, *folders: Path) -> Iterator[None]:
    """Keep other processes from working on the same suite in these folders.

    Raises:
        Busy: one does already.
    """
    with ExitStack() as stack:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f".{suite}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise Busy(
                    f"{suite}: another process runs this suite in {folder}; wait until it ends, or stop it"
                ) from None
            stack.callback(lock.release)
        yield


def _split(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record as its line, and what is stored with the details."""
    row, details = dict(record), {key: record[key] for key in LISTS if record.get(key)}
    for key in details:
        del row[key]
    exam = record.get("exam")
    if isinstance(exam, dict):
        details["exam"] = {key: exam[key] for key in EXAM_LISTS if key in exam}
        row["exam"] = {key: value for key, value in exam.items() if key not in EXAM_LISTS}
    return row, details


def _joined(row: Mapping[str, Any], details: Mapping[str, Any]) -> Record:
    record = {**row, **{key: value for key, value in details.items() if key in LISTS}}
    if "exam" in details and isinstance(row.get("exam"), dict):
        record["exam"] = {**row["exam"], **details["exam"]}
    return record


def _checked(row: Mapping[str, Any], details: Mapping[str, Any], place: str) -> Record:
    if row.get("format") != FORMAT:
        raise ValueError(f"{place}: no record of the benchmark in format {FORMAT}")
    record = _joined(row, details)
    if record.get("digest") != digest(record):
        raise ValueError(
            f"{place}: the run or its details were edited after it was made; put both files back, or delete the line "
            "and the run is made again"
        )
    return record


def _some(file: Path, addresses: Mapping[str, Any]) -> dict[str, Record]:
    """Those of the runs that a file stores itself."""
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8")
    if not any(address in text for address in addresses):
        return {}
    details, found = _details(file), {}
    for number, row in _rows(file):
        if not isinstance(row, dict) or "digest" not in row or "stored_in" in row:
            continue  # a reference, or a line of another study
        if row.get("address") in addresses:
            found[row["address"]] = _checked(row, details.get(row["address"], {}), f"{file}:{number}")
    return found


def _append(file: Path, row: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    rows = [found for _, found in _rows(file)]
    address = row["address"]
    if any(isinstance(found, dict) and found.get("address") == address for found in rows):
        raise ValueError(f"{file}: has run {address} already; records are never edited")
    known = _details(file)
    changed = {**known, address: dict(details)} if details else {}
    write_records(file, [*rows, dict(row)], changed)


def _details(file: Path) -> dict[str, dict[str, Any]]:
    path = details_file(file)
    if not path.is_file():
        return {}
    try:
        text = gzip.decompress(path.read_bytes()).decode()
        rows = [json.loads(line) for line in text.splitlines()]
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: not readable ({error}); put it back") from error
    return {row.pop("address"): row for row in rows}


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """The lines of a file, counted from 1."""
    if not file.is_file():
        return
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{file}:{number}: not readable as JSON ({error}); put the file back, or delete the line and its run "
                "is made again"
            ) from error


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":")) + "\n"


def _replace(path: Path, content: bytes) -> None:
    """Write a file aside and rename it into place."""
    aside = path.with_name(path.name + ".partial")
    with aside.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)
