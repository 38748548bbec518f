"""report.html of a prepared data set."""

import re
from pathlib import Path

import pytest

from browser import CHROMIUM, Browser
from data_sets import data_set, numbered, rows_in, write_rows
from entprog.report.data_set import report_data_set, write_data_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("set")
    out = data_set(place, {"one": numbered(30), "<b>two": numbered(30)})
    rows = rows_in(out)
    rows[0]["pieces"].append({"clip": None, "start": 20, "end": 24, "reason": "no person found"})
    dropped = {"status": "dropped", "clips": [], "decoded_frames": 0}
    rows.append(dropped | {"source": str(place / "one.mp4"), "name": "short", "reason": "shorter than 16 frames"})
    rows.append(dropped | {"source": "/nowhere/x.mp4", "name": "x", "reason": "unreadable: <script>alert(1)</script>"})
    write_rows(out, rows)
    return out


def test_the_page_accounts_for_every_file(folder):
    page = write_data_report(folder).read_text(encoding="utf-8")
    assert "4 (2 kept, 2 dropped)" in page and "2 no video (.txt)" in page
    assert "24 at 12 a second" in page and "1 train, 1 holdout" in page and "blazepose" in page
    assert page.count("<img") == 3 and "no picture" in page
    assert "held out" in page and "Parts of kept files that were left out" in page
    assert "a pause of 3 s (one and others)" in page
    assert "<script" not in page and "<b>two" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)


def test_it_is_complete_where_no_picture_can_be_read_in_time(folder):
    page = write_data_report(folder, seconds=0).read_text(encoding="utf-8")
    assert page.count("not read, to save time: decoded from the latents") == 2


def test_a_failure_is_one_line(tmp_path, capsys):
    assert report_data_set(tmp_path) is None
    said = capsys.readouterr().err
    assert said.startswith("entprog: warning: ") and said.count("\n") == 1 and "report.html" in said


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(360, True), (1200, False)])
def test_in_a_browser(folder, tmp_path, width, dark):
    if not CHROMIUM.is_file():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with Browser(tmp_path) as browser:
        browser.visit(write_data_report(folder), width, dark).assert_fine()
