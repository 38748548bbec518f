"""A task of one's own in one file is trained by `entprog train`: ranking, search, resume, evaluation, report."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from entprog.cli.app import main
from entprog.config.load import read_config
from tiny import lines
from toy_vectors import Vectors

RECIPE = """
task = "toy_vectors:Vectors"
device = "cpu"
model.init = "scratch"

[task_options]
width = 6

[ranking]
score = "cei"
samples = 16

[schedule]
name = "adaptive"

[schedule.options]
stages = 2
search_steps = 8
width = 2
estimator = "probe"

[phases.only]
steps = 40
blocks = "all"
batch = 8
learning_rate = 3e-3

[train]
mixed_precision = "no"
threads = 1
holdout_clips = 32
checkpointing_steps = 13
gradient_checkpointing = true
"""


def recipe(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.toml"
    path.write_text(f'output_dir = "{folder / name}"\n' + RECIPE)
    return ["train", str(path)]


def test_a_task_of_ones_own_trains_ranks_searches_resumes_and_is_judged(tmp_path: Path) -> None:
    main(recipe(tmp_path, "whole"))
    run = tmp_path / "whole"
    events = lines(run / "events.jsonl")
    kinds = [row["event"] for row in events]
    assert {"rank", "trial", "choice", "stage", "holdout", "finish"} <= set(kinds)
    losses = [row["loss"] for row in lines(run / "log.jsonl")]
    assert len(losses) == 40 and sum(losses[-8:]) < 0.8 * sum(losses[:8])
    (holdout,) = [row for row in events if row["event"] == "holdout"]
    assert len(holdout["bands"]) == 5 and holdout["loss"] == pytest.approx(sum(holdout["bands"]) / 5, rel=0.5)
    main(["evaluate", str(run)])
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert metrics["loss"] == pytest.approx(holdout["loss"], rel=1e-4) and "loss_0.8_1" in metrics
    assert metrics["log_loss"] == pytest.approx(holdout["log_loss"], rel=1e-4)
    main(["report", str(run)])
    assert "blocks.3" in (run / "report.html").read_text(encoding="utf-8")
    main(["rank", str(tmp_path / "whole.toml")])

    # The same run, stopped inside the search of its second stage and gone on with.
    class Stopped(Exception):
        pass

    from entprog.train.run import train

    recipe(tmp_path, "cut")
    config = read_config(tmp_path / "cut.toml")
    left = iter(range(28))

    def stop() -> None:
        if next(left) == 26:
            raise Stopped

    with pytest.raises(Stopped):
        train(config, after_step=stop)
    train(config, resume_from_checkpoint="latest")
    first, second = (load_file(str(tmp_path / name / "final" / "model.safetensors")) for name in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_its_defaults_are_those_of_the_contract() -> None:
    task = Vectors().build(read_config(None, {"device": "cpu", "train.mixed_precision": "no"}))
    batch = task.samples("train", 1, 0).batch(3, config_shape())
    draw = task.draw(batch, config_shape(), 7)
    loss, losses = task.reading(draw)
    assert loss == pytest.approx(sum(losses) / 4) and torch.equal(task.losses(draw), torch.tensor(losses))
    assert task.prefix(draw) is draw and task.cache_counts() is None and not task.generates
    with pytest.raises(ValueError, match="makes no clips"):
        next(iter(task.held_out(read_config(None).evaluate)))
    with pytest.raises(ValueError, match="can't be planned"):
        Vectors.plan_subject(read_config(None))


def config_shape():  # type: ignore[no-untyped-def]
    from entprog.core.types import Shape

    return Shape(16, 1, 4)
