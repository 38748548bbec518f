"""`entprog demo`: all arms beside each other, resumed by the same command, refused in one line."""

import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from entprog.cli.app import main
from entprog.config.load import read_config
from entprog.demo import show as demo_show
from entprog.demo.arms import CLIPS, QUICK, RENDERED, Demo
from entprog.demo.progress import Steps, Work
from entprog.train.run import train

NAMES = ["before", "full", "published", "entprog"]
TINY = replace(
    QUICK,
    keys={
        **QUICK.keys,
        "phases.pose.steps": "2",
        "phases.pose.batch": "2",
        "phases.video.steps": "0",
        "ranking.samples": "2",
        "ranking.score": "order",
        "ranking.options": "{}",
        "ranking.pattern": '["blocks.0", "blocks.11"]',
        "schedule.name": "fixed",
        "schedule.options": "{m = [1]}",
        "train.lr_warmup_steps": "0",
        "train.holdout_clips": "2",
        "train.checkpointing_steps": "1",
        "train.threads": "1",
        "evaluate.metrics": '["l1"]',
        "evaluate.clips": "1",
        "evaluate.frames": "2",
        "sample.num_inference_steps": "2",
    },
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "new" / "out"
    runs = demo_show.show(TINY, out, progress=False)
    assert [run.name for run in runs] == NAMES
    return out


def test_every_arm_is_trained_judged_and_on_the_page(shown: Path) -> None:
    protocols = set()
    for name in NAMES:
        result = json.loads((shown / name / "metrics.json").read_text())
        assert result["metrics"]["l1"] > 0 and result["baselines"]["copy_reference"]["l1"] > 0
        protocols.add(json.dumps(result["protocol"]))
        assert (shown / name / "samples" / "final" / "eat.mp4").is_file()
    assert len(protocols) == 1, "all are judged alike"
    page = (shown / "report.html").read_text(encoding="utf-8")
    row = re.search(r'<div class="beside">.*?</div>', page, re.DOTALL)
    assert row and [name for name in re.findall(r"<b>(\w+)</b>", row[0])] == NAMES
    assert page.index('id="samples"') < page.index('id="map"') < page.index('id="result"')
    assert "reference copied" in page
    picture = (shown / "schedule.svg").read_text(encoding="utf-8")
    assert all(f">{name}</text>" in picture for name in NAMES[1:]) and ">before</text>" not in picture


def test_the_preset_trains_its_pose_adapters(shown: Path) -> None:
    report = (shown / "entprog" / "1-pose" / "trainable-stage0.txt").read_text()
    assert re.search(r"blocks\.0\.pose\.\S+.*trained", report) or ".pose." in report
    assert read_config(shown / "entprog" / "config.toml", resolved=True).model.pose == "blocks"


def test_the_same_command_keeps_what_is_finished_and_goes_on_with_the_rest(
    shown: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = (shown / "full" / "log.jsonl").read_text()
    run = shown / "full"
    whole = json.loads((run / "totals.json").read_text())["holdout_loss"]
    for name in ("metrics.json", "totals.json"):
        (run / name).unlink()
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"status": "interrupted"}))
    resumed = []

    def watched(*arguments: object, **named: object) -> Path:
        resumed.append(named["resume_from_checkpoint"])
        return train(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(demo_show, "train", watched)
    demo_show.show(TINY, shown, progress=False)
    assert resumed == ["latest"]
    assert json.loads((run / "totals.json").read_text())["holdout_loss"] == whole
    assert len((run / "log.jsonl").read_text().splitlines()) == len(losses.splitlines())
    told = capsys.readouterr().out
    assert "entprog: finished before, kept" in told
    assert all(name in told for name in (*NAMES, "reference copied", "peak memory", "FLOPs", "time"))


def test_an_interrupted_demo_saves_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = replace(TINY, arms=TINY.arms[:1], before="", keys={**TINY.keys, "train.checkpointing_steps": "0"})
    with monkeypatch.context() as patched:
        patched.setattr(Steps, "__call__", lambda self: signal.raise_signal(signal.SIGINT))
        with pytest.raises(SystemExit) as stopped:
            demo_show.show(alone, tmp_path / "out", progress=False)
    assert stopped.value.code == 130
    assert "the same command goes on where it stopped" in capsys.readouterr().err
    assert (tmp_path / "out" / "full" / "checkpoint-1").is_dir()
    demo_show.show(alone, tmp_path / "out", progress=False)
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "full" / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 1]


@pytest.mark.parametrize("demo", [CLIPS, QUICK, RENDERED], ids=lambda demo: demo.name)
def test_arms_differ_in_what_trains_only(demo: Demo, tmp_path: Path) -> None:
    configs = [demo.config(arm, tmp_path) for arm in demo.arms]
    for config in configs[1:]:
        assert (config.data, config.evaluate, config.sample) == (
            configs[0].data,
            configs[0].evaluate,
            configs[0].sample,
        )
        for name, phase in config.phases.items():
            own, first = phase, configs[0].phases[name]
            assert (own.steps, own.batch, own.frames) == (first.steps, first.batch, first.frames)
            assert own.learning_rate == first.learning_rate
    assert set(demo.arms[0].seconds) == set(configs[0].phases)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", *arguments])
    assert stopped.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith("entprog: "), told
    return told[0]


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot be written (Not a directory)" in refused(capsys, "--out", str(tmp_path / "file" / "out"))
    assert "cannot be written (File exists); give another folder" in refused(capsys, "--out", str(tmp_path / "file"))
    assert "holds other files (file, ...)" in refused(capsys, "--out", str(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    (other / "demo.json").write_text('{"demo": "rendered"}')
    assert "holds the demo 'rendered', not 'quick'" in refused(capsys, "--quick", "--out", str(other))
    (other / "demo.json").write_text("{")
    assert "demo.json cannot be read" in refused(capsys, "--quick", "--out", str(other))
    assert "not together with rendered" in refused(capsys, "--quick", "--rendered", "--out", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_the_bar_ends_full_and_never_beyond(capsys: pytest.CaptureFixture[str]) -> None:
    work = Work(10.0)
    step = work.steps([2.0, 2.0])
    work.begin("full")
    for _ in range(4):  # a run that trains more steps than were foreseen
        step()
    work.did(9.0)
    work.close()
    shown = capsys.readouterr().err
    assert "full: 100%" in shown and "left" in shown
