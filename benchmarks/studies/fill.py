"""Puts what the records say into docs/benchmarks.md: python benchmarks/studies/fill.py [--check].

Between `<!-- table SUITE: TITLE -->` and `<!-- end -->` goes the suite's table of that title, without its notes; with
--check nothing is written, and the exit code is 1 where a table is not what the records give.
"""

import re
import sys
from pathlib import Path

from benchmarks.command import RESULTS, analysed
from benchmarks.tables.glance import all_tables
from benchmarks.tables.result_tables import Table, markdown

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
RECORDS = Path(__file__).parents[2] / RESULTS


def filled(page: str) -> str:
    """The page with every table as the records give it.

    Raises:
        ValueError: the records are not enough for a table.
    """

    known: dict[str, dict[str, Table]] = {}

    def lines(found: re.Match[str]) -> str:
        name, title = found[1], found[2]
        if name not in known:
            analysis = analysed(name, RECORDS)
            known[name] = {table.title: table for table in all_tables(analysis)} if analysis else {}
        if title not in known[name]:
            there = "; ".join(known[name]) or "none"
            raise ValueError(
                f"{PAGE}: table {name}: {title}: {RECORDS / name} is not enough for it; tables there: {there}"
            )
        rows = [line for line in markdown(known[name][title]).splitlines() if line.startswith("|")]
        return "\n".join([f"<!-- table {name}: {title} -->", *rows, "<!-- end -->"])

    return re.sub(r"<!-- table (\S+): (.+?) -->\n.*?<!-- end -->", lines, page, flags=re.DOTALL)


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if before == after else f"{PAGE}: not what the records say; run python benchmarks/studies/fill.py")
    PAGE.write_text(after, encoding="utf-8")
