"""Whole runs: the files they leave, the sums they add up to, and how they end when something is wrong."""

import json
import math
import os
import re
import signal
import stat
import textwrap
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import processes
from entprog.codecs.pca import PatchCodec
from entprog.config.load import read_config, write_config
from entprog.config.schema import Config
from entprog.core.bands import mean_log
from entprog.data.shards import Shards, ShardWriter
from entprog.files import save_weights
from entprog.nets.dit import SIZES
from entprog.tasks.finished_run import open_run
from entprog.tasks.human_video.build import build_model
from entprog.train.log import RunLog
from entprog.train.run import train
from tiny import lines, tiny_config

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
PHASES = ("1-subject", "2-pose", "3-video")
STEPS = (4, 12, 4)
LINE = {
    "step", "phase", "phase_step", "stage", "loss", "lr", "grad_norm", "m", "active", "trainable_params", "seconds",
    "elapsed", "flops", "bytes_peak", "bytes_live", "frames", "resolution", "batch", "searching", "tokens", "inputs",
    "echo", "flops_cache", "seconds_cache",
    "holdout_loss", "holdout_log_loss", "holdout_bands",
}  # fmt: skip


def one_phase(out: Path, data: Path, **overrides: Any) -> Config:
    """The pose phase alone."""
    return tiny_config(out, data, **{"phases__subject__steps": 0, "phases__video__steps": 0, **overrides})


NANO = SIZES["nano"]


pytestmark = pytest.mark.usefixtures("small_nano")


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size that a process of its own has."""
    monkeypatch.setitem(SIZES, "nano", NANO)


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A progressive run of three phases; the second searches."""
    options: dict[str, Any] = {"stages": 1, "search_steps": 6, "estimator": "probe"}
    config = tiny_config(
        tmp_path_factory.mktemp("finished") / "run", tiny_data, schedule__name="adaptive",
        **{f"schedule__options__{key}": value for key, value in options.items()},
        phases__subject__steps=8, phases__pose__steps=12, phases__video__steps=8, ranking__score="gradient",
        train__validation_steps=10, train__validation_clips=1, train__checkpointing_steps=10, train__ema_decay=0.9,
        train__report_to="tensorboard", evaluate__clips=2, label="tiny",
    )  # fmt: skip
    return train(config, command="entprog train tiny.toml")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_run_leaves_every_file(finished: Path) -> None:
    for name in (
        "run.json", "config.toml", "log.jsonl", "events.jsonl", "totals.json", "metrics.json", "report.html",
        "final/model.safetensors", "final/ema.safetensors", "final/config.json", "checkpoint-28/complete",
        *(f"{phase}/{file}" for phase in PHASES
          for file in ("scores.json", "draws.safetensors", "draws.json", "trainable-stage0.txt")),
    ):  # fmt: skip
        assert (finished / name).is_file(), name
    assert not [*finished.rglob("*.partial"), *finished.glob(".checkpoint*")]
    assert [p.name for p in sorted(finished.glob("checkpoint-*"))] == ["checkpoint-20", "checkpoint-28"]
    about = read(finished / "run.json")
    assert about["status"] == "finished" and about["reason"] is None and about["method"] == "progressive"
    assert about["label"] == "tiny" and about["command"] == "entprog train tiny.toml" and about["seed"] == 0
    assert about["versions"]["torch"] == torch.__version__ and about["device"].startswith("CPU")
    assert about["threads"] == 1 and about["started"] <= about["finished"]
    resolved = read_config(finished / "config.toml", resolved=True)
    assert resolved.output_dir == str(finished) and write_config(resolved) == (finished / "config.toml").read_text()
    page = (finished / "report.html").read_text()
    assert "tiny" in page and "2-pose" in page


def test_log_lines_have_every_key(finished: Path) -> None:
    rows = lines(finished / "log.jsonl")
    assert all(set(row) == LINE for row in rows)
    assert [row["step"] for row in rows] == list(range(28))
    assert [(row["phase"], row["phase_step"]) for row in rows] == [
        (phase, i) for phase, steps in zip(PHASES, (8, 12, 8), strict=True) for i in range(steps)
    ]
    assert all(a["elapsed"] <= b["elapsed"] for a, b in pairwise(rows))
    for row in rows:
        assert math.isfinite(row["loss"]) and row["grad_norm"] > 0 and row["lr"] == 1e-3
        assert row["m"] == len(row["active"]) == len(set(row["active"])) and row["flops"] > 0 and row["seconds"] > 0
        assert row["bytes_peak"] == sum(row["bytes_live"].values())
        assert (row["frames"], row["resolution"], row["batch"]) == (3 if row["phase"] == "3-video" else 1, 16, 2)
    assert {row["searching"] for row in rows} == {True, False}


