"""VAEs of diffusers as codecs: every class, against what its pipelines compute."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny_vaes
from entprog.codecs.diffusers import KNOWN, DiffusersCodec
from entprog.plugins import load

CLASSES = tuple(tiny_vaes.CONFIGS)
SIZE = (64, 96)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vaes")
    return {name: tiny_vaes.save(root / name, name) for name in CLASSES}


def video(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, *SIZE, 3), dtype=torch.uint8, generator=generator)


def test_every_known_class_is_tried() -> None:
    assert {name.split("-")[0] for name in CLASSES} == set(KNOWN)


@pytest.mark.parametrize("name", CLASSES)
def test_shapes_there_and_back(name: str, folders: dict[str, Path]) -> None:
    codec = load("codec", "diffusers", folder=str(folders[name])).open()
    frames = 2 * codec.frames_factor + 1
    assert codec.latent_frames(frames) == 3
    latents = codec.encode(video(frames))
    assert latents.shape == (3, codec.channels, SIZE[0] // codec.factor, SIZE[1] // codec.factor)
    assert latents.dtype == torch.float32 and not latents.requires_grad
    back = codec.decode(latents)
    assert back.shape == (frames, 3, *SIZE) and back.min() >= 0 and back.max() <= 1
    two = codec.encode(torch.stack([video(frames), video(frames, 1)]))
    torch.testing.assert_close(two[0], latents, rtol=0, atol=1e-5)
    assert codec.decode(two).shape == (2, frames, 3, *SIZE)
    one = codec.encode(video(1))
    assert one.shape == (1, *latents.shape[1:]) and codec.decode(one).shape == (1, 3, *SIZE)
    assert torch.equal(codec.encode_pixels(video(1).movedim(-1, -3) / 255), one)


@pytest.mark.parametrize("name", CLASSES)
def test_numbers_are_those_of_the_pipelines(name: str, folders: dict[str, Path]) -> None:
    """By hand, as diffusers' pipelines preprocess, encode and scale: equal bits."""
    codec = DiffusersCodec.load(folders[name])
    vae, frames = tiny_vaes.build(name), 2 * codec.frames_factor + 1
    pixels = video(frames).permute(0, 3, 1, 2).float() / 255.0 * 2.0 - 1.0
    batch = pixels.transpose(0, 1)[None] if codec.video else pixels
    with torch.no_grad():
        out = vae.encode(batch)
    raw = out.latents if name == "AutoencoderTiny" else out.latent_dist.mode()
    config = vae.config
    if "Wan" in name:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
        raw = (raw - mean) * (1.0 / std)
    elif "LTX" in name:
        mean, std = (v.view(1, -1, 1, 1, 1) for v in (vae.latents_mean, vae.latents_std))
        raw = (raw - mean) * config.scaling_factor / std
    else:
        raw = (raw - (config.get("shift_factor") or 0.0)) * config.scaling_factor
    latents = codec.encode(video(frames))
    assert torch.equal(latents, raw[0].transpose(0, 1) if codec.video else raw)
    mean, std = codec.mean.view(-1, 1, 1), codec.std.view(-1, 1, 1)
    torch.testing.assert_close(latents * std + mean, codec._raw(latents), rtol=1e-5, atol=1e-6)


def test_a_whole_encoding_of_the_first_image(folders: dict[str, Path]) -> None:
    codec = DiffusersCodec.load(folders["AutoencoderKLWan"])
    image = video(1)[0]
    first = codec.encode_first(image, 9)
    assert first.shape == (3, 4, 8, 12)
    grey = torch.full((9, 3, *SIZE), 0.5)
    grey[0] = image.permute(2, 0, 1).float() / 255
    assert torch.equal(first, codec.encode_pixels(grey))
    assert torch.equal(first[:1], codec.encode(image[None]))  # causal: the first latent frame is the image's own
    assert first[1:].abs().max() > 0.01  # zeros do not encode to zeros
    assert codec.encode_first(torch.stack([image, image]), 9).shape == (2, 3, 4, 8, 12)


def test_a_window_is_no_slice_of_a_longer_encoding(folders: dict[str, Path]) -> None:
    codec = DiffusersCodec.load(folders["AutoencoderKLWan"])
    frames = video(17)
    whole, window = codec.encode(frames), codec.encode(frames[8:])
    assert torch.allclose(codec.encode(frames[:9]), whole[:3], atol=1e-5)
    assert not torch.allclose(window, whole[2:], atol=1e-2)


@pytest.mark.parametrize("frames", [5, 13, 33])
def test_other_lengths(frames: int, folders: dict[str, Path]) -> None:
    for name in ("AutoencoderKLCogVideoX", "AutoencoderKLHunyuanVideo"):
        codec = DiffusersCodec.load(folders[name])
        clip = video(frames)[:, :32, :32]
        latents = codec.encode(clip)
        assert len(latents) == (frames - 1) // 4 + 1 and codec.decode(latents).shape == (frames, 3, 32, 32)


