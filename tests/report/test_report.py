"""The report reads every kind of run folder and writes one page that stands alone."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from entprog.report import (
    charts,
    collect,
    curves,
    formats,
    schedule_picture,
    summary_markdown,
    summary_table,
    tables,
    write_report,
)
from entprog.report.charts import Axis
from entprog.report.summary import rows
from fake_run import make_run

SECTIONS = (
    "samples",
    "map",
    "result",
    "loss",
    "importance",
    "memory",
    "trials",
    "warnings",
    "metrics",
    "details",
)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Checker(HTMLParser):
    """Balanced tags, ids, and addresses that leave the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.outside: list[str] = []
        self.count: dict[str, int] = {}
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href") and not str(value).startswith(("data:", "#")):
                self.outside.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder / "full", "full"), make_run(folder / "progressive", seed=1)]


def test_the_page_has_every_part_in_order_and_stands_alone(runs: list[Path], tmp_path: Path) -> None:
    out = write_report(runs, tmp_path / "new" / "page.html")
    page = out.read_text(encoding="utf-8")
    seen = Checker(page)
    assert tuple(name for name in seen.ids if name in SECTIONS) == SECTIONS
    assert not seen.outside
    assert seen.count["video"] == 2 * (3 + 2) and "img" not in seen.count
    assert "http" not in re.sub(r"data:[^\"]*", "", page).replace("http-equiv", "")
    assert len(page) < 400_000
    assert list(out.parent.iterdir()) == [out]  # nothing half-written is left beside it


def test_every_chart_is_named_and_has_units(runs: list[Path], tmp_path: Path) -> None:
    page = write_report(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    for figure in re.findall(r'<figure class="chart.*?</figure>', page, re.DOTALL):
        assert "aria-label=" in figure or '<table class="trials">' in figure
    for words in (
        "loss (noise-prediction MSE)",
        "training time (min:s)",
        "memory (binary units)",
        "MiB",
        "step",
    ):
        assert words in page


def test_default_places(runs: list[Path]) -> None:
    assert write_report(runs[:1]) == runs[0] / "report.html"
    assert write_report(runs) == runs[0].parent / "report.html"


def test_collects_what_was_written(runs: list[Path]) -> None:
    full, progressive = collect(runs[0]), collect(runs[1])
    assert (full.label, full.method, full.status) == ("full", "full", "finished")
    assert [phase.name for phase in progressive.phases] == ["1-subject", "2-pose", "3-video"]
    assert progressive.phases[0].blocks == tuple(f"blocks.{i}" for i in range(12))
    assert progressive.phases[2].blocks == tuple(f"temporal.{i}" for i in range(6))
    assert not full.phases[0].scores and list(progressive.phases[0].trainable) == [0, 1, 2]
    assert len(full.steps) == 60 and full.steps[-1].active == tuple(range(6))
    assert progressive.option("estimator") == "probe" and progressive.option("no_such") == ""
    assert [samples.step for samples in full.samples] == [20, 40, 60]
    assert not full.notes and not full.totals.counted


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_a_run_that_has_not_ended_is_summed_from_its_log(tmp_path: Path, status: str) -> None:
    folder = make_run(tmp_path / "run", status=status, clips=())
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 60, "loss": 0.2')  # killed in the middle of a line
    run = collect(folder)
    assert len(run.steps) == 60 and run.totals.counted and not run.notes
    assert run.totals.seconds == pytest.approx(run.steps[-1].elapsed)
    assert run.totals.seconds_search == pytest.approx(sum(step.seconds for step in run.steps if step.searching))
    page = write_report([folder]).read_text(encoding="utf-8")
    assert f">{status}</span>" in page and "so far" in page
    assert "Not evaluated yet." in page and "No sample clips" in page


def test_a_folder_with_hardly_anything(tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "run.json").write_text('{"status": "running"}')
    page = write_report([folder]).read_text(encoding="utf-8")
    assert "No step has been logged yet." in page and "bare" in page
    (folder / "run.json").unlink()
    (folder / "log.jsonl").write_text('{"step": 0, "phase": "2-pose", "loss": 1.0, "active": [0, 2]}\n')
    run = collect(folder)
    assert run.phases[0].blocks == ("block 0", "block 1", "block 2") and run.status == "unknown"
    write_report([folder])


def test_nan_losses_are_marked(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=8, clips=())
    lines = (folder / "log.jsonl").read_text().splitlines()
    for place, value in ((5, "NaN"), (6, "null"), (7, "Infinity")):
        lines[place] = re.sub(r'"loss": [^,]*', f'"loss": {value}', lines[place])
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")
    chart = curves.loss([collect(folder)], "step")
    assert chart.count('class="cross"') == 3
    assert not any("nan" in line for line in re.findall(r' d="[^"]*"', chart))
    assert "Crosses: 3 steps" in chart


def test_damage_is_noted_and_survived(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=8, clips=())
    lines = (folder / "log.jsonl").read_text().splitlines()
    lines[3] = lines[3][:20]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "metrics.json").write_text("{")
    run = collect(folder)
    assert len(run.steps) == 23
    assert "log.jsonl: 1 lines cannot be read, the first is line 4" in run.notes
    assert any(note.startswith("metrics.json cannot be read") for note in run.notes)
    assert "metrics.json cannot be read" in write_report([folder]).read_text(encoding="utf-8")


