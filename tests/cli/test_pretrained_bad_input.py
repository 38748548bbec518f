"""Bad input of pretrained models through the commands: a line for each problem, exit code 2, nothing left behind."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from entprog.cli.app import main
from entprog.prepare.video import write_video
from pretrained_cli import WEIGHTS, Given, copied, edited, recipe, refused, removed, trained, weights, written

Damage = Callable[[Path], None]
NETWORK, SCHEDULER = "transformer/config.json", "scheduler/scheduler_config.json"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENTPROG_DEBUG", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return Given.make("wan-2.1-t2v", tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def svd(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return Given.make("svd", tmp_path_factory.mktemp("svd"))


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any weights that are read are an error of ours."""

    def load(*given: Any, **more: Any) -> None:
        raise AssertionError("weights are read before configuration files are judged")

    monkeypatch.setattr("entprog.codecs.loading.load_component", load)
    monkeypatch.setattr("entprog.codecs.diffusers.load_component", load)


FOLDERS: dict[str, tuple[Damage, str]] = {
    "no config": (removed(NETWORK), r"model.pretrained = 'm': no transformer/config.json or unet/config.json in it; g"),
    "no scheduler": (removed("scheduler"), r"model.pretrained = 'm': no scheduler/scheduler_config.json.*; give the w"),
    "no JSON": (written(NETWORK, "{"), r"model.pretrained: m/transformer/config.json: can't be read as JSON.*fetch"),
    "a list": (written(SCHEDULER, "[]"), r"model.pretrained: .*expected a JSON object; fetch the model again"),
    "another class": (
        edited(NETWORK, _class_name="SD3Transformer2DModel"),
        r"model.pretrained = 'm': .* says _class_name = 'SD3Transformer2DModel', but model_index.json says 'WanTrans.*",
    ),
    "no family": (
        edited(NETWORK, _class_name="WanTransformer"),
        r"model.pretrained: no family calls 'WanTransformer'; did you mean WanTransformer3DModel\?; known: "
        r"CogVideoXTransformer3DModel, .*Yours is one file: a subclass of Family, named by model.family = ",
    ),
    "no class": (edited(NETWORK, _class_name=""), r"model.pretrained: no family calls 'a network without _class_name'"),
    "no scheduler of diffusers": (
        edited(SCHEDULER, _class_name="Nix", prediction_type="epsilon", use_flow_sigmas=False),
        r"model.pretrained = 'm': scheduler_config.json: _class_name = 'Nix': no scheduler of diffusers",
    ),
    "another prediction": (
        edited(SCHEDULER, prediction_type="image", use_flow_sigmas=False),
        r"model.pretrained = 'm': scheduler_config.json: prediction_type = 'image': expected epsilon, v_prediction",
    ),
    "a value of another type": (
        edited(NETWORK, patch_size=5), r"model.pretrained = 'm': transformer/config.json lacks a value or .*copy it aga"
    ),
    "a missing value": (
        edited(NETWORK, text_dim=None), r"model.pretrained = 'm': transformer/config.json lacks a value or .*copy it ag"
    ),
}  # fmt: skip
"""Damage that configuration files show."""


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("name", FOLDERS)
def test_folders_are_refused_by_their_configuration(capsys: Any, wan: Given, name: str) -> None:
    damage, said = FOLDERS[name]
    damage(copied(wan.model))
    (line,) = trained(capsys, recipe(wan, pretrained="m"))
    assert re.match(said, line), line


def pickled(folder: Path) -> None:
    torch.save(load_file(str(folder / WEIGHTS)), folder / "transformer" / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


BROKEN: dict[str, tuple[Damage, str]] = {
    "more layers": (edited(NETWORK, num_layers=7), r"the weights lack 27 of 204 tensors .*first blocks.6.*copy the we"),
    "missing keys": (weights(lambda t: t.pop("proj_out.weight")), r"the weights lack 1 of .*first proj_out.weight"),
    "NaN": (weights(lambda t: t["proj_out.weight"].fill_(float("nan"))), r"NaN or infinite weights in 1 tensors .*cop"),
    "other shapes": (edited(NETWORK, ffn_dim=64), r"the weights do not have the shapes of config.json .*copy both aga"),
    "a pickle": (pickled, r"diffusion_pytorch_model.bin is a pickle, which can run code and is not read; save"),
    "truncated": (
        lambda folder: [None, (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-99])][0],  # type: ignore
        r"diffusion_pytorch_model.safetensors is truncated .*copy it again",
    ),
    "no weights": (removed(WEIGHTS), r"no diffusion_pytorch_model.safetensors in it; copy the weights too"),
    "layers in words": (edited(NETWORK, num_layers="six"), r"config.json does not describe a WanTransformer3DModel .*"),
}  # fmt: skip
"""Damage that only the weights show."""


