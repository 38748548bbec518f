"""Methods by noise level: which band a step draws from, what it trains, and that samples stay pure functions."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from entprog import plugins
from entprog.config.load import ConfigError, ConfigWarning, config_of
from entprog.core.types import Shape, Workload
from entprog.data.sampler import stratified_tau
from entprog.tasks.finished_run import build_task
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.toml.trees import laid_over
from entprog.train.position import Position
from entprog.train.run import train

NAMES = tuple(f"blocks.{k}" for k in range(6))
SHAPE = Shape(32, 1, 8)


def recipe(run: Path, **changes: Any) -> Any:
    tree: dict[str, Any] = {
        "output_dir": str(run), "method": "bands", "device": "cpu", "model": {"init": "scratch"},
        "data": {"subjects": 2, "clips_per_subject": 1, "holdout": 1, "frames": 2, "sizes": [16]},
        "phases": {"subject": {"steps": 0}, "pose": {"steps": 10, "batch": 2, "resolution": 16}, "video": {"steps": 0}},
        "train": {"threads": 1, "mixed_precision": "no", "holdout_clips": 2}, "evaluate": {"clips": 0},
    }  # fmt: skip
    return config_of(laid_over(tree, changes))


@pytest.mark.parametrize("edges,shares,m", [
    ([0.6], [], [0.34, 0]), ([0.6], [0.4, 0.6], [2, 0]), ([0.2, 0.6], [0.1, 0.3, 0.6], [1, 3, 0]),
])  # fmt: skip
def test_bands_get_their_shares_and_blocks(edges: list[float], shares: list[float], m: list[float]) -> None:
    method = plugins.load("method", "bands", noise_edges=edges, noise_shares=shares, m=m)
    wanted = shares or [0.6, 0.4]
    for start in (0, 137):
        seen = Counter(method.band(i) for i in range(start, start + 200))
        assert [seen[k] / 200 for k in range(len(wanted))] == pytest.approx(wanted, abs=0.02)
    low = method.workload(next(i for i in range(9) if method.band(i) == 0), NAMES, SHAPE, 200, 0)
    high = method.workload(next(i for i in range(9) if method.band(i) == len(edges)), NAMES, SHAPE, 200, 0)
    assert low.active == NAMES[-(2 if m[0] != 1 else 1) :] and not low.inputs
    assert high.active == NAMES and high.inputs
    assert low.shape is not None and high.shape is not None
    assert (low.shape.band, high.shape.band) == ((0.0, edges[0]), (edges[-1], 1.0))
    planned = Counter[Workload]()
    for workload, count in method.workloads(NAMES, SHAPE, 200, 0):
        planned[workload] += count
    assert planned == Counter(method.workload(i, NAMES, SHAPE, 200, 0) for i in range(200))


def test_levels_are_spread_over_the_band() -> None:
    tau = stratified_tau(3, np.arange(1000, 1064), (0.6, 1.0))
    assert 0.6 <= tau.min() < 0.62 and 0.98 < tau.max() <= 1.0
    assert np.diff(np.sort(tau)).max() < 0.02
    assert np.array_equal(stratified_tau(3, np.arange(8)), stratified_tau(3, np.arange(8), (0.0, 1.0)))


@pytest.mark.parametrize("options,said", [
    ({"noise_edges": [0.6, 0.3]}, "noise_edges"), ({"noise_edges": [1.2]}, "noise_edges"),
    ({"noise_shares": [0.5]}, "noise_shares"), ({"noise_shares": [0.9, 0.9]}, "noise_shares"),
    ({"m": [0.5]}, "one for each band"), ({"m": [1.5, 0]}, "whole numbers of blocks"),
])  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plugins.load("method", "bands", **options)


def test_a_task_without_bands_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"noise_edges = \[0.6\]: the draws of task"):
        train(recipe(tmp_path / "run", task="toy_vectors:Vectors"))
    assert not (tmp_path / "run").exists()


def test_a_run_trains_by_band_and_goes_on(tmp_path: Path) -> None:
    run, stopped = tmp_path / "run", tmp_path / "stopped"
    train(recipe(run))
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    method = plugins.load("method", "bands")
    assert [len(row["active"]) == 12 for row in rows] == [bool(method.band(i)) for i in range(10)]
    cheap, dear = (
        {row["flops"] for row in rows if (len(row["active"]) == 12) == whole} for whole in (False, True)
    )  # fmt: skip
    assert max(cheap) < 0.75 * min(dear)
    config = recipe(stopped, train={"checkpointing_steps": 4, "checkpoints_total_limit": 0})
    train(config)
    train(config, resume_from_checkpoint=str(stopped / "checkpoint-4"))
    again = [json.loads(line)["loss"] for line in (stopped / "log.jsonl").read_text().splitlines()]
    assert again == [row["loss"] for row in rows]


def test_full_can_draw_as_much_high_noise(tmp_path: Path) -> None:
    """The shares are a setting of every method: full fine-tuning has them, too."""
    config = recipe(tmp_path / "run", method="full", method_options={"noise_edges": [0.6], "noise_shares": [0.4, 0.6]})
    method = plugins.load("method", "full", **config.method_options)
    task = build_task(config)
    phase = config.phases["pose"]
    task.enter(phase)
    samples = task.samples("train", 1, 0)
    for i in range(6):
        shape = method.workload(i, NAMES, Shape.of(phase.sides, 1, 8), 10, 0).shape
        tau = task.draw(samples.batch(8 * i, shape), shape, 0).tau
        low, high = shape.band
        assert float(tau.min()) >= low and float(tau.max()) <= high


@pytest.mark.parametrize("method", ["progressive", "mixed"])
def test_ranked_methods_draw_by_band_outside_of_searches(method: str, tmp_path: Path) -> None:
    """A search reads all levels; the steps after it have the shares that are asked for, and a cut run goes on."""
    schedule = {"name": "adaptive", "options": {"stages": 1, "search_steps": 4}}
    more: dict[str, Any] = {
        "method": method, "method_options": {"noise_edges": [0.6], "noise_shares": [0.3, 0.7]}, "schedule": schedule,
        "ranking": {"score": "order", "samples": 2}, "phases": {"pose": {"steps": 12}},
    }  # fmt: skip
    run, cut = tmp_path / "run", tmp_path / "cut"
    train(recipe(run, **more))
    config = recipe(cut, **laid_over(more, {"train": {"checkpointing_steps": 6, "checkpoints_total_limit": 0}}))
    train(config)
    train(config, resume_from_checkpoint=str(cut / "checkpoint-6"))
    assert [row["loss"] for row in lines(cut)] == [row["loss"] for row in lines(run)]
    plain = tmp_path / "plain"
    train(recipe(plain, **laid_over(more, {"method_options": {"noise_edges": [], "noise_shares": []}})))
    same = [a["loss"] == b["loss"] for a, b in zip(lines(run), lines(plain), strict=True)]
    assert same == [True] * 4 + [False] * 8


def test_a_loop_that_draws_levels_itself_refuses_bands() -> None:
    with pytest.raises(
        ValueError, match=r"noise_edges = \[0.6\]: noise levels are drawn by band in entprog train only"
    ):
        method = plugins.load("method", "progressive", noise_edges=[0.6])
        method.check_drawn(SimpleNamespace(shape=None))
    with pytest.raises(ValueError, match="noise_shares"):
        plugins.load("method", "progressive", noise_edges=[0.6], noise_shares=[0.4])


ECHO: dict[str, Any] = {"echo": 2, "noise_edges": [0.3, 0.6], "noise_shares": [0.3, 0.3, 0.4], "m": [1, 0.34, 0]}


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_bands_come_in_runs_that_repeat_a_batch() -> None:
    method = plugins.load("method", "bands", echo=3, noise_edges=[0.6], noise_shares=[0.4, 0.6], resolution=[16, 32])
    about = NAMES, SHAPE, 200, 0
    bands = [method.band(i) for i in range(200)]
    assert all(len(set(bands[i : i + 3])) == 1 for i in range(0, 198, 3))
    assert bands.count(0) / 200 == pytest.approx(0.4, abs=0.03)
    replays = [method.replays(i, *about) for i in range(200)]
    position, firsts = Position(), []
    for i, replayed in enumerate(replays):
        first = position.of(i, replayed)
        position.took(i, replayed, first, 8)
        firsts.append(first)
        if i == 99:  # within a run that the stage's end divides; a checkpoint keeps the place
            kept = position.state_dict()
            position = Position()
            position.load_state_dict(json.loads(json.dumps(kept)))
    new = [i for i, replayed in enumerate(replays) if replayed == i]
    assert [firsts[i] for i in new] == [8 * k for k in range(len(new))], "new batches follow each other without a gap"
    for i, replayed in enumerate(replays):
        assert firsts[i] == firsts[replayed] and method.workload(i, *about) == method.workload(replayed, *about)
        assert i - replayed in ({0, 1, 2} if bands[i] == 0 else {0})
    assert sum(i != replayed for i, replayed in enumerate(replays)) > 0.6 * bands.count(0)


def test_one_echo_is_none() -> None:
    plain, once = plugins.load("method", "bands"), plugins.load("method", "bands", echo=1)
    assert [once.workload(i, NAMES, SHAPE, 50, 0) for i in range(50)] == [
        plain.workload(i, NAMES, SHAPE, 50, 0) for i in range(50)
    ]
    assert [once.replays(i, NAMES, SHAPE, 50, 0) for i in range(50)] == list(range(50))


@pytest.fixture(scope="module")
def echoed(small_nano: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe(tmp_path_factory.mktemp("bands") / "run", method_options=ECHO, phases={"pose": {"steps": 16}}))


def test_a_cached_prefix_changes_no_number(echoed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """High-noise steps move the blocks below: what is cached lives for one run of steps only, and is exact there."""
    monkeypatch.setattr(HumanVideoTask, "prefix", lambda task, draw: draw)
    anew = train(recipe(tmp_path / "anew", method_options=ECHO, phases={"pose": {"steps": 16}}))
    kept, computed = lines(echoed), lines(anew)
    assert [row["loss"] for row in kept] == [row["loss"] for row in computed]
    assert (echoed / "final" / "model.safetensors").read_bytes() == (anew / "final" / "model.safetensors").read_bytes()
    method = plugins.load("method", "bands", **ECHO)
    low = [method.band(i) < 2 for i in range(16)]
    assert {method.band(i) for i in range(16)} == {0, 1, 2}
    assert [row["echo"] for row in kept] == [low[i] and i % 2 == 1 for i in range(16)]
    for band in (0, 1):
        first, again = (
            {row["flops"] for i, row in enumerate(kept) if method.band(i) == band and row["echo"] == echo}
            for echo in (False, True)
        )
        assert max(again) < 0.85 * min(first)
    # The first step of a run makes the reference pass of the frozen blocks twice, the second begins above them.
    for m in (1, 2):
        taken, whole = (sum(row["flops"] for row in rows if row["m"] == m) for rows in (kept, computed))
        assert taken < 0.95 * whole
    assert [row["flops"] for row in kept if row["m"] == 6] == [row["flops"] for row in computed if row["m"] == 6]


def test_goes_on_in_the_middle_of_a_run_of_echoes(echoed: Path, tmp_path: Path) -> None:
    method = plugins.load("method", "bands", **ECHO)
    odd = next(i for i in range(3, 16, 2) if method.band(i) < 2)
    config = recipe(
        tmp_path / "cut", method_options=ECHO, phases={"pose": {"steps": 16}},
        train={"checkpointing_steps": odd, "checkpoints_total_limit": 0},
    )  # fmt: skip
    train(config)
    train(config, resume_from_checkpoint=str(tmp_path / "cut" / f"checkpoint-{odd}"))
    assert [row["loss"] for row in lines(tmp_path / "cut")] == [row["loss"] for row in lines(echoed)]


def test_two_kinds_of_echo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"phases.pose.echo = 4.*leave one of them at 1"):
        recipe(tmp_path, method_options={"echo": 2}, phases={"pose": {"echo": 4}})
    with pytest.warns(ConfigWarning, match="set method_options.echo instead"):
        recipe(tmp_path, phases={"pose": {"echo": 4}})
    with pytest.warns(ConfigWarning, match="leave echo at 1, or noise_edges empty"):
        options = {"noise_edges": [0.6], "m": 0.34, "inputs": "never"}
        recipe(tmp_path, method="lora", method_options=options, phases={"pose": {"echo": 4}})
    with pytest.raises(ValueError, match="echo = 0: give 1"):
        plugins.load("method", "bands", echo=0)
