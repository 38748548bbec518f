"""The transformer: shapes, new blocks, reference, positions, poses, recomputation."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from entprog.config.schema import ModelConfig
from entprog.files import save_weights
from entprog.nets.conditioning import PoseEmbedding, pose_features
from entprog.nets.dit import DiTConfig, VideoDiT, build_dit
from entprog.nets.layers import SpatialBlock, TemporalBlock, attend, grid_codes, sinusoids
from entprog.tasks.human_video.build import build_model
from tiny import opened, small_dit


def inputs(samples: int = 2, frames: int = 3, side: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, tau, reference, pose maps."""
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(samples, frames, 16, side, side, generator=g),
        torch.rand(samples, generator=g),
        torch.randn(samples, 16, side, side, generator=g),
        torch.rand(samples, frames, 3, 4 * side, 4 * side, generator=g),
    )


@pytest.mark.parametrize("reference", ["siamese", "separate", "none"])
@pytest.mark.parametrize("pose", ["input", "blocks", "none"])
def test_shapes(reference: str, pose: str) -> None:
    model = small_dit(reference=reference, pose=pose)
    for samples, frames, side in ((1, 1, 4), (2, 3, 4), (1, 2, 8)):
        x, tau, image, maps = inputs(samples, frames, side)
        for given in (maps, None):
            out = model(x, tau, image, given)
            assert out.shape == x.shape and out.dtype == torch.float32 and out.isfinite().all()
    wide = torch.randn(1, 1, 16, 4, 8)
    assert model(wide, torch.zeros(1), wide[:, 0]).shape == wide.shape


def test_wrong_settings_name_the_field() -> None:
    with pytest.raises(ValueError, match=r"model\.size = 'huge'.*nano"):
        build_dit("huge")
    with pytest.raises(ValueError, match=r"model\.width = 36.*heads"):
        DiTConfig(width=36, heads=5)
    with pytest.raises(ValueError, match=r"model\.reference = 'twin'"):
        DiTConfig(reference="twin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"model\.pose = 'all'"):
        DiTConfig(pose="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="5x4: must be a multiple of the patch"):
        small_dit()(torch.zeros(1, 1, 16, 5, 4), torch.zeros(1))


def test_new_blocks_are_the_identity() -> None:
    x, c, places = torch.randn(2, 3, 4, 32), torch.randn(2, 32), torch.randn(3, 32)
    spatial = SpatialBlock(32, 2, pose_width=192)
    assert torch.equal(spatial(x, c), x)
    assert torch.equal(spatial(x, c, torch.randn(2, 4, 32), c, torch.rand(2, 3, 4, 192)), x)
    assert torch.equal(TemporalBlock(32, 2)(x, c, places), x)
    assert not PoseEmbedding(32)(torch.rand(2, 3, 4, 192)).any()


def test_a_new_model_predicts_zero_and_learns_from_its_first_step() -> None:
    model = small_dit(trained=False)
    x, tau, reference, maps = inputs()
    assert not model(x, tau, reference, maps).any()
    (model(x, tau, reference, maps) - x).pow(2).mean().backward()
    assert model.head.weight.grad.abs().sum() > 0


def test_the_reference_counts_once_gates_are_open() -> None:
    x, tau, reference, maps = inputs()
    other = reference + 1
    new = small_dit(trained=False)
    nn.init.normal_(new.head.weight)
    assert torch.equal(new(x, tau, reference, maps), new(x, tau, other, maps))
    for kind in ("siamese", "separate"):
        model = small_dit(reference=kind)
        assert not torch.allclose(model(x, tau, reference, maps), model(x, tau, other, maps))
        swapped = model(x, tau, torch.stack([reference[0], other[1]]), maps)
        assert torch.allclose(swapped[0], model(x, tau, reference, maps)[0], atol=1e-6)
        assert not torch.allclose(swapped[1], model(x, tau, reference, maps)[1])
    without = small_dit(reference="none")
    assert torch.equal(without(x, tau, reference, maps), without(x, tau, other, maps))


def slow_states(model: VideoDiT, reference: Tensor) -> list[Tensor]:
    """What enters each spatial block when the whole model runs on the clean image alone, at tau = 0."""
    seen: list[Tensor] = []
    handles = [
        block.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0][:, 0]))
        for block in model.blocks
    ]
    model(reference[:, None], torch.zeros(len(reference)))
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
def test_reference_states_equal_a_separate_forward_of_the_same_weights() -> None:
    model = small_dit()
    x, tau, reference, maps = inputs()
    fast, slow = model.reference_states(reference), slow_states(model, reference)
    assert len(fast) == len(slow) == 4
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    given = model(x, tau, reference_states=fast, pose=maps)
    assert torch.equal(given, model(x, tau, reference, maps))