def test_events_tell_what_happened(finished: Path) -> None:
    rows = lines(finished / "events.jsonl")
    assert all({"time", "elapsed", "step", "phase", "event"} <= set(row) for row in rows)
    kinds = [row["event"] for row in rows]
    assert kinds.count("phase") == kinds.count("rank") == kinds.count("choice") == kinds.count("stage") == 3
    assert kinds[-1] == "finish" and kinds.count("checkpoint") == 1 + 3
    assert kinds.count("holdout") >= 3 and kinds.count("sample") >= 2
    for row in rows:
        if row["event"] == "stage":
            assert row["m"] == len(row["active"])
        if row["event"] == "trial":
            assert row["gain"] == pytest.approx(row["loss_before"] - row["loss_after"])
        if row["event"] == "choice":
            assert str(row["m"]) in row["efficiency"] and row["stage"] == 0
        if row["event"] == "holdout":
            assert row["loss"] == pytest.approx(sum(row["per_draw"]) / len(row["per_draw"]))
            assert row["log_loss"] == pytest.approx(mean_log(row["bands"]))


def test_steps_of_events_match_the_log(finished: Path) -> None:
    rows = lines(finished / "events.jsonl")
    assert [row["step"] for row in rows if row["event"] == "phase"] == [0, 8, 20]
    assert [row["step"] for row in rows if row["event"] == "rank"] == [0, 8, 20]
    assert [row["path"] for row in rows if row["event"] == "checkpoint"] == [
        "checkpoint-8", "checkpoint-10", "checkpoint-20", "checkpoint-28",
    ]  # fmt: skip


def test_scores_hold_the_whole_ranking(finished: Path) -> None:
    for phase, family in zip(PHASES, ("blocks.", "blocks.", "temporal."), strict=True):
        scores = read(finished / phase / "scores.json")
        names = scores["order"]
        assert set(names) == set(scores["values"]) == set(scores["cost"]) and names
        assert all(name.startswith(family) for name in names)
        assert [scores["values"][n] for n in names] == sorted(scores["values"].values(), reverse=True)
        assert scores["samples"] == 4 and scores["flops"] > 0 and scores["seconds"] > 0
        for cost in scores["cost"].values():
            assert cost["bytes"] == 4 * cost["parameters"] > 0 and cost["lowest_depth"] >= 0


def test_trainable_reports_agree_with_the_log(finished: Path) -> None:
    rows = lines(finished / "log.jsonl")
    shapes = {name: tuple(t.shape) for name, t in load_file(str(finished / "final/model.safetensors")).items()}
    for phase in PHASES:
        chosen = next(row for row in rows if row["phase"] == phase and not row["searching"])
        head, blocks, *rest = (finished / phase / "trainable-stage0.txt").read_text().splitlines()
        reported = [re.fullmatch(r"(\S+) (\(.*\)) (\d+) (trained|frozen)", line).groups() for line in rest]  # type: ignore[union-attr]
        assert {name for name, *_ in reported} == set(shapes)
        assert all(eval(shape) == shapes[name] for name, shape, *_ in reported)
        trained = sum(int(count) for _, _, count, what in reported if what == "trained")
        assert head.startswith(f"trained {trained:,} of ") and trained == chosen["trainable_params"]
        assert len(blocks.removeprefix("blocks: ").split(", ")) == chosen["m"]
        if phase == "3-video":
            assert all(name.startswith("temporal.") for name, *_, what in reported if what == "trained")


