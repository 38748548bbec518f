"""The records give the tables that they always gave, and docs/benchmarks.md shows those."""

import hashlib
import json
from pathlib import Path

import pytest

from benchmarks.runner.results_file import results_file
from benchmarks.studies import fill
from benchmarks.tables import noise_bands, speedup

ROOT = Path(__file__).parents[2]
REFERENCE: dict[str, dict[str, str]] = json.loads(
    (ROOT / "tests" / "golden" / "benchmark_tables.json").read_text(encoding="utf-8")
)
"""By suite and title: a hash of the rows as they came from one JSON file a run, before runs became lines of a file.

Of "Time to the same loss" without what was read off the curves within runs, which is no longer shown.
"""

FINDINGS = """
full 1x | .2240 | .5385 | .2612 | .1808 | .1029 | .0243
entprog-echo 0.25x | .2236 | .5296 | .2594 | .1815 | .1060 | .0295
entprog-echo 1x | .2135 | .5083 | .2479 | .1725 | .1003 | .0269
full-video-muon 0.5x | .2201 | .5318 | .2542 | .1757 | .1011 | .0257
full 0.5x | .2335 | .5515 | .2737 | .1922 | .1110 | .0262
"""
"""Mean loss and loss by band of nano-muon, computed from the records by others, by a program of their own."""

MISSING = {"nano": 69, "nano-creatures": 1, "nano-fresh": 6, "nano-video": 2}
"""Runs that a suite still lacks; none of the others."""


@pytest.mark.parametrize("suite", REFERENCE)
def test_the_records_give_every_table_byte_for_byte(suite: str) -> None:
    tables = fill.suite_tables(suite)
    found = {}
    for title in REFERENCE[suite]:
        columns, rows = tables[title].columns, tables[title].rows
        # What speed-ups say by noise band was added since.
        kept = [[cell for cell, name in zip(row, columns, strict=True) if "worst band" not in name] for row in rows]
        found[title] = hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]
    assert found == REFERENCE[suite]


@pytest.mark.parametrize("suite", REFERENCE)
def test_every_run_finds_its_record(suite: str) -> None:
    """Addresses stay, whatever keys and plugins are called by now."""
    analysis = fill.suite_analysis(suite)
    assert analysis is not None and len(analysis.plan.missing) == MISSING.get(suite, 0)
    known = [run.address for run in analysis.plan.runs.values() if run.address in analysis.records]
    assert len(known) == len(analysis.plan.runs) - MISSING.get(suite, 0)


@pytest.mark.parametrize("suite", ["nano", "nano-muon"])
def test_rivals_find_their_records(suite: str) -> None:
    analysis = fill.suite_analysis(suite)
    assert analysis is not None
    for arm in ("lisa-new", "badam-new", "galore"):
        runs = [run for run in analysis.plan.runs.values() if run.arm == arm]
        used = {run.config.method for run in runs} | {run.config.train.optimizer for run in runs}
        assert any(name.startswith("benchmarks.rivals.") for name in used)
        records = [analysis.records[run.address] for run in runs if run.address in analysis.records]
        assert len(records) >= 6 and {record["arm"] for record in records} == {arm}


def test_losses_by_noise_band_are_those_that_others_found() -> None:
    rows = {" ".join(row[:2]): row[3:] for row in fill.suite_tables("nano-muon")[noise_bands.TITLE].rows}
    for line in FINDINGS.strip().splitlines():
        name, *values = line.split(" | ")
        assert [value.removeprefix("0") for value in rows[name]] == values


def test_the_preset_is_not_said_to_be_faster_without_its_worst_band() -> None:
    table = fill.suite_tables("nano-muon")[speedup.TITLE]
    row = dict(zip(table.columns, next(row for row in table.rows if row[0] == "entprog-echo"), strict=True))
    assert row["1x (0.2240): FLOPs, mean loss"].startswith("4.11x")
    assert row["1x (0.2240): FLOPs, worst band"] == "not reached (tau .8-1)"


def test_results_are_few_files() -> None:
    files = [path for path in (ROOT / "benchmarks" / "results").rglob("*") if not path.name.endswith((".lock", ".md"))]
    assert len(files) < 60 and not [path for path in files if path.is_dir()]
    assert all(results_file(fill.RECORDS, suite).is_file() for suite in REFERENCE)


def test_the_page_has_the_tables_and_pictures_that_the_records_give() -> None:
    page = fill.PAGE.read_text(encoding="utf-8")
    assert "<!-- table nano: nano at a glance -->" in page
    assert fill.filled(page) == page, "run python -m benchmarks.studies.fill"
    pictures = fill.drawn()
    assert pictures
    for path, text in pictures.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run python -m benchmarks.studies.fill"


def test_a_table_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"table smoke: t: .*not enough for it; tables there: none"):
        fill.filled("<!-- table smoke: t -->\n<!-- end -->")