@torch.no_grad()
def test_keys_of_the_reference_join_those_of_the_frame() -> None:
    """The block against the same sums written out for one head and one frame."""
    torch.manual_seed(0)
    block = SpatialBlock(8, 1)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, c, reference, clean = torch.randn(1, 1, 4, 8), torch.randn(1, 8), torch.randn(1, 4, 8), torch.randn(1, 8)
    shift, scale, gate, shift2, scale2, gate2 = block.modulation(c)[0].chunk(6)
    first, second = block.modulation(clean)[0].chunk(6)[:2]
    norm = nn.LayerNorm(8, elementwise_affine=False)
    own, shown = norm(x[0, 0]) * (1 + scale) + shift, norm(reference[0]) * (1 + second) + first
    q, (_, *kv) = block.qkv(own)[:, :8], block.qkv(torch.cat([own, shown])).chunk(3, -1)
    h = x[0, 0] + gate * block.out(torch.softmax(q @ kv[0].T / math.sqrt(8), -1) @ kv[1])
    h = h + gate2 * block.mlp(norm(h) * (1 + scale2) + shift2)
    torch.testing.assert_close(block(x, c, reference, clean)[0, 0], h, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_written_out_attention_equals_the_fused_kernel() -> None:
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 9, 9))
    fused = nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attend(q, k, v), fused, rtol=1e-5, atol=1e-6)
    long = torch.randn(1, 1, 600, 8)
    torch.testing.assert_close(
        attend(long[:, :, :4], long, long), torch.softmax(long[:, :, :4] @ long.mT / 8**0.5, -1) @ long,
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_the_same_place_has_the_same_code_on_any_grid() -> None:
    device = torch.device("cpu")
    coarse = grid_codes(4, 4, 32, 8.0, device).view(4, 4, 32)
    # Each third token of a 12x12 grid is in the middle of a token of the 4x4 grid.
    fine = grid_codes(12, 12, 32, 8.0, device).view(12, 12, 32)
    torch.testing.assert_close(fine[1::3, 1::3], coarse)
    oblong = grid_codes(4, 12, 32, 8.0, device).view(4, 12, 32)
    torch.testing.assert_close(oblong[:, 1::3], coarse)
    assert len({tuple(code.tolist()) for code in fine.flatten(0, 1)}) == 144
    angle = torch.tensor(2.5)
    by_hand = [f(2.5 * 10000 ** (-k / 4)) for f in (math.sin, math.cos) for k in range(4)]
    torch.testing.assert_close(sinusoids(angle, 8), torch.tensor(by_hand))


@torch.no_grad()
def test_tokens_and_pose_patches_lie_where_their_pixels_are() -> None:
    """With blocks that pass on their input, a change stays within its own patch."""
    model = small_dit(trained=False)
    for layer in (model.head, model.pose_embed.proj):
        nn.init.normal_(layer.weight)
    x, tau, reference, maps = inputs(1, 2, side=8)
    before = model(x, tau, reference, maps)
    touched = x.clone()
    touched[0, 1, :, 2:4, 6:8] += 1
    changed = (model(touched, tau, reference, maps) - before).abs().sum(2)[0]
    assert changed[1, 2:4, 6:8].min() > 0 and changed.sum() == changed[1, 2:4, 6:8].sum()
    drawn = maps.clone()
    drawn[0, 1, :, 8:16, 24:32] = 0  # 32 map pixels over 8 latents: four to one
    changed = (model(x, tau, reference, drawn) - before).abs().sum(2)[0]
    assert changed[1, 2:4, 6:8].min() > 0 and changed.sum() == changed[1, 2:4, 6:8].sum()


def test_pose_features_resample_to_eight_pixels_a_token() -> None:
    maps = torch.rand(1, 2, 3, 32, 32)
    assert pose_features(maps, (4, 4)).shape == (1, 2, 16, 192)
    assert torch.equal(pose_features(maps, (4, 4))[0, 1, 5].view(3, 8, 8), maps[0, 1, :, 8:16, 8:16])
    flat = torch.full((1, 1, 3, 48, 48), 0.5)
    torch.testing.assert_close(pose_features(flat, (4, 4)), torch.full((1, 1, 16, 192), 0.5))


@torch.no_grad()
def test_without_temporal_blocks_frames_are_so_many_images() -> None:
    model = small_dit()
    x, tau, reference, maps = inputs()
    clip = model(x, tau, reference, maps)
    alone = torch.cat([model(x[:, f : f + 1], tau, reference, maps[:, f : f + 1]) for f in range(3)], 1)
    assert not torch.allclose(clip, alone, atol=1e-3)
    model.temporal_off = True
    torch.testing.assert_close(model(x, tau, reference, maps), alone, rtol=0, atol=1e-5)


def test_declared_blocks_are_in_the_order_of_execution() -> None:
    model = small_dit(depth=5)
    seen: list[tuple[str, str]] = []
    for name in model.entprog_blocks():
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, arguments, name=name: seen.append((name, model.entprog_role({})))
        )
    x, tau, reference, maps = inputs()
    model(x, tau, reference, maps)
    assert [name for name, role in seen if role == "denoising"] == model.entprog_blocks()
    assert [name for name, role in seen if role == "reference"] == [f"blocks.{i}" for i in range(4)]
    assert model.entprog_blocks()[:4] == ["blocks.0", "blocks.1", "temporal.0", "blocks.2"]
    assert small_dit(temporal_every=0).entprog_blocks() == [f"blocks.{i}" for i in range(4)]
    separate = small_dit(reference="separate").entprog_blocks()
    assert separate[:4] == ["reference_blocks.0", "reference_blocks.1", "reference_blocks.2", "blocks.0"]


