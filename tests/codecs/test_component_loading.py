"""Broken folders: each is refused in one line that names the field, the folder and the remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_vaes
from entprog.codecs.diffusers import DiffusersCodec
from entprog.codecs.loading import component_config, load_component, weights_hash

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_vaes.save(tmp_path / "wan")


def edited(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def no_config(vae: Path) -> None:
    (vae / "config.json").unlink()


def broken_config(vae: Path) -> None:
    (vae / "config.json").write_text("{")


def nameless_config(vae: Path) -> None:
    (vae / "config.json").write_text("{}")


def pickled(vae: Path) -> None:
    (vae / WEIGHTS).unlink()
    (vae / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")  # would run if it were read


def no_weights(vae: Path) -> None:
    (vae / WEIGHTS).unlink()


def truncated(vae: Path) -> None:
    whole = (vae / WEIGHTS).read_bytes()
    (vae / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def lost_shard(vae: Path) -> None:
    (vae / WEIGHTS).rename(vae / "part-1.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    (vae / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def missing_keys(vae: Path) -> None:
    changed(vae, lambda tensors: [tensors.pop(key) for key in sorted(tensors)[:3]])


def more_layers(vae: Path) -> None:
    edited(vae, num_res_blocks=2)


def other_shape(vae: Path) -> None:
    edited(vae, base_dim=8)


def nan(vae: Path) -> None:
    changed(vae, lambda tensors: tensors["quant_conv.bias"].fill_(float("nan")))


def other_class(vae: Path) -> None:
    edited(vae, _class_name="VQModel")


BROKEN = {
    no_config: "no vae/ and no config.json|no config.json in it; copy it too",
    broken_config: "config.json is no JSON .*; copy it again",
    nameless_config: "no _class_name, .*; give another folder",
    pickled: "diffusion_pytorch_model.bin is a pickle, .* not read; save the weights as safetensors",
    no_weights: "no diffusion_pytorch_model.safetensors in it; copy",
    truncated: "diffusion_pytorch_model.safetensors is truncated .*; copy it again",
    lost_shard: r"1 of 2 weight files are missing \(part-2.safetensors\); copy",
    missing_keys: r"the weights lack 3 of \d+ tensors .*first decoder.* copy",
    more_layers: r"the weights lack \d+ of \d+ tensors that config.json asks for",
    other_shape: "do not have the shapes of config.json .*; copy both again",
    nan: r"NaN or infinite weights in 1 tensors \(first quant_conv.bias\); copy",
    other_class: "VQModel is not a known VAE; known are AutoencoderKL, .*AutoencoderTiny",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_refused_in_one_line(
    damage: Callable[[Path], None], folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    damage(folder / "vae")
    with pytest.raises(ValueError, match=BROKEN[damage]) as caught:
        DiffusersCodec.load(folder, field="--codec")
    message = str(caught.value)
    assert message.startswith("--codec = '") and str(folder) in message and "\n" not in message and len(message) < 400
    printed = capfd.readouterr()
    assert not printed.out and not printed.err and not caplog.text


def test_a_whole_folder_loads_without_a_word(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for place in (folder, folder / "vae"):
        model = load_component(diffusers.AutoencoderKLWan, place, subfolder="vae")
        assert not model.training and next(model.parameters()).dtype == torch.float32
    model = load_component(diffusers.AutoencoderKLWan, folder / "vae", dtype=torch.bfloat16)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert capfd.readouterr() == ("", "")


def test_another_class_than_asked_for(folder: Path) -> None:
    with pytest.raises(ValueError, match="says _class_name = 'AutoencoderKLWan', but AutoencoderKL is needed"):
        load_component(diffusers.AutoencoderKL, folder, subfolder="vae")


def test_tensors_without_a_place_are_a_warning(folder: Path) -> None:
    changed(folder / "vae", lambda tensors: tensors.update(extra=torch.ones(2)))
    with pytest.warns(UserWarning, match=r"1 tensors of the weights have no place in the model \(first extra\)"):
        load_component(diffusers.AutoencoderKLWan, folder, subfolder="vae")


def test_a_variant_alone_is_loaded(folder: Path) -> None:
    (folder / "vae" / WEIGHTS).rename(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    assert DiffusersCodec.load(folder).hash == DiffusersCodec(tiny_vaes.build("AutoencoderKLWan")).hash


def test_weights_in_several_files(folder: Path) -> None:
    tiny_vaes.build("AutoencoderKLWan").save_pretrained(folder / "parts", max_shard_size="50KB")
    assert len(list((folder / "parts").glob("*.safetensors"))) > 1
    assert DiffusersCodec.load(folder / "parts").hash == DiffusersCodec.load(folder).hash


def test_places_that_hold_no_component(folder: Path, tmp_path: Path) -> None:
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="a whole pipeline; name the component's folder in it"):
        component_config(folder)
    with pytest.raises(ValueError, match=r"no unet/ and no config.json in it \(it has vae\)"):
        component_config(folder, subfolder="unet")
    with pytest.raises(ValueError, match=r"model.pretrained = .*no such folder; give a folder in diffusers' layout"):
        component_config(tmp_path / "none", field="model.pretrained")
    with pytest.raises(ValueError, match=r"a file; give the folder that holds config.json"):
        component_config(folder / "model_index.json")


def test_a_hub_id_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"--codec = 'someone/something': not in the local cache.*give a folder"
    ) as caught:
        DiffusersCodec.load("someone/something", field="--codec")
    assert "\n" not in str(caught.value)


def test_hash_of_weights() -> None:
    tensors = {"a": torch.ones(2, 3), "b": torch.tensor(1, dtype=torch.bfloat16)}
    assert weights_hash(tensors) == weights_hash(dict(reversed(tensors.items()))) and len(weights_hash(tensors)) == 64
    others = [{"a": torch.ones(3, 2), "b": tensors["b"]}, {"c": tensors["a"], "b": tensors["b"]}, {"a": tensors["a"]}]
    assert len({weights_hash(tensors), weights_hash(tensors, "x"), *map(weights_hash, others)}) == 5
