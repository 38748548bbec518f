"""The commands of docs/animate.md, run in order on small videos with sound."""

import shlex
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from checkout import ROOT
from entprog.cli.app import main
from entprog.prepare.video import read_video, write_video
from entprog.synthetic import render_clip
from tiny_sound import with_sound

PAGE = ROOT / "docs" / "animate.md"
LESS = {
    "prepare": ["--sizes", "32", "--holdout", "0.3", "--min-frames", "8"],
    "train": [
        "--phases.subject.steps", "2", "--phases.pose.steps", "2", "--phases.video.steps", "2", "--method", "full",
        "--preset", "", "--phases.subject.resolution", "32", "--phases.pose.resolution", "32", "--data.sizes", "32",
        "--phases.video.resolution", "32", "--phases.video.frames", "6", "--train.lr_warmup_steps", "0",
        "--train.holdout_clips", "1", "--evaluate.resolution", "32", "--evaluate.clips", "0", "--train.threads", "1",
        "--phases.subject.batch", "1", "--phases.pose.batch", "1", "--phases.video.batch", "1",
    ],
    "sample": ["--num-inference-steps", "2"],
}  # fmt: skip
"""Options that make each command small."""


def commands() -> list[list[str]]:
    text = PAGE.read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```console\n")[1:]]
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line]


@pytest.mark.slow
def test_a_folder_of_clips_becomes_an_animated_photo_with_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "videos").mkdir()
    frames = {i: render_clip(i, 3, i % 2, frames=20, size=160, domain="target").frames for i in range(4)}
    for i in range(3):
        write_video(f"videos/person{i}.mp4", frames[i], 12)
    for name, i in (("dance", 3), ("walk", 2)):
        write_video("silent.mp4", frames[i], 12)
        with_sound(Path("silent.mp4"), Path(f"{name}.mp4"))
    for name, i in (("me", 0), ("you", 1)):
        Image.fromarray(np.pad(frames[i][0], ((0, 0), (40, 0), (0, 0)), mode="edge")).save(f"{name}.jpg")
    said = ""
    for words in commands():
        assert words[0] == "entprog"
        main([*words[1:], *LESS[words[1]]])
        said += capsys.readouterr().err
    shown, fps = read_video("clip.mp4")
    whole, _ = read_video("dance.mp4")
    assert round(fps) == 12 and abs(len(shown) - len(whole)) <= 2, "as long as the drive"
    with av.open("clip.mp4") as container:
        assert container.streams.audio
    assert "windows of 6" in said and "sound kept" in said and "retargeted" in said
    assert len(list(Path("clips").glob("*.mp4"))) == 4
