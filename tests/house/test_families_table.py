"""The table of docs/models.md is what the record and the list of families give."""

import sys

from checkout import ROOT
from tiny_pipelines import pipelines

sys.path.insert(0, str(ROOT / "tools"))

import measure_families


def test_the_table_is_that_of_the_record() -> None:
    page = measure_families.PAGE.read_text(encoding="utf-8")
    rows = measure_families.recorded()
    assert measure_families.filled(page, rows) == page
    assert [row["variant"] for row in rows] == list(pipelines()), "measure the others, too"
    assert all(row["steps"] >= 20 and row["plans"] and row["samples"] for row in rows)
    assert all(row["x0_error"] <= 1e-5 and row["frozen_exact"] and row["resume_exact"] for row in rows)
    assert all(row["new_adapters_change_nothing"] and row["skip_error"] == 0 for row in rows)
    assert all(row["flops_of_last_third"] <= 0.65 and row["peak_of_last_third"] <= 0.6 for row in rows)
