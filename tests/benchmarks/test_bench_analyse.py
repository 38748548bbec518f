"""The analysis on literal records with known answers."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench_suites import record_of, suite
from benchmarks.runner.run_plan import PlannedRun, plan
from benchmarks.runner.run_record import Record
from benchmarks.tables import chance, comparison
from benchmarks.tables.all_tables import all_tables
from benchmarks.tables.analysis import Analysis, markdown
from benchmarks.tables.comparison import Crossing, Group
from benchmarks.tables.dotplot import AHEAD, BEHIND, LEVEL, Panel, dotplot
from benchmarks.tables.glance import glance, summary
from benchmarks.tables.noise_bands import noise_bands
from benchmarks.tables.scatter import Series, chart
from benchmarks.tables.speedup import both_ways, faster, slower, speedup
from benchmarks.tables.suite_page import pictures, write_all


def group(arm: str, *losses: list[float], seeds: tuple[int, ...] | None = None) -> Group:
    """An arm's runs with these losses by clip, one list a seed."""
    records = []
    for values in losses:
        exam = {"loss": sum(values) / len(values), "per_draw": values, "clips": [f"c{k}" for k in range(len(values))]}
        records.append({"exam": {**exam, "tau": [0.5] * len(values)}, "arm": arm})
    return Group(arm, 1.0, seeds or tuple(range(len(losses))), tuple(records))


def test_paired_differences() -> None:
    base = group("full", [1.0, 3.0, 5.0, 7.0], [2.0, 4.0, 6.0, 8.0])
    other = group("a", [0.9, 2.7, 4.9, 6.7], [2.0, 3.8, 6.0, 7.8])
    found = comparison.difference(other, base)
    # By clip (means over seeds): -.05, -.25, -.05, -.25; by seed: -.2, -.1.
    assert found.mean == pytest.approx(-0.15)
    assert found.by_clip == pytest.approx(math.sqrt(0.04 / 3) / 2)
    assert found.by_seed == pytest.approx(0.05)
    assert (found.clips, found.seeds, found.clear) == (4, 2, True)
    # The spread of the losses themselves is twenty times that of the difference: pairing is what shows it.
    assert base.spread(comparison.loss_of) == pytest.approx(math.sqrt(0.5))
    worse = group("b", [1.3, 2.8, 5.2, 6.8], [2.1, 4.0, 5.8, 8.1])
    assert not comparison.difference(worse, base).clear
    with pytest.raises(ValueError, match="no seed"):
        comparison.difference(group("c", [1.0], seeds=(9,)), base)
    elsewhere = replace(base, records=({**base.records[0], "base": "other"}, *base.records[1:]))
    assert comparison.paired(elsewhere, base) == [1] and comparison.difference(elsewhere, base).seeds == 1
    with pytest.raises(ValueError, match="other clips"):
        comparison.difference(group("c", [1.0, 2.0]), base)


def test_repeated_draws_of_a_clip_count_once() -> None:
    base, other = group("full", [1.0, 2.0, 1.0, 2.0]), group("a", [0.0, 2.0, 1.0, 1.0])
    for each in (base, other):
        each.records[0]["exam"]["clips"] = ["x", "y", "x", "y"]
    found = comparison.difference(other, base)
    assert found.clips == 2 and found.by_clip == 0.0 and found.mean == -0.5
    assert math.isnan(found.by_seed)


def test_cost_of_a_loss() -> None:
    points = [(1.0, 4.0), (10.0, 2.0), (100.0, 1.0)]
    assert comparison.reached(points, 2.0) == Crossing(10.0)
    halfway = comparison.reached(points, 3.0)
    assert halfway is not None and halfway.cost == pytest.approx(math.sqrt(10)) and not halfway.at_most
    assert comparison.reached(points, 5.0) == Crossing(1.0, at_most=True)
    assert comparison.reached(points, 0.5) is None
    assert comparison.reached([], 1.0) is None
    # The first time counts, also where the curve rises again.
    assert comparison.reached([(1.0, 3.0), (2.0, 1.0), (4.0, 3.0)], 1.0) == Crossing(2.0)
    assert (faster(20.0, Crossing(10.0)), slower(Crossing(10.0), 20.0)) == ("2.00x", "0.50x")
    assert faster(20.0, Crossing(10.0, True)) == "2.00x or more" and faster(20.0, None) == "not reached"
    assert faster(math.nan, Crossing(10.0)) == slower(Crossing(math.nan), 1.0) == "-"  # an arm that was not timed