def test_a_resumed_run_counts_each_step_once_and_its_clock_never_falls(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=8, clips=())
    rows_ = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    again = [row | {"elapsed": row["elapsed"] - rows_[10]["elapsed"], "loss": 9.0} for row in rows_[11:]]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_[:15] + again))
    steps = collect(folder).steps
    assert [step.step for step in steps] == list(range(24))
    assert [step.loss for step in steps[11:]] == [9.0] * 13
    assert [step.elapsed for step in steps] == sorted(step.elapsed for step in steps)
    assert steps[-1].elapsed == pytest.approx(rows_[-1]["elapsed"])


def test_what_users_wrote_is_escaped(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", label='<script>alert("x")</script>', steps=4, clips=())
    page = write_report([folder]).read_text(encoding="utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    Checker(page)


def test_thousands_of_steps_stay_small(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=3000, clips=())
    page = write_report([folder]).read_text(encoding="utf-8")
    assert len(page) < 700_000, len(page)
    assert "Which block trained when in run progressive: 18 blocks over 9000 steps" in page


def test_gif_when_there_is_no_mp4(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=4, clips=("only",))
    for path in folder.glob("samples/*/only.mp4"):
        path.unlink()
    seen = Checker(write_report([folder]).read_text(encoding="utf-8"))
    assert seen.count["img"] == 3 and "video" not in seen.count


def test_no_run_folder(tmp_path: Path, runs: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such folder.*run\.json or log\.jsonl"):
        write_report([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"not a run folder, expected run\.json or log\.jsonl in it$"):
        write_report([tmp_path])
    with pytest.raises(ValueError, match="it contains run folders: full, progressive"):
        write_report([runs[0].parent])
    with pytest.raises(ValueError, match="no run given"):
        write_report([])
    with pytest.raises(ValueError, match="no run given"):
        summary_table([])


def test_summary_as_text_and_markdown(runs: list[Path]) -> None:
    found = {row.name: row for row in rows([collect(path) for path in reversed(runs)])}
    assert found["holdout loss"].compared == ("1.02x", "") and found["holdout loss"].best == 1
    assert found["PSNR"].compared == ("-0.03 dB", "") and found["SSIM"].best == 1
    assert "pooling mean over frames" in found["SSIM"].protocol
    text = summary_table(runs)
    for words in ("full", "progressive", "0.2491", "1.02x", "22.71 dB", "TFLOP", "MiB", "compared with full"):
        assert words in text
    assert max(map(len, text.split("\n\n")[0].splitlines())) <= 80
    table = summary_markdown(runs).splitlines()
    assert table[0].startswith("| run | holdout loss | L1 | PSNR | SSIM | time | FLOPs |")
    assert len({line.count("|") for line in table[:4]}) == 1
    assert "compared" not in summary_table(runs[:1])


def test_the_copied_reference_stands_beside_runs_of_the_same_clips(tmp_path: Path, runs: list[Path]) -> None:
    assert "reference copied" in summary_table(runs).splitlines()[0]
    found = {row.name: row for row in rows([collect(path) for path in runs])}
    assert found["L1"].copy == "0.08930" and found["PSNR"].copy == "16.20 dB" and found["time"].copy == ""
    other = make_run(tmp_path / "other", steps=4, clips=())
    metrics = json.loads((other / "metrics.json").read_text())
    metrics["baselines"]["copy_reference"]["l1"] = 0.5
    (other / "metrics.json").write_text(json.dumps(metrics))
    assert "reference copied" not in summary_table([runs[0], other])


def test_losses_by_noise_band_where_runs_have_them(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, steps=4, clips=()) for name in ("one", "two")]
    with (folders[0] / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "holdout", "loss": 0.2, "bands": [0.5, 0.3, 0.2, 0.1, None]}) + "\n")
    found = {row.name: row for row in rows([collect(folder) for folder in folders])}
    assert found["noise 0.0-0.2"].values == ("0.5000", "-") and found["noise 0.6-0.8"].values == ("0.1000", "-")
    assert "noise 0.8-1.0" not in found, "no run has a draw there"
    assert "noise 0.0-0.2" in summary_table(folders)


def test_the_mean_log_of_the_bands_stands_beside_the_mean(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, steps=4, clips=()) for name in ("one", "two")]
    for folder, value in zip(folders, (-1.453, -1.5), strict=True):
        totals = json.loads((folder / "totals.json").read_text())
        (folder / "totals.json").write_text(json.dumps({**totals, "holdout_log_loss": value}))
        with (folder / "events.jsonl").open("a") as file:
            row = {"event": "holdout", "step": 3, "elapsed": 1.0, "loss": 0.2, "log_loss": value, "bands": [0.5, 0.1]}
            file.write(json.dumps(row) + "\n")
    found = {row.name: row for row in rows([collect(folder) for folder in folders])}
    assert found["holdout log loss"].values == ("-1.453", "-1.500") and found["holdout log loss"].best == 1
    assert "-0.047" in found["holdout log loss"].compared, "a difference: a quotient of logarithms says nothing"
    page = write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "holdout log loss" in page and "(mean log of the bands -1.453)" in page
    (folders[0] / "totals.json").unlink()
    assert collect(folders[0]).totals.holdout_log_loss == -1.453


