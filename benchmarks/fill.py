"""Puts what the records say into docs/benchmarks.md: python benchmarks/fill.py [--check].

Between `<!-- glance SUITE -->` and `<!-- end -->` goes the suite's table "at a glance"; with --check nothing is
written, and the exit code is 1 where a table is not what the records give.
"""

import re
import sys
from pathlib import Path

from entprog.bench.summary import summary
from entprog.bench.tables import markdown
from entprog.bench.verb import RESULTS, analysed

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
RECORDS = Path(__file__).parents[1] / RESULTS


def filled(page: str) -> str:
    """The page with every table as the records give it.

    Raises:
        ValueError: a suite that is named has no records yet.
    """

    def table(found: re.Match[str]) -> str:
        name = found[1]
        analysis = analysed(name, RECORDS)
        glance = analysis and summary(analysis)
        if not glance:
            raise ValueError(f"{PAGE}: glance {name}: {RECORDS / name} has no final record of its reference yet")
        rows = [line for line in markdown(glance).splitlines() if line.startswith("|")]
        return "\n".join([f"<!-- glance {name} -->", *rows, "<!-- end -->"])

    return re.sub(r"<!-- glance (\S+) -->.*?<!-- end -->", table, page, flags=re.DOTALL)


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if before == after else f"{PAGE}: not what the records say; run python benchmarks/fill.py")
    PAGE.write_text(after, encoding="utf-8")