def losses(run: PlannedRun) -> float:
    """`last` costs half of `full` a step and gets as far for a step: it is twice as fast; `linear` is hopeless."""
    gained = {"full": 1.0, "last": 1.0, "linear": 0.0}[run.arm]
    return 2.0 - gained * math.log10(sum(run.steps.values())) + abs(math.log(run.factor)) + 0.001 * run.seed


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    small = suite(caps=["1500B"], budgets=[0.5, 1.0, 2.0], chain=["full", "last"])
    records: dict[str, Record] = {}
    while (planned := plan(small, records)).missing:
        run = planned.missing[0]
        mean = losses(run)
        peak = {"full": 2000, "linear": 2000, "last": 1000}[run.arm]
        record = record_of(run, lambda k, mean=mean: mean + 0.1 * (k - 1.5), peak=peak)
        if record["exam"]:
            record["exam"]["quality"] = {"metrics": {"l1": mean / 10, "psnr": 20.0, "strange": 1.0}}
        records[run.address] = record
    return Analysis(small, planned, records)


def test_groups_and_budgets(analysis: Analysis) -> None:
    assert analysis.budgets == [0.5, 1.0, 2.0, "steps"]
    full, last = analysis.groups["full", 1.0], analysis.groups["last", 1.0]
    assert full.seeds == (0, 1, 2) and full.spread(comparison.loss_of) == pytest.approx(0.001)
    assert full.mean(comparison.quality_of("l1")) == pytest.approx(full.mean(comparison.loss_of) / 10)
    assert math.isnan(full.mean(comparison.quality_of("nothing")))
    assert full.mean(comparison.mean_bytes_of) == 2000
    # 40 x 100 + 20 x 300 FLOPs buy `last` 80 and 30 steps.
    assert last.records[0]["steps"] == {"pose": 80, "video": 30}
    assert last.mean(comparison.flops_of) == full.mean(comparison.flops_of)


def test_who_is_how_many_times_faster(analysis: Analysis) -> None:
    rows = {(row[0], row[1]): (row[2], row[4]) for row in both_ways(analysis).rows}
    # Where full ends after 60 steps, `last` is after 60 of its own, which cost 6000 of 10000 FLOPs.
    points = comparison.by_budget("last", analysis.groups, comparison.flops_of)
    there = comparison.reached(points, analysis.groups["full", 1.0].mean(comparison.loss_of))
    assert there is not None
    assert rows["last", "1x"][0] == f"{10000 / there.cost:.2f}x" and there.cost == 6000
    assert rows["linear", "1x"] == ("not reached", "0.50x or less")
    assert rows["last", "2x"][1] == "not reached"


def test_speed_up_at_the_same_loss(analysis: Analysis) -> None:
    table = speedup(analysis)
    assert table is not None
    assert table.columns == (
        "arm", "1x (0.2228): FLOPs, mean loss", "1x (0.2228): FLOPs, worst band", "2x (-0.0782): FLOPs, mean loss",
        "2x (-0.0782): FLOPs, worst band", "peak memory",
    )  # fmt: skip
    (row,) = table.rows  # `linear` gets nowhere
    assert row[:2] == ("last", "1.67x (1.67x to 1.67x)") and row[5] == "1000 B (2.00x less)"
    assert row[2].startswith("1.67x (tau ")  # every clip is off the mean by as much, and so is every band
    timed = speedup(replace(analysis, seconds=lambda record: 2 * comparison.flops_of(record)))
    assert timed is not None and timed.rows[0][1] == timed.rows[0][3] == row[1]
    assert timed.columns[3] == "1x (0.2228): time, mean loss"
    lame = {
        address: {**record, "exam": record["exam"] and {**record["exam"], "loss": record["exam"]["loss"] + 0.6}}
        if (record["arm"], record["seed"]) == ("last", 2)
        else record
        for address, record in analysis.records.items()
    }
    found = speedup(replace(analysis, records=lame))
    assert found is not None and "(not reached to 1.67x)" in found.rows[0][1]
    untimed = speedup(replace(analysis, seconds=lambda record: math.nan))
    assert untimed is not None and untimed.rows[0][3:5] == ("-", "-")