def test_the_picture_of_a_schedule_stands_alone(runs: list[Path]) -> None:
    picture = schedule_picture([collect(path) for path in runs])
    root = ElementTree.fromstring(picture)
    assert root.tag.endswith("svg") and float(root.get("height", "0")) > 2 * 18 * 11
    words = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"full", "progressive", "1-subject", "blocks.0", "temporal.5"} <= set(words)
    assert "var(--" not in picture and "href" not in picture
    assert ElementTree.fromstring(schedule_picture([])).tag.endswith("svg")


def test_many_runs_stay_within_the_terminal(tmp_path: Path, runs: list[Path]) -> None:
    more = [make_run(tmp_path / name, label=name, steps=4, clips=()) for name in ("linear", "descending", "lisa")]
    text = summary_table([*more, *runs])
    *parts, notes = text.split("\n\n")
    assert len(parts) == 2 and all(part.split()[0] == "full" for part in parts)
    assert max(len(line) for part in parts for line in part.splitlines()) <= 100
    assert notes.endswith("compared with full (0.87x: 0.87 times its value)")


def test_trials_mark_the_chosen_and_name_the_unfinished(runs: list[Path], tmp_path: Path) -> None:
    run = collect(runs[1])
    table = tables.trials(run)
    assert table.count('class="chosen"') == 9 and table.count("no choice yet") == 0
    assert "probe estimator; search took 24 % of the time" in tables.search_cost(run)
    events = runs[1] / "events.jsonl"
    kept = [line for line in events.read_text().splitlines() if '"choice"' not in line]
    other = tmp_path / "run"
    other.mkdir()
    (other / "events.jsonl").write_text("\n".join(kept))
    (other / "run.json").write_text("{}")
    assert tables.trials(collect(other)).count("no choice yet") == 9