def test_totals_add_up(finished: Path) -> None:
    rows, events, totals = (
        lines(finished / "log.jsonl"), lines(finished / "events.jsonl"), read(finished / "totals.json"),
    )  # fmt: skip
    scoring = sum(row["flops"] for row in events if row["event"] == "rank")
    assert totals["flops_scoring"] == scoring == sum(read(finished / p / "scores.json")["flops"] for p in PHASES)
    chosen = {row["phase"]: row["m"] for row in events if row["event"] == "choice"}
    losers = sum(r["flops"] for r in events if r["event"] == "trial" and r["m"] != chosen[r["phase"]])
    readings = totals["flops_search"] - losers
    assert readings > 0 and totals["flops"] == sum(row["flops"] for row in rows) + readings + scoring
    ranked = [row["bytes_peak"] for row in events if row["event"] == "rank"]
    assert totals["steps"] == 28 and totals["bytes_peak_scoring"] == max(ranked) > 0
    assert totals["bytes_peak"] == max(*ranked, *(row["bytes_peak"] for row in rows))
    assert totals["bytes_mean"] <= totals["bytes_peak"]
    assert totals["seconds"] == pytest.approx(sum(r["seconds"] for r in rows) + totals["seconds_scoring"], abs=1e-3)
    assert 0 < totals["seconds_search"] < totals["seconds"]
    last = [row for row in events if row["event"] == "holdout"][-1]
    assert (totals["holdout_loss"], totals["holdout_log_loss"]) == (last["loss"], last["log_loss"])
    assert {k: v for k, v in events[-1].items() if k in totals} == totals


def test_samples_are_written_along_the_way_and_at_the_end(finished: Path) -> None:
    for folder in ("2-pose-10", "2-pose-20", "3-video-28", "final"):
        videos = list((finished / "samples" / folder).rglob("*.mp4"))
        assert videos and all(video.with_suffix(".gif").is_file() for video in videos), folder
    metrics = read(finished / "metrics.json")
    assert {"l1", "psnr", "ssim"} <= set(metrics["metrics"]) and len(metrics["per_clip"]) == 2
    assert {"copy_reference", "mean_frame"} <= set(metrics["baselines"])
    assert metrics["protocol"]["weights"] in ("ema", "model")


def test_tensorboard_has_the_scalars(finished: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(finished / "tensorboard")).Reload()
    assert {"train/loss", "lr", "grad_norm", "timing/step", "stage", "m", "trainable_params"} <= set(
        board.Tags()["scalars"]
    )
    rows = lines(finished / "log.jsonl")
    assert [event.step for event in board.Scalars("train/loss")] == list(range(28))
    assert [event.value for event in board.Scalars("m")] == [row["m"] for row in rows]


def test_the_final_weights_are_the_last_checkpoints(finished: Path) -> None:
    final, averaged = (load_file(str(finished / "final" / f"{name}.safetensors")) for name in ("model", "ema"))
    state = load_file(str(finished / "checkpoint-28" / "state.safetensors"))
    assert all(torch.equal(value, state[f"/model/{name}"]) for name, value in final.items())
    assert final.keys() == averaged.keys() and any(not torch.equal(final[n], averaged[n]) for n in final)
    for kind, expected in (("model", final), ("ema", averaged), ("auto", averaged)):
        _, task = open_run(finished, kind)
        assert all(torch.equal(value, expected[name]) for name, value in task.model.state_dict().items())


def test_phases_leave_alone_what_is_not_theirs(tiny_data: Path, tmp_path: Path) -> None:
    """The pose phase moves no temporal block; the video phase nothing else."""
    run = train(tiny_config(tmp_path / "run", tiny_data, method="full", phases__subject__steps=0,
                            train__checkpoints_total_limit=0))  # fmt: skip
    before, after = (
        {k: v for k, v in load_file(str(run / f"checkpoint-{n}" / "state.safetensors")).items() if "/model/" in k}
        for n in (6, 10)
    )
    torch.manual_seed(0)
    start = build_model(read_config(run / "config.toml", resolved=True).model).state_dict()
    first = {k for k in start if not torch.equal(start[k], before[f"/model/{k}"])}
    second = {k.removeprefix("/model/") for k in before if not torch.equal(before[k], after[k])}
    assert first and not any(name.startswith("temporal.") for name in first)
    assert second and all(name.startswith("temporal.") for name in second)
    assert not (run / "1-pose" / "scores.json").exists()
    totals, rows = read(run / "totals.json"), lines(run / "log.jsonl")
    assert totals["flops"] == sum(row["flops"] for row in rows)
    assert totals["flops_scoring"] == totals["flops_search"] == totals["seconds_search"] == 0
    assert {row["m"] for row in rows} == {6, 3} and {row["stage"] for row in rows} == {0}


