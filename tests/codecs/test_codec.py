"""The patch codec: an orthonormal projection, fitted the same way every time."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from entprog.codecs.pca import CHANNELS, PatchCodec, to_uint8
from entprog.synthetic import render_clip


@pytest.fixture(scope="module")
def frames() -> Tensor:
    """Two people of the demo's domain, uint8 [6, 64, 64, 3]."""
    clips = [render_clip(s, s, s, frames=3, size=64, domain="target").frames for s in (2_000_001, 2_000_002)]
    return torch.from_numpy(np.concatenate(clips))


def decibels(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(float((a - b).pow(2).mean()))


def test_rows_are_orthonormal_and_channels_in_order_of_variance(frames: Tensor) -> None:
    for codec in (PatchCodec.default(), PatchCodec.fit(frames)):
        assert codec.basis.shape == (CHANNELS, 48) and codec.mean.shape == (48,) and codec.scale.shape == (CHANNELS,)
        torch.testing.assert_close(codec.basis @ codec.basis.T, torch.eye(CHANNELS), rtol=0, atol=1e-5)
    own = PatchCodec.fit(frames)
    spread = (own.encode(frames).transpose(0, 1).flatten(1) * own.scale[:, None]).std(1)
    assert (spread[:-1] >= spread[1:] - 1e-4).all()
    assert 0.9 < own.encode(frames).pow(2).mean().sqrt() < 1.1


def test_rendered_frames_survive_the_round_trip(frames: Tensor) -> None:
    codec = PatchCodec.default()
    back = codec.decode(codec.encode(frames))
    assert decibels(back, frames.movedim(-1, -3) / 255) > 30
    assert back.min() >= 0 and back.max() <= 1
    assert np.abs(to_uint8(back).astype(int) - frames.numpy()).mean() < 5
    half = codec.decode(codec.encode(frames).half())  # as they are stored
    assert decibels(half, back) > 60


@pytest.mark.parametrize("shape", [(5, 256, 256, 3), (2, 3, 32, 48, 3), (64, 64, 3), (5, 4, 4, 3)])
def test_the_fast_encoding_is_the_plain_one(shape: tuple[int, ...]) -> None:
    codec = PatchCodec.default()
    given = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = (given.movedim(-1, -3).float() / 127.5 - 1).reshape(-1, 3, *shape[-3:-1])
    patches = torch.nn.functional.pixel_unshuffle(pixels, 4).permute(0, 2, 3, 1)
    plain = ((patches - codec.mean) @ codec.basis.T / codec.scale).permute(0, 3, 1, 2)
    found = codec.encode(given)
    assert found.shape == (*shape[:-3], 16, shape[-3] // 4, shape[-2] // 4)
    assert torch.equal(found.reshape(plain.shape), plain)


def test_shapes_and_kinds_of_input(frames: Tensor) -> None:
    codec = PatchCodec.default()
    assert codec.encode(frames[0]).shape == (16, 16, 16)
    assert codec.encode(frames.view(2, 3, 64, 64, 3)).shape == (2, 3, 16, 16, 16)
    assert codec.encode(frames.numpy()).dtype == torch.float32
    assert codec.encode(frames[:, :32, :48]).shape == (6, 16, 8, 12)
    latents = codec.encode(frames)
    assert codec.decode(latents[0]).shape == (3, 64, 64)
    assert codec.decode(latents.view(2, 3, 16, 16, 16)).shape == (2, 3, 3, 64, 64)
    torch.testing.assert_close(codec.encode_pixels(frames.movedim(-1, -3) / 255), latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(codec.encode(frames[:1])[0], latents[0])
    with pytest.raises(ValueError, match="30x64: must be a multiple of 4"):
        codec.encode(frames[:, :30])


def test_a_latent_pixel_is_its_patch(frames: Tensor) -> None:
    """One patch by hand: its 48 numbers less the mean, projected and scaled."""
    codec = PatchCodec.default()
    patch = frames[0, 8:12, 20:24].permute(2, 0, 1).reshape(48).float() / 127.5 - 1
    by_hand = codec.basis @ (patch - codec.mean) / codec.scale
    torch.testing.assert_close(codec.encode(frames[0])[:, 2, 5], by_hand, rtol=1e-4, atol=1e-5)


def test_decoding_an_encoded_projection_changes_nothing(frames: Tensor) -> None:
    codec = PatchCodec.fit(frames)
    grey = codec.encode(frames) * 0.3  # far from the clamp
    torch.testing.assert_close(codec.encode_pixels(codec.decode(grey)), grey, rtol=0, atol=1e-4)


def test_to_uint8_rounds_and_clamps() -> None:
    values = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 2.0]).view(1, 6, 1).expand(3, 6, 1)
    assert to_uint8(values)[:, 0, 0].tolist() == [0, 0, 0, 1, 255, 255]
    every = torch.arange(256, dtype=torch.float32).view(1, 16, 16).expand(3, 16, 16) / 255
    assert np.array_equal(to_uint8(every)[..., 0].reshape(-1), np.arange(256))


def test_fit_is_deterministic_and_the_hash_names_the_numbers(frames: Tensor, tmp_path: Path) -> None:
    first, second = PatchCodec.fit(frames), PatchCodec.fit(frames.clone())
    assert torch.equal(first.basis, second.basis) and first.hash == second.hash and len(first.hash) == 16
    shuffled = PatchCodec.fit(frames.flip(0))
    torch.testing.assert_close(shuffled.basis, first.basis, rtol=0, atol=1e-4)
    first.save(tmp_path / "codec.safetensors")
    assert PatchCodec.load(tmp_path / "codec.safetensors").hash == first.hash
    assert PatchCodec.default().hash == PatchCodec.default().hash != first.hash
    first.scale[0] += 1e-6
    assert first.hash != second.hash


def test_a_file_without_the_tensors_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"mean": torch.zeros(48)}, str(tmp_path / "codec.safetensors"))
    with pytest.raises(ValueError, match=r"no tensors \['basis', 'scale'\]"):
        PatchCodec.load(tmp_path / "codec.safetensors")
