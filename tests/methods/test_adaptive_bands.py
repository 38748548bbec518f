"""Searches by noise band: what is compared, what is chosen and kept, what it takes, and that it goes on exactly."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from entprog import plugins
from entprog.config.load import config_of
from entprog.core.bands import watched_loss
from entprog.core.probe import cheapest_choice, probe_choice
from entprog.core.types import Shape, Trial, Workload
from entprog.train.run import train
from loops import Rig, weights
from toy import toy_draws

SHAPE = Shape(16, 1, 8)
HELD = toy_draws(12, size=2, tokens=3, seed=2)
OPTIONS: dict[str, Any] = {"depths": [1, 0], "searches": 2, "search_share": 1.0, "m": [0.5, 0]}


def rig(total: int = 80, **options: Any) -> Rig:
    given = {**OPTIONS, **options}
    return Rig(method="adaptive_bands", schedule=None, total=total, shape=SHAPE, holdout=HELD, options=given)


def events(of: Rig, name: str) -> list[dict[str, Any]]:
    return [values for event, values in of.events if event == name]


def test_each_band_is_searched_and_trains_what_won() -> None:
    made = rig()
    made.run(checked=False)
    method, plugin = made.method, plugins.load("method", "adaptive_bands", **OPTIONS)
    searching = [i for i, info in enumerate(made.infos) if info.searching]
    assert searching == [*range(32), *range(40, 72)], "two bands, two candidates, eight steps each"
    assert [made.infos[i].replays for i in range(32)] == [*range(8), *range(8), *range(16, 24), *range(16, 24)]
    chosen = [[event["m"] for event in events(made, "choice") if event["stage"] == stage] for stage in (0, 1)]
    for i, info in enumerate(made.infos):
        assert info.stage == (i >= 40) and info.workload.shape is not None
        if not info.searching:
            band = plugin.band(i)
            assert info.m == chosen[info.stage][band] and info.replays == i
            assert info.workload.shape.band == [(0.0, 0.6), (0.6, 1.0)][band]
            assert info.workload.inputs == (info.m == 4)
    rejected = sum(
        t.flops for k in range(4) for t in method.trials[2 * k : 2 * k + 2] if t.workload != method.chosen[k]
    )
    assert method.search_flops == pytest.approx(rejected + 2 * 3 * 7.0), "each of three readings of the whole holdout"
    assert [event["band"] for event in events(made, "choice")] == [[0.0, 0.6], [0.6, 1.0]] * 2
    assert events(made, "choice")[3]["message"].startswith("stage 2, band 0.6-1: last ")
    assert " of 4, gain " in events(made, "choice")[3]["message"]


def test_a_candidate_is_read_on_the_samples_of_its_band() -> None:
    made = rig()
    made.run(0, 8, checked=False)
    with torch.no_grad():
        pairs = [
            (tau, loss)
            for draw in HELD
            for tau, loss in zip(draw.tau.tolist(), made.task.losses(draw).tolist(), strict=True)
        ]
    low = [loss for _, loss in sorted(pairs)[:14]]  # .6 of 24 samples
    assert made.method.trials[0].loss_after == pytest.approx(watched_loss(low, [], "mean"))


def test_goes_on_exactly_inside_a_search() -> None:
    whole = rig()
    whole.run(checked=False)
    for stop in (5, 21, 36, 50):
        cut, again = rig(), rig()
        cut.run(0, stop, checked=False)
        saved = deepcopy((cut.method.state_dict(), cut.task.model.state_dict(), cut.optimizer.state_dict()))
        again.task.model.load_state_dict(saved[1])
        again.optimizer.load_state_dict(saved[2])
        again.method.load_state_dict(saved[0])
        again.run(stop, checked=False)
        assert again.losses == whole.losses[stop:] and again.method.search_flops == whole.method.search_flops
        assert all(torch.equal(value, weights(again.task)[name]) for name, value in weights(whole.task).items())


def test_only_the_workloads_blocks_move() -> None:
    rig().run()


def test_the_cheapest_wins_within_two_errors() -> None:
    small, large = Workload(("b",)), Workload(("a", "b"))

    def trials(gain: float, error: float) -> list[Trial]:
        return [Trial(0, 0, small, 1, 1, 1.0, 0.9, 0.01), Trial(0, 1, large, 2, 2, 1.0, 1 - gain, error)]

    assert cheapest_choice(trials(0.26, 0.04), "flops")[0] == small
    assert cheapest_choice(trials(0.40, 0.04), "flops")[0] == large
    assert cheapest_choice(trials(0.10, 0.04), "flops")[0] == small
    assert probe_choice(trials(0.19, 0.04), "flops")[0] == large, "the progressive method takes the larger"


def test_a_search_stays_within_its_share() -> None:
    plugin = plugins.load("method", "adaptive_bands")
    low, whole = (1 + 2 / 3) / 3, 1.0
    for total in (400, 900, 2000):
        steps = plugin.probe_steps(total, 8, [19, 13], [1 / 3, 1.0])
        rejected, read = 2 * 2 * steps * whole, 2 * 3 * (19 + 13) / (3 * 8)
        assert steps < 4 or rejected + read <= 0.05 * total * low
    assert [plugin.probe_steps(total, 8, [19, 13], [1 / 3, 1.0]) >= 4 for total in (400, 900)] == [False, True]
    assert plugin.probe_steps(10**6, 8, [19, 13], [1 / 3, 1.0]) == 16


def test_a_short_phase_says_that_it_does_not_search() -> None:
    short = rig(total=20, search_share=0.05)
    (warning,) = events(short, "warning")
    assert warning["sign"] == "search" and "20 steps are too few for 2 searches" in warning["message"]
    short.run(checked=False)
    assert {info.m for info in short.infos} == {2, 4} and not any(info.searching for info in short.infos)


@pytest.mark.parametrize("options,said", [
    ({"depths": [0]}, "at least two"), ({"searches": 0}, "searches = 0"), ({"search_share": 2.0}, "search_share = 2.0"),
    ({"echo": 2}, "echo: not with searches"), ({"frames": [1, 2]}, "frames: not with searches"),
])  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plugins.load("method", "adaptive_bands", **options)


def test_too_few_readings_are_refused() -> None:
    with pytest.raises(ValueError, match="a band has 3 held-out samples, a search needs 8"):
        Rig(method="adaptive_bands", schedule=None, total=200, shape=SHAPE, holdout=HELD[:4], options=OPTIONS)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.usefixtures("small_nano")
def test_a_run_searches_says_so_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree: dict[str, Any] = {
        "output_dir": str(tmp_path / "run"), "method": "adaptive_bands", "device": "cpu", "model": {"init": "scratch"},
        "method_options": {"depths": [1, 0], "searches": 1, "search_share": 0.5},
        "data": {"subjects": 4, "clips_per_subject": 1, "holdout": 1, "frames": 2, "sizes": [16]},
        "phases": {"subject": {"steps": 0}, "pose": {"steps": 60, "batch": 4, "resolution": 16}, "video": {"steps": 0}},
        "train": {
            "threads": 1, "mixed_precision": "no", "holdout_clips": 20, "watch": "bands", "checkpointing_steps": 13,
            "checkpoints_total_limit": 0,
        },
        "evaluate": {"clips": 0},
    }  # fmt: skip
    run = train(config_of(tree))
    rows, told = lines(run / "log.jsonl"), capsys.readouterr().out
    assert [row["searching"] for row in rows] == [i < 16 for i in range(60)]
    assert "stage 1, band 0-0.6: last " in told and "stage 1, band 0.6-1: last " in told and " a TFLOP" in told
    choices = [row for row in lines(run / "events.jsonl") if row["event"] == "choice"]
    method = plugins.load("method", "adaptive_bands", **tree["method_options"])
    assert [row["m"] for row in rows[16:]] == [choices[method.band(i)]["m"] for i in range(16, 60)]
    totals = json.loads((run / "totals.json").read_text())
    assert 0 < totals["flops_search"] < 0.5 * totals["flops"]
    train(config_of(tree), resume_from_checkpoint=str(run / "checkpoint-13"))
    assert [row["loss"] for row in lines(run / "log.jsonl")] == [row["loss"] for row in rows]
    assert json.loads((run / "totals.json").read_text())["flops"] == totals["flops"]