@pytest.mark.parametrize("estimator", ["supernet"])
def test_a_supernet_charges_each_reading(estimator: str, tiny_data: Path, tmp_path: Path) -> None:
    run = train(
        one_phase(
            tmp_path / "run", tiny_data, schedule__name="adaptive", schedule__options__stages=1,
            schedule__options__search_steps=5, schedule__options__estimator=estimator, ranking__score="order",
        )
    )  # fmt: skip
    rows, totals = lines(run / "log.jsonl"), read(run / "totals.json")
    assert [row["searching"] for row in rows] == [True] * 5 + [False]
    assert totals["flops_search"] > 0 and totals["flops_search"] % 5 == 0
    assert totals["flops"] == sum(row["flops"] for row in rows) + totals["flops_search"] + totals["flops_scoring"]


def test_accumulated_micro_batches_equal_one_large_batch(tiny_data: Path, tmp_path: Path) -> None:
    rows = []
    for name, batch, count in (("one", 4, 1), ("two", 2, 2)):
        config = one_phase(
            tmp_path / name, tiny_data, method="full", phases__pose__batch=batch, phases__pose__steps=3,
            train__gradient_accumulation_steps=count,
        )  # fmt: skip
        rows.append(lines(train(config) / "log.jsonl"))
    for large, small in zip(*rows, strict=True):
        assert small["loss"] == pytest.approx(large["loss"], rel=1e-4)
        assert small["grad_norm"] == pytest.approx(large["grad_norm"], rel=1e-3)
    assert rows[0][0]["loss"] == pytest.approx(rows[1][0]["loss"], rel=1e-6)


@pytest.mark.slow
def test_recomputation_and_offloading_change_nothing(tiny_data: Path, tmp_path: Path) -> None:
    losses = []
    for name, more in (
        ("plain", {}),
        ("other", {"train__gradient_checkpointing": True, "freeze__states": "offload"}),
    ):
        run = train(one_phase(tmp_path / name, tiny_data, ranking__score="order", **more))
        losses.append([row["loss"] for row in lines(run / "log.jsonl")])
    assert losses[0] == losses[1]


# --- how runs end that do not finish ---


def test_a_loss_that_is_not_finite_stops_the_run(tiny_data: Path, tmp_path: Path) -> None:
    config = one_phase(
        tmp_path / "run", tiny_data, method="full", phases__pose__learning_rate=1e18, train__checkpointing_steps=1,
        train__max_grad_norm=0,
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"the loss is (nan|inf) at step \d \(phase pose, step \d, learning rate 1e\+18\)"
    ):
        train(config)
    run = tmp_path / "run"
    about, events = read(run / "run.json"), lines(run / "events.jsonl")
    assert about["status"] == "failed" and "the loss is" in about["reason"] and about["finished"]
    assert "last good checkpoint is" in about["reason"] and "Lower the learning rate" in about["reason"]
    assert events[-1]["event"] == "stop" and events[-1]["reason"] == about["reason"]
    done = len(lines(run / "log.jsonl"))
    assert 1 <= done < 6 and (run / f"checkpoint-{done}" / "complete").is_file()
    assert not (run / "final").exists()


def test_poisoned_weights_stop_before_the_first_step(tiny_data: Path, tmp_path: Path) -> None:
    model = build_model(read_config(None, {"model.init": "scratch"}).model)
    with torch.no_grad():
        model.head.bias[3] = math.nan
    save_weights(model.state_dict(), tmp_path / "bad.safetensors")
    config = one_phase(tmp_path / "run", tiny_data, method="full", model__init=str(tmp_path / "bad.safetensors"))
    with pytest.raises(
        ValueError, match=r"the loss is nan at step 0 \(phase pose, step 0.*no checkpoint was written yet"
    ):
        train(config)
    assert read(tmp_path / "run" / "run.json")["status"] == "failed"