def test_the_worst_band_tells_what_the_mean_hides(analysis: Analysis) -> None:
    def changed(record: Record) -> Record:
        """`last` is better where noise is low and worse where it is high: the mean is as before."""
        if record["arm"] != "last" or not record["exam"]:
            return record
        exam = record["exam"]
        moved = [loss + (3.0 if tau > 0.8 else -1.0) for loss, tau in zip(exam["per_draw"], exam["tau"], strict=True)]
        return {**record, "exam": {**exam, "per_draw": moved}}

    records = {address: changed(record) for address, record in analysis.records.items()}
    table, before = speedup(replace(analysis, records=records)), speedup(analysis)
    assert table is not None and before is not None
    assert table.rows[0][1] == before.rows[0][1] and table.rows[0][2] == "not reached (tau .8-1)"


def test_losses_by_noise_band(analysis: Analysis) -> None:
    table = noise_bands(analysis)
    assert table is not None
    assert table.columns[3:] == ("mean loss", "tau 0-.2", "tau .2-.4", "tau .4-.6", "tau .6-.8", "tau .8-1")
    losses = [float(row[3]) for row in table.rows if row[1] == "1x"]
    assert len(losses) == 3 and losses == sorted(losses)
    for row in table.rows:
        mean, *bands = row[3:]
        assert bands[2] == "-"  # four draws leave one of five bands empty
        offsets = [float(band) - float(mean) for band in (bands[0], bands[1], bands[3], bands[4])]
        assert offsets == pytest.approx([-0.15, -0.05, 0.05, 0.15], abs=2e-4)


def test_tables_print_their_protocol_and_mark_what_is_not_clear(analysis: Analysis) -> None:
    found = all_tables(analysis)
    titles = [table.title for table in found]
    assert titles[:3] == ["small at a glance", "Loss by noise band", "Speed-up at the same loss"]
    found = found[3:]
    assert titles[3:] == [
        "At 0.5 x the cost of small's recipe", "At 1 x the cost of small's recipe", "At 2 x the cost of small's recipe",
        "At equal steps", "One lever at a time, 0.5x", "One lever at a time, 1x", "One lever at a time, 2x",
        "One lever at a time, equal steps", "Arms that take at most 1500B", "Time to the same loss", "Learning rates",
    ]  # fmt: skip
    for table in found:
        text = markdown(table)
        assert "held-out clips" in text and "same data order" in text and "exact FLOPs" in text
        assert all(len(row) == len(table.columns) for row in table.rows)
    main = found[1]
    assert [row[0] for row in main.rows] == ["full", "linear", "last"] and main.best == {(2, 2)}
    assert {row[1] for row in found[8].rows} == {"last"}  # the others take more than the cap
    assert "(0.50x)" in main.rows[2][main.columns.index("peak")]
    assert "strange" in main.columns
    lever = found[5].rows[1]
    # 10000 FLOPs in 60 steps against 10000 in 110.
    assert lever[0] == "last" and "(0.50x)" in lever[4] and lever[5].endswith("(0.55x)") and lever[4] == lever[6]
    equal = found[3]
    assert equal.rows[2][3].startswith("[") or equal.rows[2][3].startswith("+0.00000")  # as good for a step
    sweeps = {row[0]: row for row in found[10].rows}
    assert sweeps["full"][-2:] == ("x1", "inside") and "x0.5" in sweeps["full"][2]


def test_page_and_pictures(analysis: Analysis, tmp_path: Path) -> None:
    clip = tmp_path / "runs" / analysis.groups["last", 2.0].records[0]["address"] / "samples" / "exam" / "walk.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"video")
    written = write_all(analysis, tmp_path / "runs")
    assert all(path.is_file() for path in written)
    page = written[-1].read_text()
    assert (
        "data:video/mp4;base64,dmlkZW8=" in page
        and page.count("<svg") == 10
        and "small, 1x: all arms compared with full" in page
        and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    )
    text = (tmp_path / "runs" / "tables.md").read_text()
    assert "![loss by cost](loss-by-cost.svg)" in text and "### At equal steps" in text
    assert "![arms 1](arms-1.svg)" in text and "### small at a glance" in text


def test_at_a_glance(analysis: Analysis) -> None:
    table = summary(analysis)
    assert table is not None
    assert all(len(row) == len(table.columns) for row in table.rows)
    losses = [float(row[table.columns.index("loss, 2x")].split()[0]) for row in table.rows]
    assert losses == sorted(losses) and {row[0] for row in table.rows} == {"full", "linear", "last"}
    full = next(row for row in table.rows if row[0] == "full")
    assert full[table.columns.index("minus full")] == "-" and full[table.columns.index("seeds")] == "3"
    assert "nan" not in markdown(table)
    picture = glance(analysis, 1.0)
    assert picture.count("<circle") == 9 and "nan" not in picture and "left of the line is better; 3 seeds" in picture


