"""docs/benchmarks.md says what the records say."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def fill() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fill", ROOT / "benchmarks" / "studies" / "fill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_that_the_records_give(fill: ModuleType) -> None:
    page = fill.PAGE.read_text(encoding="utf-8")
    assert "<!-- table nano: nano at a glance -->" in page
    assert fill.filled(page) == page, "run python benchmarks/studies/fill.py"


def test_a_table_that_is_not_there_is_named(fill: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"table smoke: t: .*not enough for it; tables there: none"):
        fill.filled("<!-- table smoke: t -->\n<!-- end -->")
