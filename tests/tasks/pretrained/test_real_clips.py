"""The whole way with a pretrained model on real videos, from prepare to a network that diffusers loads."""

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from checkout import ROOT
from entprog.cli.app import main
from entprog.prepare.video import Video
from entprog.tasks.finished_run import open_run
from entprog.tasks.pretrained.task import PretrainedTask
from tiny_pipelines import saved

CLIPS = ROOT.parent / "shared" / "clips"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLIPS.is_dir(), reason="the shared videos lie beside a checkout"),
]

RECIPE = """
task = "pretrained"
output_dir = "{run}"
[model]
pretrained = "{model}"
[data]
path = "{data}"
[phases.video]
steps = 4
frames = {frames}
resolution = "{size}"
batch = 2
learning_rate = 1e-3
[ranking]
samples = 2
[schedule]
name = "fixed"
options.m = [0.34, 0.67]
[train]
holdout_clips = 2
threads = 1
[evaluate]
clips = 1
videos = 1
[sample]
num_inference_steps = 2
"""


@pytest.mark.parametrize(("name", "size", "frames"), [
    ("wan-2.2-i2v", "64x48", 5), ("cogvideox-5b-i2v", "48x64", 5), ("svd", "32x48", 3),
])  # fmt: skip
def test_from_videos_to_a_file_that_diffusers_loads(
    name: str, size: str, frames: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data, run = saved(name), tmp_path / "data", tmp_path / "run"
    videos = [str(path) for path in sorted(CLIPS.glob("*.mkv"))[:3]]
    text = [] if name == "svd" else ["--text", str(model)]
    given = ["--sizes", size, "--frames", str(frames), "--fps", "8", "--references", "2", "--max-frames", "16"]
    main(["prepare", *videos, str(data), "--codec", str(model), *text, *given, "--holdout", "0.34"])
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(run=run, model=model, data=data, frames=frames, size=size))
    main(["plan", str(recipe), "--device", "4090"])
    main(["train", str(recipe)])
    main(["evaluate", str(run)])
    assert json.loads((run / "metrics.json").read_text())["metrics"]["l1"] > 0
    picture = tmp_path / "me.png"
    Image.fromarray(np.asarray(next(iter(Video(Path(videos[0])))))).save(picture)
    longer = ["--frames", str(frames + 3)]
    main(
        [
            "sample",
            str(run),
            "--reference",
            str(picture),
            "--drive",
            videos[1],
            "--out",
            str(tmp_path / "clips"),
            *longer,
        ]
    )
    assert len(list((tmp_path / "clips" / "frames").iterdir())) == frames + 3, "two windows"
    main(["export", str(run), str(tmp_path / "folder"), "--as", "diffusers"])

    _, task = open_run(run)
    assert isinstance(task, PretrainedTask)
    folder = task.folder.configs.component
    network = getattr(diffusers, type(task.model).__name__).from_pretrained(tmp_path / "folder" / folder)
    task.enter(task.config.phases["video"])
    batch = task.samples("train", frames, 0).batch(0, task_shape(task))
    draw = task.draw(batch, task_shape(task), 0, dropout=0.0)
    assert task.adapters is not None
    with torch.no_grad(), task.adapters.off():
        own, loaded = (task.call(draw.x, task.objective.time(draw.tau), draw.condition, n) for n in (None, network))
    assert torch.equal(own, loaded)


def task_shape(task: PretrainedTask):  # type: ignore[no-untyped-def]
    from entprog.core.types import Shape

    phase = task.config.phases["video"]
    return Shape.of(phase.sides, phase.frames, 2)