def gradients(model: VideoDiT, *, reference: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor | None]]:
    x, tau, image, maps = inputs()
    model.zero_grad(set_to_none=True)
    loss = (model(x, tau, image if reference is None else reference, maps) - x).pow(2).mean()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("reference", ["siamese", "separate"])
def test_recomputation_gives_the_same_gradients(reference: str) -> None:
    model = small_dit(reference=reference, pose="blocks")
    loss, plain = gradients(model)
    model.gradient_checkpointing = True
    again, recomputed = gradients(model)
    assert torch.equal(loss, again) and plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_a_detached_reference_keeps_the_loss_and_loses_its_gradient() -> None:
    model = small_dit()
    image = inputs()[2].requires_grad_()
    loss, full = gradients(model, reference=image)
    assert image.grad is not None and image.grad.abs().sum() > 0
    image.grad, model.reference_gradient = None, False
    again, part = gradients(model, reference=image)
    assert image.grad is None and torch.equal(loss, again)
    assert any(not torch.equal(full[name], part[name]) for name in full)
    separate = small_dit(reference="separate")
    separate.reference_gradient = False
    _, part = gradients(separate)
    assert all((grad is None) == name.startswith("reference_blocks.") for name, grad in part.items())


def written(tmp_path: Path) -> tuple[VideoDiT, Path]:
    """A nano model with open gates, and the file of its weights."""
    torch.manual_seed(0)
    model, path = opened(build_dit("nano"), std=0.03), tmp_path / "weights.safetensors"
    save_weights(model.state_dict(), path)
    return model, path


@torch.no_grad()
def test_new_parts_start_without_effect_on_loaded_weights(tmp_path: Path) -> None:
    model, path = written(tmp_path)
    x, tau, reference, maps = inputs(1, 2)
    expected = model(x, tau, reference, maps)
    separate = build_model(ModelConfig(init=str(path), reference="separate"))
    for i, block in enumerate(separate.reference_blocks):
        for name, value in block.state_dict().items():
            assert torch.equal(value, model.blocks[i].state_dict()[name])
    torch.testing.assert_close(separate(x, tau, reference, maps), expected)
    adapted = build_model(ModelConfig(init=str(path), pose="blocks"))
    assert all(block.pose is not None and not block.pose.weight.any() for block in adapted.blocks)
    torch.testing.assert_close(adapted(x, tau, reference, maps), expected)
    nn.init.normal_(adapted.blocks[3].pose.weight)
    assert not torch.allclose(adapted(x, tau, reference, maps), expected)


def test_modules_named_fresh_start_untrained(tmp_path: Path) -> None:
    _, path = written(tmp_path)
    kept = build_model(ModelConfig(init=str(path)))
    fresh = build_model(ModelConfig(init=str(path), fresh=("pose", "temporal")))
    for name, value in fresh.state_dict().items():
        new = name.startswith(("pose_embed.", "temporal."))
        assert torch.equal(value, kept.state_dict()[name]) or new, name
    assert not fresh.pose_embed.proj.weight.any() and kept.pose_embed.proj.weight.any()
    assert not any(block.modulation.weight.any() for block in fresh.temporal)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model, path = written(tmp_path)
    foreign = tmp_path / "foreign.safetensors"
    save_weights({"a": torch.zeros(1), **{k: v for k, v in model.state_dict().items() if "head" not in k}}, foreign)
    with pytest.raises(ValueError, match=r"unknown: a; missing: head\.bias"):
        build_model(ModelConfig(init=str(foreign)))
    with pytest.raises(ValueError, match=r"other shape: .* and .* more"):
        build_model(ModelConfig(size="s", init=str(path)))
    with pytest.raises(ValueError, match="no such file"):
        build_model(ModelConfig(init=str(tmp_path / "none.safetensors")))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        build_model(ModelConfig(init=str(path)))
    with pytest.raises(ValueError, match="no base of size 's'"):
        build_model(ModelConfig(size="s", init="base"))