@pytest.mark.parametrize("name", BROKEN)
def test_weights_are_refused(capsys: Any, wan: Given, name: str) -> None:
    damage, said = BROKEN[name]
    damage(copied(wan.model))
    (line,) = trained(capsys, recipe(wan, pretrained="m"))
    assert re.match(rf"model.pretrained = 'm/transformer': {said}", line), line
    assert torch.get_default_dtype() == torch.float32


SETTINGS: dict[str, tuple[dict[str, str], str]] = {
    "pose native": ({"model": 'pose = "native"'}, r'model.pose = "native": WanTr.* has no pose path of its own; choos'),
    "reference native": ({"model": 'reference = "native"'}, r'model.reference = "native": .*no inputs for an image; c'),
    "reference siamese": ({"model": 'reference = "siamese"'}, r'model.reference = "siamese": a pretrained model takes'),
    "component": ({"model": 'component = "transformer_2"'},
                  r"model.component = 'transformer_2': .* has no transformer_2/config.json; it has .*did you mean 'tr"),
    "revision": ({"model": 'revision = "v1"'}, r"model.revision = 'v1': only for hub ids, but model.pretrained is a f"),
    "module": ({"model": 'family = "nowhere_at_all:Mine"'}, r"model.family = 'nowhere_at_all:Mine': can't be imported"),
    "no class": ({"model": 'family = "json:Mine"'}, r"model.family = 'json:Mine': can't be imported"),
    "no family": ({"model": 'family = "json:JSONDecoder"'}, r"model.family = 'json:JSONDecoder': no subclass of .*Fam"),
    "form": ({"model": 'family = "json.Mine"'}, r"""model.family = 'json.Mine': expected "package.module:Class\""""),
    "weights": ({"model": 'weights = "bf16"\ndtype = "float32"'},
                r'model.weights = "bf16": trained weights would be held coarser .*set model.dtype = "bf16"'),
    "range": ({"model": "timestep_range = [0.9, 0.1]"}, r"model.timestep_range = \[0.9, 0.1\]: expected two numbers"),
    "range of one": ({"model": "timestep_range = [0.9]"}, r"model.timestep_range = \[0.9\]: expected two numbers"),
    "drop": ({"model": "drop = { text = 1.0 }"}, r"model.drop.text = 1.0: a share of the samples, at least 0 and belo"),
    "drop of what": ({"model": "drop = { txt = 0.1 }"}, r"model.drop"),
    "hub id": ({"pretrained": "owner/na me"}, r"model.pretrained = 'owner/na me': no such folder, and no hub id; give"),
    "a path": ({"pretrained": "../gone"}, r"model.pretrained = '../gone': no such folder, and no hub id; give a folde"),
    "no model": ({"pretrained": ""}, r'model.pretrained = "": name a folder'),
    "blocks": ({"phase": 'blocks = "spatial"'}, r'phases.video.blocks = "spatial": a pretrained model has one kind of'),
    "scheduler": ({"rest": 'scheduler = "ddim"'}, r'sample.scheduler = "ddim": a pretrained model is sampled by its o'),
    "no data": ({"path": ""}, r'data.path = "": a pretrained model trains on a folder made by: entprog prepare'),
    "data gone": ({"path": "gone"}, r"data.path = 'gone': no such folder; make it with: entprog prepare"),
    "data elsewhere": ({"path": "."}, r"data.path = '.': no dataset.json and index.jsonl there; make them with"),
    "frames": ({"frames": "9"}, r"phases.video.frames = 9: the windows of .* have 5 frames.*set 5, or prepare"),
    "size": ({"resolution": '"48x32"'}, r'phases.video.resolution = "48x32": .* stores "32x32"; choose one of them, o'),
    "a square": ({"resolution": "64"}, r'phases.video.resolution = 64 \(a square\): .* stores "32x32"; choose one'),
    "batch": ({"batch": "20"}, r"phases.video.batch = 20: larger than the data set's 4 training windows; lower it"),
    "evaluation": ({"clips": "1", "shown": '"48x32"'}, r'evaluate.resolution = "48x32": .* stores "32x32"; choose one'),
    "control": ({"model": 'pose = "input"', "path": "plain"},
                r"data.path = 'plain': stores no control, which model.pose = 'input' .*--control draw"),
}  # fmt: skip
"""Settings that the model or the data set does not take."""


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_refused_before_weights_are_read(capsys: Any, wan: Given, name: str) -> None:
    changes, said = SETTINGS[name]
    if changes.get("path") == "plain":
        shutil.copytree(wan.data, "plain")
        edited("dataset.json", stored=["latents", "pose"])(Path("plain"))
    (line,) = trained(capsys, recipe(wan, **changes))
    assert re.match(said, line), line


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("command", ["train", "rank"])
def test_all_problems_at_once(capsys: Any, wan: Given, command: str) -> None:
    model = 'pose = "native"\nreference = "native"\nflow_shift = -1.0\ntimestep_range = [0.5, 0.1]'
    told = trained(capsys, recipe(wan, model=model, frames="9", resolution='"48x48"', more="task_options = 1"), command)
    assert sorted(re.split(r"[ :]", line)[0] for line in told) == [
        "model.flow_shift", "model.pose", "model.reference", "model.timestep_range", "phases.video.frames",
        "phases.video.resolution", "task_options",
    ]  # fmt: skip


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("flow_shift = 3.0", r"model.flow_shift: only for flow models, but EulerDiscreteScheduler predicts v"),
        ('timestep_sampling = "logit_normal"', r"model.timestep_sampling: only for flow models"),
        ("timestep_range = [0.1, 0.5]", r"model.timestep_range: the noise levels of this model have no ends; leave it"),
    ],
)  # fmt: skip
def test_noise_levels_of_other_models(capsys: Any, svd: Given, model: str, said: str) -> None:
    (line,) = trained(capsys, recipe(svd, model=model))
    assert re.match(said, line), line


