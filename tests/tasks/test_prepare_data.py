"""`entprog prepare --codec MODEL --text MODEL` on a rendered video and tiny pipelines."""

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny_pipelines
import tiny_vaes
from entprog.cli.app import main
from entprog.codecs.diffusers import DiffusersCodec
from entprog.data.shards import Shards
from entprog.data.windows import Windows, prompt_hash
from entprog.prepare.video import write_video
from entprog.synthetic import render_clip
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.folder import read_configs
from entprog.tasks.pretrained.text import encode_images, encode_prompts, text_identity

SMALL = ["--sizes", "64x48", "--frames", "5", "--references", "1", "--max-frames", "9"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rendered person of 9 frames, with a caption and a control video in another folder."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "in").mkdir()
    frames = render_clip(0, 0, 0, frames=9, size=128).frames
    write_video(folder / "in" / "a.mp4", frames, 16)
    write_video(folder / "poses.mp4", 255 - frames, 16)
    (folder / "in" / "a.txt").write_text("a person dances\n")
    return folder


def failed(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["prepare", *map(str, argv)])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert all(line.startswith("entprog: ") for line in err.splitlines())
    return err


def test_what_is_stored_follows_the_model(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(tiny_pipelines.saved("wan-2.1-i2v"))
    main(["prepare", str(videos / "in"), str(tmp_path / "out"), "--codec", model, "--text", model, *SMALL])
    assert "out: 3 windows of 1 clips; 1 files kept, 0 dropped\n" in capsys.readouterr().out
    windows = Windows(tmp_path / "out")
    assert windows.stored == ("latents", "pose", "reference", "first", "image", "image_embeds")
    assert windows.about["text"] == text_identity(model) and windows.about["fps"] == 16
    assert {row.caption for row in windows.rows} == {"a person dances"}
    for prompt, tensors in encode_prompts(model, ["a person dances"]).texts.items():
        assert torch.equal(windows.text(prompt_hash(prompt))["text"], tensors["text"])
    found = windows.read(windows.rows[0], pick=0)
    assert found["latents"].shape == (2, 16, 8, 6) and found["image_embeds"].shape == (257, 16)
    assert torch.equal(found["image_embeds"], encode_images(model, found["image"][None])[0].half())


@pytest.mark.parametrize("name", ["wan-2.1-i2v", "svd"])
def test_with_the_models_own_encoders(name: str, videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ftfy")
    if name not in tiny_pipelines.pipelines():
        pytest.skip("no such tiny pipeline")
    model = tiny_pipelines.saved(name)
    family = family_of(read_configs(model))
    text = ["--text", str(model)] if family.text_length else []
    frames = DiffusersCodec.load(model).frames_factor + 1
    given = ["--codec", str(model), *text, *SMALL[:2], "--frames", str(frames), *SMALL[4:]]
    main(["prepare", str(videos / "in"), str(tmp_path / "out"), *given])
    windows = Windows(tmp_path / "out")
    assert set(family.stored(pose="none", reference="native")) <= set(windows.stored)
    if text:
        assert "text" in windows.text(windows.rows[0].prompt) and windows.text(prompt_hash(""))


def test_captions_are_encoded_by_a_family_of_ones_own(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ftfy")
    (tmp_path / "own_louder_wan.py").write_text(
        "from entprog.tasks.pretrained.families.wan import Wan\n\n\nclass Louder(Wan):\n    networks = ()\n\n"
        "    def encode_text(self, pipeline, prompt):\n"
        "        return {name: 2 * value for name, value in super().encode_text(pipeline, prompt).items()}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model = str(tiny_pipelines.saved("wan-2.1-t2v"))
    given = ["--codec", model, "--text", model, *SMALL, "--workers", "1"]
    main(["prepare", str(videos / "in"), str(tmp_path / "out"), *given, "--family", "own_louder_wan:Louder"])
    (plain,) = encode_prompts(model, []).texts.values()
    assert torch.allclose(Windows(tmp_path / "out").text(prompt_hash(""))["text"].float(), 2 * plain["text"], rtol=1e-2)
    with pytest.raises(SystemExit):
        main(["prepare", str(videos / "in"), str(tmp_path / "no"), *given, "--family", "own_louder_wan:Quiet"])
    assert "--family = 'own_louder_wan:Quiet': can't be imported" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_model_that_needs_no_first_image(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("entprog.tasks.pretrained.encoders.Encoders.open")  # no encoder is needed
    model = str(tiny_pipelines.saved("wan-2.2-ti2v-5b"))
    main(["prepare", str(videos / "in"), str(tmp_path / "out"), "--codec", model, *SMALL[2:], "--sizes", "64x96"])
    windows = Windows(tmp_path / "out")
    assert windows.stored == ("latents", "pose", "reference", "image") and windows.about["text"] is None


def test_all_that_a_model_with_a_pose_path_of_its_own_needs(videos: Path, tmp_path: Path) -> None:
    model = str(tiny_pipelines.saved("wan-animate"))
    given = ["--codec", model, *SMALL, "--control", "draw"]
    main(["prepare", str(videos / "in"), str(tmp_path / "out"), *given])
    windows = Windows(tmp_path / "out")
    family = family_of(read_configs(Path(model)))
    assert set(family.stored(pose="native", reference="native")) <= set(windows.stored)
    assert windows.read(windows.rows[0])["face"].shape == (5, 3, 16, 16)


def test_a_vae_alone_with_a_control_column(videos: Path, tmp_path: Path) -> None:
    model = tiny_vaes.save(tmp_path / "model")
    with (tmp_path / "metadata.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["video", "prompt", "pose"], ["a.mp4", "a person", videos / "poses.mp4"]])
    given = ["--codec", str(model / "vae"), *SMALL, "--metadata", str(tmp_path / "metadata.csv"), "--control", "pose"]
    main(["prepare", str(videos / "in"), str(tmp_path / "out"), *given, "--dtype", "bf16", "--tiling"])
    windows = Windows(tmp_path / "out")
    assert windows.stored == ("latents", "pose", "control", "reference", "first", "image")
    assert windows.about["codec"]["dtype"] == "bf16" and windows.about["codec"]["tiling"] is True
    read: dict[str, Tensor] = windows.read(windows.rows[0])
    assert (read["control"] - read["latents"]).abs().max() > 0.1
    assert windows.rows[0].caption == "a person"


def test_mistakes_one_line_each(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out, into = tiny_vaes.save(tmp_path / "model"), tmp_path / "out", videos / "in"
    assert "--frames needs --codec FOLDER" in failed(capsys, into, out, "--frames", "5")
    assert "--tiling needs --codec FOLDER" in failed(capsys, into, out, "--tiling")
    assert "--min-frames 5 has no effect" in failed(capsys, into, out, "--codec", model, "--min-frames", "5")
    assert "--codec = 'nowhere'" in failed(capsys, into, out, "--codec", "nowhere", *SMALL)
    assert "sizes: '32'; give height x width" in failed(capsys, into, out, "--codec", model)
    said = failed(capsys, into, out, "--codec", model, "--sizes", "60x48", "--frames", "6")
    assert "multiple of 16" in said and "frames = 6: " in said and len(said.splitlines()) == 2
    assert "inputs: " in failed(capsys, tmp_path / "none", out, "--codec", model, *SMALL)
    (tmp_path / "empty").mkdir()
    assert "inputs: no video" in failed(capsys, tmp_path / "empty", out, "--codec", model, *SMALL)
    assert "'poses'" in failed(capsys, into, out, "--codec", model, *SMALL, "--control", "poses")
    assert not out.exists()


def test_without_a_codec_all_is_as_before(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["prepare", str(videos / "in"), str(tmp_path / "out"), "--sizes", "32", "--min-frames", "5"])
    assert "out: 2 clips, 7 frames; 1 files kept, 0 dropped\n" in capsys.readouterr().out
    assert Shards(tmp_path / "out").about["fps"] == 12.0
