"""Real clips the whole way, in small: prepare, three phases, sampling, evaluation, report."""

import json
from pathlib import Path

import pytest

from entprog.evaluate.evaluation import evaluate
from entprog.prepare.folder import prepare_folder
from entprog.report import write_report
from entprog.sample.animate import sample
from entprog.train.run import train
from tiny import tiny_config

CLIPS = Path(__file__).parents[3] / "shared" / "clips"


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.exists(), reason="needs ../shared/clips beside the repository")
def test_real_clips_go_the_whole_way(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    files = [CLIPS / f"intel__{name}.mkv" for name in ("yes", "walk", "again")]
    result = prepare_folder(files, data, sizes=[16, 32], max_frames=16, holdout=0.3, progress=False)
    assert result.clips >= 3
    one = {"phases__subject__batch": 1, "phases__pose__batch": 1, "phases__video__batch": 1, "train__holdout_clips": 1}
    train(tiny_config(out, data, model__init="base", evaluate__clips=1, **one))
    clip = next(row for row in map(json.loads, (data / "index.jsonl").read_text().splitlines()))["clip"]
    shown = sample(out, reference=clip, drive=str(files[0]), out=tmp_path / "shown", resolution=32, frames=4)
    assert shown.is_file() and shown.with_suffix(".gif").is_file()
    assert set(evaluate(out)["metrics"]) >= {"l1", "psnr", "ssim"}
    page = write_report([out]).read_text(encoding="utf-8")
    assert "<video" in page and json.loads((out / "run.json").read_text())["status"] == "finished"
