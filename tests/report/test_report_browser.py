"""The report in a real browser: no console error, every image and video shown, nothing wider than a phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import CHROMIUM, Browser
from entprog.report import write_report
from fake_run import make_run


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not CHROMIUM.is_file():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    return write_report([make_run(folder / "full", "full"), make_run(folder / "progressive", seed=1)])


@pytest.mark.parametrize(("width", "dark"), [(360, False), (320, True), (1200, True)])
def test_two_runs(browser: Browser, pair: Path, width: int, dark: bool) -> None:
    seen = browser.visit(pair, width, dark)
    seen.assert_fine()
    assert len(seen.videos) == 10


def test_gif_and_long_names(browser: Browser, tmp_path: Path) -> None:
    name = "a_clip_name_that_nobody_would_want_but_somebody_has_" * 2
    folder = make_run(tmp_path / "run", label=name, steps=6, status="running", clips=(name,))
    for path in folder.glob("samples/*/*.mp4"):
        path.unlink()
    seen = browser.visit(write_report([folder]), 360)
    seen.assert_fine()
    assert len(seen.images) == 3


def test_the_check_itself_finds_faults(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'><body>"
        "<img src='missing.png'><div style='width:900px'>x</div>"
        "<script>console.error('said'); undefined.thrown;</script>"
    )
    seen = browser.visit(page, 360, wait=3)
    assert seen.content > 360 and seen.images[0][1] == 0
    assert any("said" in error for error in seen.errors) and any("thrown" in error for error in seen.errors)
