"""The records give the tables that they always gave, and docs/benchmarks.md shows those."""

import hashlib
import json
from pathlib import Path

import pytest

from benchmarks.runner.results_file import results_file
from benchmarks.studies import fill

ROOT = Path(__file__).parents[1]
REFERENCE: dict[str, dict[str, str]] = json.loads(
    (ROOT / "tests" / "golden" / "benchmark_tables.json").read_text(encoding="utf-8")
)
"""By suite and title: a hash of the rows as they came from one JSON file a run, before runs became lines of a file."""


@pytest.mark.parametrize("suite", REFERENCE)
def test_the_records_give_every_table_byte_for_byte(suite: str) -> None:
    tables = fill.suite_tables(suite)
    found = {
        title: hashlib.sha256(json.dumps(tables[title].rows).encode()).hexdigest()[:16] for title in REFERENCE[suite]
    }
    assert found == REFERENCE[suite]


def test_results_are_few_files() -> None:
    files = [path for path in (ROOT / "benchmarks" / "results").rglob("*") if not path.name.endswith((".lock", ".md"))]
    assert len(files) < 60 and not [path for path in files if path.is_dir()]
    assert all(results_file(fill.RECORDS, suite).is_file() for suite in REFERENCE)


def test_the_page_has_the_tables_and_pictures_that_the_records_give() -> None:
    page = fill.PAGE.read_text(encoding="utf-8")
    assert "<!-- table nano: nano at a glance -->" in page
    assert fill.filled(page) == page, "run python benchmarks/studies/fill.py"
    pictures = fill.drawn()
    assert pictures
    for path, text in pictures.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run python benchmarks/studies/fill.py"


def test_a_table_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"table smoke: t: .*not enough for it; tables there: none"):
        fill.filled("<!-- table smoke: t -->\n<!-- end -->")
