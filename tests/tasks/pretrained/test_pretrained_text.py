"""Prompts and images by a pipeline's own encoders, on tiny random pipelines; and folders that are refused."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from entprog import plugins
from entprog.tasks.pretrained.encoders import Encoders
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.families.base import Family
from entprog.tasks.pretrained.folder import read_configs
from entprog.tasks.pretrained.prepare_data import image_encoder
from entprog.tasks.pretrained.text import encode_images, encode_prompts, text_identity
from tiny_pipelines import pipelines, saved


@pytest.fixture(scope="module")
def shared() -> Path:
    """Wan 2.1 I2V: UMT5 and CLIP; read it only."""
    return saved("wan-2.1-i2v")


@pytest.fixture
def wan(shared: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(shared, tmp_path / "wan"))


def refused(folder: str | Path, **more: Any) -> str:
    with pytest.raises(ValueError) as raised:
        encode_prompts(folder, ["a person"], **more)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def test_prompts_are_what_the_whole_pipeline_makes_of_them(shared: Path) -> None:
    pipeline = diffusers.WanImageToVideoPipeline.from_pretrained(str(shared))
    found = encode_prompts(shared, ["a person signs", "dances", "dances"])
    assert list(found.texts) == ["", "a person signs", "dances"]
    for prompt, tensors in found.texts.items():
        with torch.no_grad():
            whole, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
        text = tensors["text"]
        assert list(tensors) == ["text"] and text.device.type == "cpu" and not text.requires_grad
        assert torch.equal(text, whole[0, : len(text)]) and not whole[0, len(text) :].any()
    assert [len(tensors["text"]) for tensors in found.texts.values()] == [1, 4, 2]


def test_each_prompt_is_encoded_once_and_the_encoder_is_freed(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, alive = [], []

    def encode_text(self: Family, pipeline: Any, prompt: str) -> dict[str, torch.Tensor]:
        prompts.append(prompt)
        alive.append(weakref.ref(pipeline.text_encoder))
        assert pipeline.transformer is None and pipeline.vae is None and pipeline.image_encoder is None
        return {"text": torch.zeros(1, 2)}

    monkeypatch.setattr("entprog.tasks.pretrained.families.wan.Wan.encode_text", encode_text)
    encode_prompts(shared, ["b", "a", "b", ""])
    assert prompts == ["", "b", "a"]
    gc.collect()
    assert not any(encoder() for encoder in alive)


def test_dtype(shared: Path) -> None:
    assert encode_prompts(shared, [], dtype="bf16").texts[""]["text"].dtype == torch.bfloat16
    assert refused(shared, dtype="int8") == "dtype = 'int8': choose float32 or bf16 or fp16"


def test_the_hash_is_of_the_class_and_the_weights_files(shared: Path, wan: Path) -> None:
    found = encode_prompts(shared, []).about()
    assert found["name"] == "UMT5EncoderModel"
    weights = sha256((shared / "text_encoder" / "model.safetensors").read_bytes()).hexdigest()
    assert found["hash"] == sha256(f"text_encoder\0UMT5EncoderModel\0{weights}\0".encode()).hexdigest()
    shutil.rmtree(wan / "image_encoder")
    assert text_identity(wan) == found
    change(wan / "text_encoder", lambda tensors: {name: value + 1 for name, value in tensors.items()})
    assert text_identity(wan)["hash"] != found["hash"]


def test_files_of_the_hubs_cache_are_not_read(wan: Path) -> None:
    known = text_identity(wan)
    file = wan / "text_encoder" / "model.safetensors"
    blobs = wan / "blobs"
    blobs.mkdir()
    file.rename(blobs / sha256(file.read_bytes()).hexdigest())
    (blob,) = blobs.iterdir()
    file.symlink_to(blob)
    blob.write_bytes(b"not read")
    assert text_identity(wan) == known


def test_images_are_what_the_whole_pipeline_makes_of_them(shared: Path) -> None:
    images = torch.randint(256, (2, 3, 48, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = encode_images(shared, images)
    assert found.shape == (2, 257, 16)
    pipeline = diffusers.WanImageToVideoPipeline.from_pretrained(str(shared))
    for image, states in zip(images, found, strict=True):
        with torch.no_grad():
            whole = pipeline.encode_image(Image.fromarray(image.permute(1, 2, 0).numpy()))
        assert torch.equal(states, whole[0])
    with pytest.raises(ValueError, match=r"images: torch.float32 \(2, 3, 48, 40\); give at least one image, uint8"):
        encode_images(shared, images.float())


def test_a_family_without_image_states_and_a_folder_without_image_encoder(shared: Path) -> None:
    class Plain(Family):
        networks = ()

        def inputs(self, x: Any, time: Any, condition: Any) -> dict[str, Any]:
            return {}

    family = Plain(Encoders.open(str(shared), "image").configs)
    with pytest.raises(ValueError, match="Plain: takes no states of an image encoder"):
        family.encode_image(None, torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="it has no image encoder; give a pipeline that has one, or leave --image out"):
        encode_images(saved("wan-2.2-i2v"), torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["svd", *(name for name in pipelines() if name.startswith("wan-animate"))])
def test_image_encoders_of_other_families(name: str) -> None:
    folder = saved(name)
    image = torch.randint(256, (1, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = diffusers.DiffusionPipeline.from_pretrained(str(folder))
    with torch.no_grad():
        family = family_of(read_configs(folder))
        expected = family.encode_image(whole, Image.fromarray(image[0].permute(1, 2, 0).numpy()))
    assert torch.equal(encode_images(folder, image)[0], expected)
    with ExitStack() as stack:  # as `entprog prepare` does
        assert torch.equal(image_encoder(str(folder), "cpu", "float32", stack)(image)[0], expected)


def with_text() -> list[str]:
    """The tiny pipelines that have a text encoder."""
    return [name for name in pipelines() if any(saved(name).glob("text_encoder*"))]


@pytest.mark.slow
def test_text_encoders_of_every_family() -> None:
    for name in with_text():
        folder = saved(name)
        whole = diffusers.DiffusionPipeline.from_pretrained(str(folder))
        with torch.no_grad():
            expected = family_of(read_configs(folder)).encode_text(whole, "a person walks")
        found = encode_prompts(folder, ["a person walks"]).texts["a person walks"]
        assert found.keys() == expected.keys(), name
        for key, tensor in found.items():
            assert torch.equal(tensor, expected[key]), (name, key)


def test_a_family_without_text() -> None:
    assert "it has no text encoder; give a pipeline that has one, or leave --text out" in refused(saved("svd"))


def test_a_pipeline_that_asks_the_vae_for_its_configuration(tmp_path: Path) -> None:
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )
    diffusers.HunyuanVideo15Pipeline(
        text_encoder=None, tokenizer=None, text_encoder_2=t5.eval(), tokenizer_2=transformers.ByT5Tokenizer(),
        transformer=diffusers.HunyuanVideo15Transformer3DModel(
            in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1,
            num_refiner_layers=1, text_embed_dim=16, text_embed_2_dim=16, image_embed_dim=16, rope_axes_dim=(4, 6, 6),
        ),
        vae=diffusers.AutoencoderKLHunyuanVideo15(
            latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), guider=diffusers.ClassifierFreeGuidance(),
    ).save_pretrained(tmp_path)  # fmt: skip
    encoders = Encoders.open(str(tmp_path), "text")
    assert encoders.name == "T5EncoderModel"
    with encoders.pipeline() as pipeline:
        assert pipeline.vae is None and pipeline.transformer is None and pipeline.num_channels_latents == 4


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(edit(load_file(file)), file, {"format": "pt"})


def set_key(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_broken_folders_are_refused_in_a_line(wan: Path, shared: Path) -> None:
    encoder = wan / "text_encoder"
    change(encoder, lambda tensors: {k: v for k, v in tensors.items() if "layer.1" not in k})
    assert "the weights of text_encoder, of UMT5EncoderModel, lack" in refused(wan)
    change(encoder, lambda tensors: {k: v.fill_(torch.nan) for k, v in load_file(shared / FILE).items()})
    assert "NaN or infinite weights in text_encoder (first" in refused(wan)
    shutil.copy(shared / FILE, wan / FILE)
    set_key(encoder / "config.json", d_ff=48)
    assert "text_encoder cannot be loaded" in refused(wan)
    shutil.copy(shared / "text_encoder" / "config.json", encoder / "config.json")
    (wan / FILE).write_bytes((shared / FILE).read_bytes()[:-100])
    assert "text_encoder cannot be loaded" in refused(wan)
    (wan / FILE).rename(encoder / "pytorch_model.bin")
    assert "text_encoder/pytorch_model.bin is a pickle, which can run code and is not read" in refused(wan)
    (encoder / "pytorch_model.bin").unlink()
    assert "no weights (*.safetensors) in text_encoder/; copy them too" in refused(wan)
    shutil.rmtree(wan / "tokenizer")
    shutil.copy(shared / FILE, wan / FILE)
    assert "model_index.json names tokenizer, but there is no folder tokenizer/" in refused(wan)


FILE = Path("text_encoder") / "model.safetensors"


def test_weights_in_shards_or_of_a_variant_only(wan: Path, shared: Path) -> None:
    expected = encode_prompts(shared, ["dances"]).texts["dances"]["text"]
    (wan / FILE).rename(wan / "text_encoder" / "model.fp16.safetensors")
    assert torch.equal(encode_prompts(wan, ["dances"]).texts["dances"]["text"], expected)
    shutil.rmtree(wan / "text_encoder")
    encoder = transformers.UMT5EncoderModel.from_pretrained(shared / "text_encoder")
    encoder.save_pretrained(wan / "text_encoder", max_shard_size="2KB")
    assert torch.equal(encode_prompts(wan, ["dances"]).texts["dances"]["text"], expected)
    next(iter((wan / "text_encoder").glob("model-*.safetensors"))).unlink()
    assert "weight files are missing in text_encoder/ (model-" in refused(wan)


def test_other_pipelines_and_code_of_others(wan: Path) -> None:
    index = wan / "model_index.json"
    kept = index.read_text()
    set_key(index, text_encoder=["my_code", "Encoder"])
    assert "code that comes with a model is not run" in refused(wan)
    index.write_text(kept)
    set_key(index, _class_name=["pipeline", "Own"])
    assert "which diffusers does not have" in refused(wan)
    index.write_text(kept)
    set_key(index, text_encoder=[None, None])
    assert "it has no text encoder; give a pipeline that has one, or leave --text out" in refused(wan)
    index.unlink()
    assert "no model_index.json in it; give the whole pipeline's folder" in refused(wan)
    assert refused(wan / "none").startswith(f"--text = {str(wan / 'none')!r}: no such folder")
    assert refused(wan / "tokenizer").startswith(f"--text = {str(wan / 'tokenizer')!r}: no transformer/config.json")
    assert "revision = 'main': only for hub ids" in refused(wan, revision="main")


@pytest.mark.parametrize("package", ["transformers", "ftfy", "sentencepiece", "google.protobuf"])
def test_missing_packages_name_the_extra(wan: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (wan / "tokenizer" / "tokenizer.json").rename(wan / "tokenizer" / "spiece.model")
    there = plugins._is_there
    monkeypatch.setattr(plugins, "_is_there", lambda module: module != package and there(module))
    assert f'{package} not installed; pip install "entprog[pretrained]"' in refused(wan)


def test_a_package_that_is_missed_only_when_used(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode_text(self: Family, pipeline: Any, prompt: str) -> dict[str, torch.Tensor]:
        raise NameError("name 'ftfy' is not defined")

    monkeypatch.setattr("entprog.tasks.pretrained.families.wan.Wan.encode_text", encode_text)
    assert "name 'ftfy' is not defined; pip install \"entprog[pretrained]\"" in refused(shared)


def test_embeddings_that_are_not_finite(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "entprog.tasks.pretrained.families.wan.Wan.encode_text", lambda *_: {"text": torch.full((1, 2), torch.nan)}
    )
    assert "the prompt '' gives NaN or infinite numbers in torch.float32; use dtype float32 or bf16" in refused(shared)


def test_a_hub_id_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = refused("someone/something")
    assert said.startswith("--text = 'someone/something': not in the local cache, and not to be had from the hub")