def test_neither_torch_nor_the_trainer_is_imported() -> None:
    code = "import sys, entprog.report; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = [name for name in done.stdout.split() if name.startswith(("torch", "entprog."))]
    assert all(name.startswith("entprog.report") for name in loaded), loaded


def test_differing_protocols_are_pointed_out(tmp_path: Path, runs: list[Path]) -> None:
    other = make_run(tmp_path / "other", steps=4, clips=())
    metrics = json.loads((other / "metrics.json").read_text())
    metrics["protocol"]["size"] = 128
    (other / "metrics.json").write_text(json.dumps(metrics))
    assert "protocols differ, do not compare" in summary_table([runs[0], other])


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.size(1.2 * 2**30), "1.2 GiB"),
        (formats.size(217 * 2**20), "217 MiB"),
        (formats.size(0), "0 B"),
        (formats.size(2**20 - 1), "1 MiB"),
        (formats.flops(3.4e12), "3.4 TFLOP"),
        (formats.flops(999.9e9), "1 TFLOP"),
        (formats.seconds(12.3), "12.3 s"),
        (formats.seconds(0.085), "85 ms"),
        (formats.seconds(59.97), "1 min 00 s"),
        (formats.seconds(245), "4 min 05 s"),
        (formats.seconds(3599.9), "1 h 00 min"),
        (formats.ratio(0.874), "0.87x"),
        (formats.percent(0.055), "5.5 %"),
        (formats.count(591_744), "592 k"),
        (formats.significant(0.18119), "0.1812"),
        (formats.significant(1.5e-14, 3), "1.50e-14"),
        (formats.significant(math.nan), "NaN"),
        (formats.seconds(math.nan), "-"),
    ],
)
def test_units(shown: str, expected: str) -> None:
    assert shown == expected


def test_buckets_keep_the_outline() -> None:
    points = [(float(i), math.sin(i / 50)) for i in range(10_000)]
    points[4321] = (4321.0, 7.0)
    kept = charts.bucket(points)
    assert len(kept) <= charts.POINTS and (4321.0, 7.0) in kept
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert min(y for _, y in kept) == min(y for _, y in points)


def test_smoothing_is_unbiased_and_passes_over_nan() -> None:
    assert charts.smooth([2.0, 2.0, math.nan, 2.0], 5) == pytest.approx([2.0] * 4)


def test_ticks_are_round() -> None:
    assert Axis(0, 0.93, "x").ticks()[1] == (pytest.approx(0.2), "0.2")
    assert charts.ticks(0, 60, kind="step") == [0, 20, 40, 60]
    assert charts.ticks(0, 3, kind="step") == [0, 1, 2, 3]
    assert charts.ticks(0, 230 * 2**20, 4, "bytes") == [i * 50 * 2**20 for i in range(5)]
    assert charts.ticks(1, 1) == [1]


def test_stairs_hold_their_value() -> None:
    assert charts.stairs([(0, 1.0), (1, 1.0), (2, 3.0)], 4.0) == [(0, 1.0), (2, 1.0), (2, 3.0), (4.0, 3.0)]
