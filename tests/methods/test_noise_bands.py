"""Methods by noise level: which band a step draws from, what it trains, and that samples stay pure functions."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entprog import plugins
from entprog.config.load import config_of
from entprog.core.types import Shape, Workload
from entprog.data.sampler import stratified_tau
from entprog.tasks.finished_run import build_task
from entprog.toml.trees import laid_over
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
