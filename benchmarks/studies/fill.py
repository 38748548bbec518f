"""Puts what the records say into docs/: python -m benchmarks.studies.fill [--check].

Between `<!-- table SUITE: TITLE -->` and `<!-- end -->` in docs/benchmarks.md goes the table of that title of a suite
(or of a study that has tables), without its notes; a picture docs/images/SUITE/NAME.svg is drawn anew. With --check
nothing is written, and the exit code is 1 where a table or a picture is not what the records give.
"""

import re
import sys
from functools import cache
from pathlib import Path

from benchmarks.command import RESULTS, analysed
from benchmarks.runner.results_file import results_file
from benchmarks.runner.suite_file import suites
from benchmarks.studies import creatures_at_length, real_clips_page
from benchmarks.tables.all_tables import all_tables
from benchmarks.tables.analysis import Analysis, Table, markdown
from benchmarks.tables.suite_page import pictures

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"
RECORDS = ROOT / RESULTS
STUDIES = {"real-clips": real_clips_page.tables, "creatures-at-length": creatures_at_length.tables}
"""Tables by title of the studies that docs/benchmarks.md shows."""


@cache
def suite_analysis(name: str) -> Analysis | None:
    """A suite with its records; None where there are none."""
    return analysed(name, RECORDS)


@cache
def suite_tables(name: str) -> dict[str, Table]:
    """A suite's or a study's tables by title."""
    if name in STUDIES:
        return STUDIES[name]()
    analysis = suite_analysis(name)
    return {table.title: table for table in all_tables(analysis)} if analysis else {}


def filled(page: str) -> str:
    """The page with every table as the records give it.

    Raises:
        ValueError: the records are not enough for a table.
    """

    def lines(found: re.Match[str]) -> str:
        name, title = found[1], found[2]
        known = suite_tables(name)
        if title not in known:
            there = "; ".join(known) or "none"
            file = results_file(RECORDS, name)
            raise ValueError(f"{PAGE}: table {name}: {title}: {file} is not enough for it; tables there: {there}")
        rows = [line for line in markdown(known[title]).splitlines() if line.startswith("|")]
        return "\n".join([f"<!-- table {name}: {title} -->", *rows, "<!-- end -->"])

    return re.sub(r"<!-- table (\S+): (.+?) -->\n.*?<!-- end -->", lines, page, flags=re.DOTALL)


def drawn() -> dict[Path, str]:
    """The suites' pictures that docs/ shows, by file.

    Raises:
        ValueError: the records are not enough for a picture.
    """
    found = {}
    for path in sorted(IMAGES.glob("*/*.svg")):
        if path.parent.name not in suites():
            continue
        analysis = suite_analysis(path.parent.name)
        known = pictures(analysis) if analysis else {}
        if path.stem not in known:
            raise ValueError(f"{path}: no such picture; the records give {', '.join(known) or 'none'}")
        found[path] = known[path.stem]
    return found


def main(check: bool) -> None:
    """Write what differs, or only say so."""
    wanted = {PAGE: filled(PAGE.read_text(encoding="utf-8")), **drawn()}
    stale = [path for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    if check and stale:
        sys.exit(f"{', '.join(map(str, stale))}: not what the records give; run python -m benchmarks.studies.fill")
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