@pytest.mark.usefixtures("unloaded")
def test_other_sizes_of_a_schedule(capsys: Any, wan: Given) -> None:
    text = recipe(wan).replace("m = [0.34]", "m = [0.34], resolution = [16]")
    (line,) = trained(capsys, text)
    assert line.startswith("schedule.options: another resolution, frame count or share of tokens in phase video than")


def test_latents_of_another_vae(capsys: Any, wan: Given, svd: Given) -> None:
    line, text = trained(capsys, recipe(wan, path=str(svd.data)))
    assert re.match(r"data.path = .*: has no text, but the model takes text; prepare it with --text", text)
    assert re.match(r"data.path = .*its latents have 4 channels \(AutoencoderKLTemp.* takes 16; prepare it with", line)
    shutil.copytree(wan.data, "other")
    path = Path("other/dataset.json")
    own = re.search(r'"hash": "(\w{16})"', path.read_text())
    assert own
    path.write_text(path.read_text().replace(own[1], "0" * 16))
    (line,) = trained(capsys, recipe(wan, path="other"))
    assert re.match(
        r"data.path = 'other': its latents are of another VAE \(hash 0{16}\) than that of .*prepare it", line
    )
    path.write_text("{")
    (line,) = trained(capsys, recipe(wan, path="other"))
    assert line.startswith("data.path = 'other': dataset.json can't be read as JSON")


def test_data_sets_of_the_other_format(capsys: Any, wan: Given, tiny_data: Path) -> None:
    (line,) = trained(capsys, recipe(wan, path=str(tiny_data)))
    assert re.match(
        r"data.path = .*: format 1, clips for task human_video; prepare the videos with --codec FOLDER", line
    )


def test_a_folder_without_vae(capsys: Any, wan: Given) -> None:
    removed("vae")(copied(wan.model))
    (line,) = trained(capsys, recipe(wan, pretrained="m"))
    assert re.match(r"model.pretrained = 'm': no vae/config.json in it, and the latents of .*; give the whole", line)