@pytest.mark.parametrize("longer", [{}, {"full": [1.0]}])
def test_at_a_glance_without_budgets(longer: dict[str, list[float]]) -> None:
    small = suite(budgets=[], equal_steps=0.5, longer=longer)
    records: dict[str, Record] = {}
    while (planned := plan(small, records)).missing:
        run = planned.missing[0]
        records[run.address] = record_of(run, losses(run))
    analysis = Analysis(small, planned, records)
    found = all_tables(analysis)
    assert {"small at a glance", "At equal steps, 0.5 x the recipe's"} <= {table.title for table in found}
    assert "loss, equal steps" in found[0].columns and len(found[0].rows) == 3
    assert ("loss, 1x" in found[0].columns) == bool(longer)  # a budget of one arm does not push the steps aside
    assert "arms-steps" in pictures(analysis)


def test_a_dot_is_coloured_where_it_is_off_the_line() -> None:
    panel = Panel("loss", [(-1.0, 0.5), (0.2, 0.5), (1.0, 0.5), None], str, 0.0)
    picture = dotplot("t", "n", ["a<", "b", "c", "d"], [panel])
    assert "a&lt;" in picture and picture.count("<circle") == 3
    assert [picture.count(f'fill="{colour}"') for colour in (AHEAD, LEVEL, BEHIND)] == [1, 1, 1]
    assert dotplot("t", "n", [], [panel]) == ""


def test_a_chart_of_nothing_is_nothing() -> None:
    assert chart("t", "x", "y", [Series("a", [])], x_text=str) == ""
    one = chart("t", "x", "y", [Series("a<b", [(3.0, 1.0, 0.0)])], x_text=str)
    assert "a&lt;b" in one and "nan" not in one
    quiet = chart(
        "t", "x", "y", [Series("loud", [(1.0, 1.0, 0.0)]), Series("dim", [(2.0, 1.0, 0.0)], quiet=True)], x_text=str
    )
    assert ">loud</text>" in quiet and ">dim</text>" not in quiet and "dim: 1" in quiet


def trials(kind: str, information: float, seed: int) -> list[dict[str, Any]]:
    """A search over three candidates; with `information` the middle one gains that much more for its cost."""
    source = random.Random(seed)
    found = []
    if kind == "probe":
        for candidate, cost in (("3", 1.0), ("6", 2.0), ("12", 4.0)):
            gain = cost * (0.1 + information * (candidate == "6")) + source.gauss(0, 0.02)
            found.append({"candidate": candidate, "flops": cost, "gain": gain, "loss_after": 1 - gain})
        return found
    level = 1.0
    for _ in range(24):
        candidate, cost = source.choice([("3", 1.0), ("6", 2.0), ("12", 4.0)])
        level -= 0.001
        found.append({"candidate": candidate, "flops": cost, "gain": 0.0, "loss_after": level + source.gauss(0, 0.001)})
    return found


def test_a_chooser_that_sees_nothing_looks_no_better_than_chance() -> None:
    values = []
    for seed in range(12):
        found = chance.check([trials("supernet", 0.0, 100 * seed + k) for k in range(6)], draws=200, seed=seed)
        assert found is not None and found.searches == 6
        assert found.ratio > 0 and found.chance > 0  # the best of several always looks better than their mean
        values.append(found.p_gain)
    assert 0.2 < sum(values) / len(values) < 0.8
    assert sum(value <= 0.05 for value in values) <= 3


def test_a_chooser_that_sees_differs_from_chance() -> None:
    found = chance.check([trials("probe", 0.4, seed) for seed in range(8)], draws=500)
    assert found is not None and found.p_gain < 0.02
    assert found == chance.check([trials("probe", 0.4, seed) for seed in range(8)], draws=500)
    assert chance.check([]) is None
    assert chance.check([[{"candidate": "3", "flops": 1.0, "gain": 1.0, "loss_after": 0.0}]]) is None


def test_trials_are_grouped_by_search() -> None:
    record = {"trials": [
        {"phase": phase, "stage": stage, "step": step, "candidate": "3"}
        for phase in ("pose", "video") for stage in (0, 1) for step in (0, 1)
    ]}  # fmt: skip
    assert [len(each) for each in chance.searches([json.loads(json.dumps(record))] * 2)] == [2] * 8