def test_a_gradient_that_is_not_finite_moves_nothing(tiny_data: Path, tmp_path: Path) -> None:
    """The loss still is: its square root's slope at zero is not."""
    from entprog.tasks.human_video.task import HumanVideoTask

    plain, calls = HumanVideoTask.loss, []

    def steep(self: HumanVideoTask, draw: Any) -> torch.Tensor:
        calls.append(1)
        value = plain(self, draw)
        return value + (value * 0).sqrt() if torch.is_grad_enabled() and len(calls) > 2 else value

    config = one_phase(tmp_path / "run", tiny_data, method="full", train__checkpointing_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HumanVideoTask, "loss", steep)
        with pytest.raises(ValueError, match=r"the gradient's norm is nan at step 2 \(phase pose, step 2"):
            train(config)
    for value in load_file(str(tmp_path / "run" / "checkpoint-2" / "state.safetensors")).values():
        assert value.isfinite().all()
    assert len(lines(tmp_path / "run" / "log.jsonl")) == 2


def test_a_signal_in_the_last_step_lets_the_run_finish(tiny_data: Path, tmp_path: Path) -> None:
    """Nothing is left to resume: the holdout is read, and the run ends as it would have."""
    run = tmp_path / "run"
    line = RunLog.line

    def stopping(self: RunLog, row: dict[str, Any]) -> None:
        line(self, row)
        if row["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "line", stopping)
        train(one_phase(run, tiny_data, method="full", train__checkpointing_steps=3))
    assert read(run / "run.json")["status"] == "finished" and read(run / "totals.json")["holdout_loss"] > 0


def test_an_existing_folder_is_refused_and_left_alone(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"output_dir = .*exists; choose another, or go on with --resume"):
        train(tiny_config(run, tiny_data))
    assert [(p.name, p.read_text()) for p in run.iterdir()] == [("mine.txt", "mine")]
    with pytest.raises(ValueError, match="no run to resume there"):
        train(tiny_config(run, tiny_data), resume_from_checkpoint="latest")
    with pytest.raises(ValueError, match="no run to resume there"):
        train(tiny_config(tmp_path / "none", tiny_data), resume_from_checkpoint="latest")
    assert not (tmp_path / "none").exists()


def test_resuming_with_other_settings_lists_them(finished: Path, tiny_data: Path) -> None:
    config = read_config(
        finished / "config.toml",
        {"train.seed": "3", "phases.pose.steps": "40", "label": "new", "train.checkpointing_steps": "9"},
        resolved=True,
    )
    with pytest.raises(ValueError) as error:
        train(config, resume_from_checkpoint="latest")
    reported = str(error.value).splitlines()
    assert reported[0].startswith("the configuration differs from the run's own")
    assert sorted(reported[1:]) == ["phases.pose.steps: 12 -> 40", "train.seed: 0 -> 3"]


def test_a_finished_run_may_be_resumed_to_no_effect(finished: Path) -> None:
    before = load_file(str(finished / "final" / "model.safetensors"))
    rows = lines(finished / "log.jsonl")
    config = read_config(finished / "config.toml", resolved=True)
    train(config, resume_from_checkpoint="latest")
    after = load_file(str(finished / "final" / "model.safetensors"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert lines(finished / "log.jsonl") == rows and read(finished / "run.json")["status"] == "finished"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"phases__pose__batch": 7}, r"phases\.pose\.batch = 7: larger than the data set's 6 training clips"),
        ({"phases__video__frames": 9}, r"no train clip in .* has 9 frames \(longest 8\)"),
        ({"phases__video__resolution": 64}, r"phases\.video\.resolution = 64: the data set stores \[16, 32\]"),
        ({"ranking__pattern": ["layers.*"]}, r"layers\.\*"),
    ],
)  # fmt: skip
def test_what_the_data_cannot_feed_is_told_before_any_work(
    overrides: dict[str, Any], message: str, tiny_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(tiny_config(tmp_path / "run", tiny_data, **overrides))
    if "ranking__pattern" not in overrides:
        assert not (tmp_path / "run").exists(), "a run that never began leaves no folder"


def test_data_without_clips_is_told(tmp_path: Path) -> None:
    codec = PatchCodec.default()
    writer = ShardWriter(tmp_path / "empty", codec={"codec": codec.name, "codec_hash": codec.hash}, sizes=(16,), fps=1)
    writer.close()
    with pytest.raises(ValueError, match="the data set is empty"):
        train(tiny_config(tmp_path / "run", tmp_path / "empty"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"no dataset\.json and index\.jsonl there"):
        train(tiny_config(tmp_path / "run", tmp_path / "bare"))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="only root can drop its rights")
def test_a_folder_that_may_not_be_read_is_told(tiny_data: Path, tmp_path: Path) -> None:
    """As another user: one line that names the folder, no traceback."""
    code = textwrap.dedent("""
        import os, sys
        from entprog.cli.errors import plain_errors
        from entprog.data.source import open_data
        from entprog.train.run import train
        from entprog.config.load import read_config

        config = read_config(sys.argv[1])
        open_data(read_config(sys.argv[2]).data)  # everything is imported while this still may
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with plain_errors():
            train(config)
    """)
    locked, out = tmp_path / "locked", tmp_path / "out"
    locked.mkdir(0o700)
    out.mkdir()
    out.chmod(0o777)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    recipes = []
    for name, data in (("locked", locked), ("open", tiny_data)):
        recipes.append(str(tmp_path / f"{name}.toml"))
        Path(recipes[-1]).write_text(write_config(tiny_config(out / "run", data)))
    done = processes.run(["-c", code, *recipes], env=ONE_THREAD)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and str(locked) in done.stderr and "ermission" in done.stderr
    assert not (out / "run").exists()


def test_sigterm_saves_and_the_run_can_be_finished(shipped: None, tiny_data: Path, tmp_path: Path) -> None:
    run, recipe = tmp_path / "run", tmp_path / "recipe.toml"
    config = one_phase(run, tiny_data, method="full", phases__pose__steps=24)
    recipe.write_text(write_config(config))
    process = processes.started(["-m", "entprog", "train", recipe], env=ONE_THREAD)
    log = run / "log.jsonl"
    for _ in range(600):
        if process.poll() is not None or (log.is_file() and log.read_text().count("\n") >= 3):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    reported = process.done(timeout=60).stderr
    assert process.returncode == 128 + signal.SIGTERM, reported
    done = len(lines(log))
    assert 3 <= done < 24 and (run / f"checkpoint-{done}" / "complete").is_file()
    assert "--resume-from-checkpoint latest" in reported and f"stopped at step {done}" in reported
    about = read(run / "run.json")
    assert about["status"] == "interrupted" and "signal 15" in about["reason"]
    train(config, resume_from_checkpoint="latest")
    again = read(run / "run.json")
    assert again["status"] == "finished" and again["reason"] is None and again["started"] == about["started"]
    assert [row["step"] for row in lines(log)] == list(range(24))
    assert "resume" in [row["event"] for row in lines(run / "events.jsonl")]


def test_a_full_disk_keeps_the_last_checkpoint(shipped: None, tiny_data: Path, tmp_path: Path) -> None:
    """A limit on file sizes simulates a full disk."""
    code = textwrap.dedent("""
        import resource, signal, sys
        from entprog.train import log
        from entprog.train.run import train
        from entprog.config.load import read_config

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        line = log.RunLog.line
        def full_after_two(self, row):
            line(self, row)
            if row["step"] == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        log.RunLog.line = full_after_two
        train(read_config(sys.argv[1]))
    """)
    config = one_phase(tmp_path / "run", tiny_data, method="full", train__checkpointing_steps=2)
    (tmp_path / "recipe.toml").write_text(write_config(config))
    done = processes.run(["-c", code, tmp_path / "recipe.toml"], env=ONE_THREAD)
    assert done.returncode != 0 and "earlier checkpoints are intact" in done.stderr
    run = tmp_path / "run"
    assert read(run / "run.json")["status"] == "failed" and "checkpoint-4" in read(run / "run.json")["reason"]
    train(config, resume_from_checkpoint="latest")
    assert [row["step"] for row in lines(run / "log.jsonl")] == list(range(6))


def test_others_may_read_what_a_run_has_written(finished: Path, tiny_data: Path) -> None:
    """Weights and shards follow the umask like every other file."""
    usual = stat.S_IMODE((finished / "run.json").stat().st_mode)
    written = [*finished.rglob("*.safetensors"), *tiny_data.glob("*.safetensors")]
    assert written and {stat.S_IMODE(path.stat().st_mode) for path in written} == {usual}


def test_shards_of_the_fixture_are_untouched(finished: Path, tiny_data: Path) -> None:
    assert len(Shards(tiny_data).rows) == 10 and len(list(tiny_data.iterdir())) == 4