def test_a_hub_id_offline(capsys: Any, wan: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (line,) = trained(capsys, recipe(wan, pretrained="someone/something"))
    assert re.match(r"model.pretrained = 'someone/something': not on this machine, .*; give a local folder, or", line)


def test_one_of_two_experts_is_a_note(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: Any) -> None:
        raise ValueError("stopped before training")

    monkeypatch.setattr("entprog.train.run.check_blocks", stop)
    given = Given.make("wan-2.2-t2v-a14b", tmp_path)
    note, line = trained(capsys, recipe(given, model='component = "transformer_2"'))
    assert re.match(r"warning: this model has two networks: transformer_2 denoises levels 0 to 0.875 and trains", note)
    assert 'train it in a run of its own, with model.component = "transformer"' in note
    assert line == "stopped before training"


def test_keys_of_another_task(capsys: Any, wan: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    told = trained(
        capsys,
        recipe(wan, task="human_video", model='reference = "frame"\npose = "native"', pretrained="x/y",
        clips="1", resolution='"480x832"', shown='"480x832"',
               path="", rest='scheduler = "native"'),
    )  # fmt: skip
    for said in (
        r'model.pretrained = "x/y": needs task = "pretrained"',
        r'model.pose = "native": only task = "pretrained" takes that',
        r'model.reference = "frame": only task = "pretrained" takes that',
        r'phases.video.resolution = "480x832": this task trains on squares',
        r'evaluate.resolution = "480x832": this task makes squares',
        r'sample.scheduler = "native": only a pretrained model brings one',
    ):
        assert any(re.match(said, line) for line in told), (said, told)
    assert len(told) == 6
    monkeypatch.setattr("entprog.train.run.train", lambda *given, **more: None)
    Path("r.toml").write_text('[model]\nflow_shift = 3.0\ndtype = "bf16"\n')
    main(["train", "r.toml"])
    said = capsys.readouterr().err
    assert said == 'entprog: warning: r.toml: model.dtype and 1 more: no effect without task = "pretrained"\n'
    Path("r.toml").write_text(
        recipe(wan, model='init = "base"\nsize = "s"').replace("[train]", '[train]\nreference_cache = "disk"')
    )
    main(["train", "r.toml"])
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[3].split(" ")[0] for line in told] == ["model.size", "train.reference_cache"]


def test_settings_of_prepare(capsys: Any, wan: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("videos").mkdir()
    write_video("videos/a.mp4", np.full((20, 48, 48, 3), 90, np.uint8), 16)
    monkeypatch.setattr("entprog.tasks.pretrained.text.text_identity", None)  # its files would be read
    model = str(wan.model)
    told = refused(
        capsys, "prepare", "videos", "out", "--codec", model, "--text", model, "--sizes", "30x40", "--frames", "6"
    )
    assert [line.split(";")[0] for line in told] == [
        "sizes: 30x40 must be a multiple of 16 for AutoencoderKLWan-f8t4c16",
        "frames = 6: AutoencoderKLWan-f8t4c16 takes 4 * k + 1",
    ]
    Path("videos/metadata.csv").write_text("video,prompt\na.mp4,someone\n")
    (line,) = refused(
        capsys, "prepare", "videos", "out", "--codec", model, "--sizes", "32x32", "--frames", "5", "--control", "pose"
    )
    assert "pose" in line and "metadata.csv" in line, line
    edited(NETWORK, _class_name="Unknown")(copied(wan.model))
    (line,) = refused(capsys, "prepare", "videos", "out", "--codec", "m/scheduler", "--sizes", "32x32", "--frames", "5")
    assert line.startswith("--codec = 'm/scheduler': no vae/ and no config.json in it")


def test_a_finished_run(capsys: Any, svd: Given) -> None:
    """One run of a model without text, with its base, its data and what is sampled broken in turn."""
    shutil.copytree(svd.data, "data")
    copied(svd.model)
    text = recipe(Given(Path("m"), Path("data")), model='reference = "native"')
    Path("r.toml").write_text(re.sub(r"\[ranking\].*?(?=\[phases)", "", text, flags=re.DOTALL))
    main(["train", "r.toml", "--method", "full", "--phases.video.steps", "1", "--phases.video.batch", "1"])
    Path("text.png").write_text("no image")
    Image.new("RGB", (32, 32), (90, 90, 90)).save("grey.png")
    write_video("grey.mp4", np.full((20, 48, 48, 3), 90, np.uint8), 8)
    sample = ["sample", "run", "--out", "clips", "--drive", "clip0", "--reference"]
    cases = [
        ([*sample, "text.png"], r"reference = 'text.png': not an image; give a PNG, JPEG or WebP file"),
        ([*sample, "nobody"], r"reference = 'nobody': no such file, and no such clip in data; give an image file or o"),
        ([*sample, "clip1", "--prompt", "a man"], r"prompt = 'a man': m takes no text; leave it out"),
        ([*sample, "clip1", "--resolution", "36x32"], r"resolution = 36x32: no multiple of \d+ pixels"),
        ([*sample, "clip1", "--resolution", "64x32"], r"resolution = 64x32: drive = 'clip0' is stored as 32x32; choos"),
        ([*sample, "clip1", "--resolution", "big"], r"resolution = 'big': expected a side of 16"),
        ([*sample[:5], "grey.mp4", "--reference", "clip1"], r"drive = 'grey.mp4': no person.*; give a video of at lea"),
        (["evaluate", "run", "--evaluate.resolution", "64x32", "--evaluate.clips", "1"], r".*resolution"),
    ]  # fmt: skip
    for argv, said in cases:
        (line,) = refused(capsys, *argv)
        assert re.match(said, line), line
    weights_of_unet = Path("m/unet/diffusion_pytorch_model.safetensors")
    whole = weights_of_unet.read_bytes()
    weights_of_unet.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (line,) = refused(capsys, "evaluate", "run")
    assert re.match(r"weights = 'run/final/delta.safetensors': trained on another base .*give model.pretrained", line)
    Path("data").rename("elsewhere")
    (line,) = refused(capsys, "evaluate", "run")
    assert re.match(r"data.path = 'data': no dataset.json and index.jsonl there; make them with: entprog prepare", line)
    Path("m").rename("n")
    (line,) = refused(capsys, *sample, "clip1")
    assert re.match(r"model.pretrained = 'm': no such folder, and no hub id; give a folder", line)