def test_hash_names_class_normalisation_and_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    codec = DiffusersCodec.load(folders["AutoencoderKLWan"])
    assert len(codec.hash) == 16 and codec.hash == DiffusersCodec.load(folders["AutoencoderKLWan"]).hash
    assert codec.hash == DiffusersCodec.load(folders["AutoencoderKLWan"] / "vae", dtype="bf16", tiling=True).hash
    vae = tiny_vaes.build("AutoencoderKLWan")
    vae.register_to_config(latents_mean=[0.0] * 4)
    other = DiffusersCodec(vae)
    vae = tiny_vaes.build("AutoencoderKLWan")
    next(vae.parameters()).data.view(-1)[0] += 1e-3
    assert len({codec.hash, other.hash, DiffusersCodec(vae).hash}) == 3


def test_bf16_and_tiles_are_close_and_recorded(folders: dict[str, Path]) -> None:
    plain = DiffusersCodec.load(folders["AutoencoderKLWan"])
    rounded = DiffusersCodec.load(folders["AutoencoderKLWan"], dtype="bf16")
    latents, low = plain.encode(video(5)), rounded.encode(video(5))
    assert low.dtype == torch.float32 and 0 < (low - latents).abs().max() < 0.1
    tiled = DiffusersCodec.load(folders["AutoencoderKLWan"], tiling=True)
    tiled.vae.enable_tiling(64, 64, 48, 48)
    assert tiled.encode(video(5)).shape == latents.shape
    about = tiled.about()
    assert about["tiling"] is True and about["dtype"] == "float32" and rounded.about()["dtype"] == "bf16"
    assert about["class"] == "AutoencoderKLWan" and about["name"] == "AutoencoderKLWan-f8t4c4"
    assert (about["channels"], about["factor"], about["frames_factor"]) == (4, 8, 4)
    assert about["mean"] == pytest.approx(tiny_vaes.MEAN) and about["std"] == pytest.approx(tiny_vaes.STD)
    about = DiffusersCodec.load(folders["AutoencoderKL"]).about()
    assert about["mean"] == pytest.approx([0.1] * 4) and about["std"] == pytest.approx([1 / 0.36] * 4)


@pytest.mark.parametrize("name", ["AutoencoderKLTemporalDecoder", "AutoencoderTiny"])
def test_classes_that_cannot_tile_refuse_it(name: str, folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"tiling = true: .* cannot encode by tiles"):
        DiffusersCodec.load(folders[name], tiling=True)


def test_frames_and_sizes_that_do_not_fit(folders: dict[str, Path]) -> None:
    codec = DiffusersCodec.load(folders["AutoencoderKLWan"])
    with pytest.raises(ValueError, match=r"frames = 8: .* takes 4 \* k \+ 1; use 5 or 9$"):
        codec.encode(video(8))
    with pytest.raises(ValueError, match=r"frames = 0: .* use 1 or 5$"):
        codec.latent_frames(0)
    with pytest.raises(ValueError, match="frame size 60x96: must be a multiple of 8"):
        codec.encode(video(5)[:, :60])
    assert DiffusersCodec.load(folders["AutoencoderKL"]).latent_frames(8) == 8


def test_a_config_that_says_another_compression(tmp_path: Path) -> None:
    vae = tiny_vaes.build("AutoencoderKLWan")
    vae.register_to_config(scale_factor_spatial=16)
    with pytest.raises(ValueError, match=r"gave latents .* expected .*; config.json does not say"):
        DiffusersCodec(vae).encode(video(5))


def test_images_of_any_leading_dimensions(folders: dict[str, Path]) -> None:
    codec = DiffusersCodec.load(folders["AutoencoderKL"])
    frames = video(9)
    latents = codec.encode(frames)
    torch.testing.assert_close(codec.encode(frames[0]), latents[0], rtol=0, atol=1e-5)
    assert codec.decode(latents[0]).shape == (3, *SIZE)
    error = (codec.decode(codec.encode(frames).half()) - codec.decode(latents)).pow(2).mean()
    assert -10 * math.log10(float(error)) > 60


def test_no_folder_and_unknown_values() -> None:
    with pytest.raises(ValueError, match='folder = "": give the folder'):
        load("codec", "diffusers").open()
    with pytest.raises(ValueError, match="dtype = 'half' is"):
        load("codec", "diffusers", folder="x", dtype="half")
    with pytest.raises(ValueError, match="dtype = 'half': choose one of float32, bf16"):
        DiffusersCodec.load("x", dtype="half")
