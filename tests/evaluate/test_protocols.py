"""Protocols, skipped metrics, and what a model may see of what it is judged by."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from entprog.cli import app as cli
from entprog.config.load import ConfigError, ConfigWarning, config_of, write_config
from entprog.config.schema import Config, DataConfig, EvaluateConfig, ModelConfig, PhaseConfig, SampleConfig
from entprog.data.shards import Shards
from entprog.diffusion.objective import Objective
from entprog.evaluate.evaluation import evaluate_task, generate_holdout, judged
from entprog.evaluate.measure import GeneratedClip, Notes, measure, ready
from entprog.evaluate.protocols import DEFAULT, DISCO, PROTOCOLS, protocol_named
from entprog.evaluate.provenance import paper_row, table
from entprog.files import save_weights
from entprog.nets.dit import build_dit
from entprog.plugins import declared, describe
from entprog.tasks.human_video.held_out import _shown, holdout_clips, holdout_samples
from entprog.tasks.human_video.task import HumanVideoTask
from networks import StandInFace, StandInI3D, StandInInception, saved


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTPROG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ENTPROG_OFFLINE", "1")


@pytest.fixture
def config(tiny_data: Path) -> Config:
    return Config(
        method="full",
        data=DataConfig(path=str(tiny_data), sizes=(32,)),
        model=ModelConfig(init="scratch"),
        phases={"pose": PhaseConfig(steps=100, resolution=32)},
        sample=SampleConfig(num_inference_steps=1, guidance_scale=1.0),
        evaluate=EvaluateConfig(clips=2, frames=3, resolution=32, videos=0),
    )


@pytest.fixture(scope="module")
def task(tiny_data: Path) -> HumanVideoTask:
    torch.manual_seed(0)
    model = build_dit("nano", depth=2, width=32, heads=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return HumanVideoTask(model, Objective(), full_size=32).on(Shards(tiny_data))


def made_clip(name: str, seed: int, frames: int = 4, **more: Any) -> GeneratedClip:
    draw = torch.Generator().manual_seed(seed)
    fake, truth = (torch.rand(frames, 3, 32, 32, generator=draw) for _ in range(2))
    return GeneratedClip(name, name, fake, truth, truth[0], np.zeros((frames, 18, 3), np.float32), 12.0, **more)


def test_what_is_skipped_is_said_and_nothing_else_is_lost(
    task: HumanVideoTask, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("l1", "fvd", "fid", "fid_vid", "lpips", "csim", "psnr")
    asked = replace(config, evaluate=replace(config.evaluate, metrics=names))
    result = evaluate_task(task, asked, tmp_path)
    assert {"l1", "psnr", "background_l1"} <= result["metrics"].keys()
    assert result["skipped"].keys() == {"fvd", "fid", "fid_vid", "lpips", "csim"}
    assert "download i3d_torchscript.pt" in result["skipped"]["fvd"]
    assert result["skipped"]["fvd"] == result["protocol"]["fvd"]["skipped"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    text = table(result)
    for name in result["skipped"]:
        assert f"{name}: skipped: " in text
    output = capsys.readouterr().err
    assert output.index("fvd: skipped:") < output.index("Sampling"), "said before anything is generated"


def test_metrics_over_networks_reach_the_table_and_the_baselines(
    task: HumanVideoTask, config: Config, tmp_path: Path
) -> None:
    options = {
        "fvd": {"weights": str(saved(StandInI3D(), tmp_path / "i3d.pt")), "frames": 9},
        "fid": {"weights": str(saved(StandInInception(), tmp_path / "inception.pt"))},
        "csim": {"weights": str(saved(StandInFace(), tmp_path / "face.pt"))},
    }
    tree = {"evaluate": {"metrics": ["fvd", "fid", "csim"], "metric_options": options}}
    asked = config_of(tree, planned=True).evaluate
    asked = replace(asked, clips=2, frames=8, resolution=32, videos=0)
    result = evaluate_task(task, replace(config, evaluate=asked), tmp_path, progress=False)
    assert result["metrics"]["fid"] > 0 and result["skipped"].keys() == {"fvd", "csim"}
    assert "the shortest has 8 frames" in result["skipped"]["fvd"]
    for values in result["baselines"].values():
        assert values["fid"] > 0
    assert "sha256" in result["protocol"]["fid"]["network"] and result["protocol"]["fid"]["frames"] == 16
    assert result["skipped"]["csim"] == "no face to be seen in 16 frames", "of 32 px, they are too small"
    assert "network: inception.pt, sha256" in table(result)


def test_csim_is_given_the_keypoints(tmp_path: Path) -> None:
    options = {"csim": {"weights": str(saved(StandInFace(), tmp_path / "face.pt"))}}
    clips = [made_clip("a", 0), made_clip("b", 1)]
    for clip in clips:
        clip.keypoints[:, [0, 14, 15]] = (0.5, 0.5, 1), (0.3, 0.5, 1), (0.7, 0.5, 1)
    notes = Notes()
    values, rows = measure([clip.truth for clip in clips], clips, ["csim"], options=options, notes=notes)
    assert values["csim"] == pytest.approx(1) and rows[1]["csim"] == pytest.approx(1)
    assert notes.details["csim"]["frames with a face"] == "8 of 8" and not notes.skipped


def test_values_that_are_not_finite_are_left_out_and_the_file_is_json(tmp_path: Path) -> None:
    clips = [made_clip("a", 0), made_clip("b", 1)]
    clips[0].generated[0, 0, 0, 0] = torch.nan
    notes = Notes()
    values, rows = measure([clip.generated for clip in clips], clips, ["l1", "psnr", "disco"], notes=notes)
    assert values.keys() == {"identity"}
    assert notes.skipped["l1"] == "not finite: 1 of 2 generated clips hold values that are not"
    assert "8 bits" in notes.skipped["disco"]
    assert "l1" not in rows[0] and rows[1]["l1"] > 0
    json.dumps([values, rows, notes.skipped], allow_nan=False)


def test_a_metric_that_refuses_leaves_the_others(tmp_path: Path) -> None:
    clips = [made_clip("a", 0)]
    small = [replace(clip, truth=clip.truth[..., :8, :8]) for clip in clips]
    notes = Notes()
    values, _ = measure([clip.generated[..., :8, :8] for clip in clips], small, ["ssim", "l1"], notes=notes)
    assert values["l1"] > 0 and "11 a side" in notes.skipped["ssim"] and "metric ssim" not in notes.skipped["ssim"]
    assert ready(["ssim", "fvd"], {}, notes) == ["ssim"] and "fvd" in notes.skipped


def test_options_of_metrics_are_checked() -> None:
    def refused(options: dict[str, Any], metrics: list[str]) -> str:
        with pytest.raises(ConfigError) as error:
            config_of({"evaluate": {"metrics": metrics, "metric_options": options}}, planned=True)
        return str(error.value)

    assert "evaluate.metric_options.fvd: metric 'fvd' has no option 'frame'" in refused({"fvd": {"frame": 3}}, ["fvd"])
    assert "I3D needs 9" in refused({"fvd": {"frames": 3}}, ["fvd"])
    assert "evaluate.metric_options.fdv: no such metric; did you mean" in refused({"fdv": {}}, ["l1"])
    assert "evaluate.metric_options" in refused({"fvd": 3}, ["fvd"])
    tree = {"evaluate": {"metrics": ["l1"], "metric_options": {"fvd": {"frames": 10}}}}
    with pytest.warns(ConfigWarning, match=r"evaluate\.metric_options\.fvd.*does not name fvd"):
        config_of(tree, planned=True)
    over = {"evaluate.metrics": "l1,fvd", "evaluate.metric_options.fvd.weights": "w.pt"}
    found = config_of(tree, overrides=over, planned=True)
    assert found.evaluate.metric_options == {"fvd": {"frames": 10, "weights": "w.pt"}}, "the recipe's options stay"
    kept = config_of(tree, planned=True, quiet=True)
    assert config_of(tomllib.loads(write_config(kept)), resolved=True) == kept


def test_protocols_set_keys_options_and_columns_that_exist() -> None:
    for named in PROTOCOLS.values():
        config = config_of({"data": {"path": "x"}}, overrides=named.overrides(), planned=True, quiet=True)
        assert not named.changed(config)
        for name, options in config.evaluate.metric_options.items():
            assert options.keys() <= {option.name for option in describe("metric", name).options}
        pools = {name: declared("metric", name, "pooling", "") for name in config.evaluate.metrics}
        given = {value for name, pool in pools.items() for value in (pool if isinstance(pool, dict) else [name])}
        assert set(named.row.values()) <= given
    with pytest.raises(ValueError, match="protocol = 'tiktok': choose from default, disco"):
        protocol_named("tiktok")
    assert protocol_named("") is DEFAULT


def test_frames_are_compared_as_the_protocol_says() -> None:
    clip = made_clip("a", 0, unjudged=(0,))
    assert torch.equal(judged(clip, DEFAULT).truth, clip.truth[1:])
    shown = judged(clip, DISCO)
    assert shown.generated.shape == shown.truth.shape == (3, 3, 256, 256) and len(shown.keypoints) == 3
    assert shown.reference.shape == (3, 256, 256)
    torch.testing.assert_close(shown.truth * 255, (shown.truth * 255).round(), atol=1e-4, rtol=0)
    only = judged(replace(clip, unjudged=(0, 1, 2, 3)), DEFAULT)
    assert torch.equal(only.truth, clip.truth), "a clip of which nothing would be left is judged whole"


def test_the_row_of_papers_names_what_is_skipped() -> None:
    values = {"ssim_grey": 0.7, "psnr_overflow": 29.0, "psnr_8bit": 17.0, "l1_per_pixel": 3e-4, "fid": 30.0}
    row = paper_row(DISCO, values, Notes(skipped={"fvd": "no weights"}))
    assert list(row) == ["SSIM", "PSNR", "PSNR*", "LPIPS", "L1", "FID", "FID-VID", "FVD"]
    assert row["PSNR"] == 29.0 and row["PSNR*"] == 17.0 and row["FVD"] == "skipped: no weights"
    assert str(row["LPIPS"]).startswith("skipped: ")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    (folder / "final").mkdir(parents=True)
    torch.manual_seed(0)
    save_weights(dict(build_dit("nano").state_dict()), folder / "final" / "model.safetensors")
    config = Config(
        method="full",
        data=DataConfig(path=str(tiny_data), sizes=(32,)),
        model=ModelConfig(init="scratch"),
        phases={"pose": PhaseConfig(steps=100, resolution=32)},
        sample=SampleConfig(num_inference_steps=1, guidance_scale=1.0),
        evaluate=EvaluateConfig(clips=2, frames=3, resolution=32, videos=0),
    )
    (folder / "config.toml").write_text(write_config(config), encoding="utf-8")
    return folder


def test_the_disco_protocol_by_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", str(run), "--protocol", "disco"])
    assert left.value.code == 2 and "evaluate.frames = 17: the longest held-out clip has" in capsys.readouterr().err
    cli.main(["evaluate", str(run), "--protocol", "disco", "--frames", "4", "--clips", "2"])
    output, result = capsys.readouterr().out, json.loads((run / "metrics.json").read_text())
    said = result["protocol"]
    assert said["protocol"] == "disco" and "256x256" in said["compared"] and "8 bits" in said["compared"]
    assert said["reference"] == "the first frame of the clip (2)" and said["judged"].startswith("3 frames (of 2 clips)")
    assert "evaluate.frames = 4 (the protocol's: 17)" in said["changed"]
    assert any("were not prepared with --layout tiktok" in note for note in said["notes"])
    assert "frames are generated at 32x32 and compared at 256x256" in said["notes"]
    assert result["row"]["SSIM"] == result["metrics"]["ssim_grey"] and result["row"]["FVD"].startswith("skipped: ")
    assert "As in papers:" in output and "PSNR*" in output and "fvd: skipped: " in output


def test_nothing_judged_is_the_reference(tiny_data: Path, task: HumanVideoTask, config: Config) -> None:
    shards = Shards(tiny_data)
    clips = holdout_clips(shards, 3)
    for reference in ("other", "first"):
        for sample in holdout_samples(clips, 8, 3, reference):
            _, unjudged = _shown(sample, 3)
            own = sample.reference.clip == sample.row.clip
            assert unjudged == ((sample.reference_frame,) if own and sample.reference_frame < 3 else ())
    alone = replace(clips.rows[0], subject="alone")
    clips.shards.rows = [alone]
    clips.rows = [alone]
    (sample,) = holdout_samples(clips, 1, 3)
    assert sample.reference == alone and sample.reference_frame >= 3
    assert _shown(sample, 3) == ("a later frame of the clip", ())
    (sample,) = holdout_samples(clips, 1, alone.frames)
    assert _shown(sample, alone.frames) == ("the first frame of the clip", (0,))
    first = replace(config.evaluate, reference="first")
    for clip in generate_holdout(task, first, config.sample):
        assert clip.unjudged == (0,)
        assert torch.allclose(clip.reference, clip.truth[0], atol=1e-5)
