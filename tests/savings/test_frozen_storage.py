"""Frozen weights in fewer bytes: exact where documented, refused where they cannot train."""

from typing import Any

import pytest
import torch
from torch import nn

from entprog.core.blocks import discover_blocks
from entprog.core.freeze import Freezer, param_groups
from entprog.plugins import load
from entprog.savings.adapters import effective_weights, plain_state_dict
from entprog.savings.frozen_storage import BLOCK, FrozenStorage, decode, encode, normal_levels, original
from loops import Rig, adaptive
from toy import toy_draws, toy_task

KINDS = ("bf16", "int8", "nf4", "offload")


def setup(kind: str | None, **options: Any) -> tuple[Any, ...]:
    task = toy_task(**options)
    blocks = discover_blocks(task.model, "blocks.*")
    optimizer = torch.optim.AdamW(param_groups(task.model, blocks, lr=1e-2))
    storage = None if kind is None else FrozenStorage(blocks, kind)  # type: ignore[arg-type]
    return task, storage, optimizer, Freezer(task.model, blocks, optimizer, storage=storage)


def step(task: Any, optimizer: Any, seed: int = 0) -> None:
    task.loss(toy_draws(1, seed=seed)[0]).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def copies(task: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in task.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def slow(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Value by value, as the docstring of `encode` has it."""
    flat, out = weight.flatten().tolist(), []
    for start in range(0, len(flat), BLOCK):
        row = flat[start : start + BLOCK]
        scale = max(abs(v) for v in row)
        for value in row:
            if kind == "int8":
                out.append(round(127 * value / scale) / 127 * scale)
            else:
                out.append(min(normal_levels(), key=lambda level: abs(level - value / scale)) * scale)
    return torch.tensor(out).view_as(weight)


@pytest.mark.parametrize(("kind", "error", "size"), [("int8", 0.007, 1.07), ("nf4", 0.1, 0.57)])
def test_codes_are_the_nearest(kind: str, error: float, size: float) -> None:
    weight = torch.randn(24, 56, generator=torch.Generator().manual_seed(0))
    packed = encode(weight, kind)
    found = decode(packed, kind, weight.shape, weight.dtype)
    torch.testing.assert_close(found, slow(weight, kind), rtol=1e-5, atol=1e-6)
    assert float((found - weight).square().mean().sqrt() / weight.square().mean().sqrt()) < error
    assert sum(t.numel() * t.element_size() for t in packed) <= size * weight.numel()


@pytest.mark.parametrize("kind", ["bf16", "int8", "nf4"])
def test_odd_sizes_and_zeros(kind: str) -> None:
    for weight in (torch.zeros(3, 5), torch.eye(7)[:, :5], torch.full((1, 1), -2.0)):
        torch.testing.assert_close(decode(encode(weight, kind), kind, weight.shape, weight.dtype), weight)
    half = torch.randn(9, 9).bfloat16()
    assert decode(encode(half, kind), kind, half.shape, half.dtype).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_back_bit_for_bit_through_stages(kind: str) -> None:
    task, storage, optimizer, freezer = setup(kind)
    before, draw = copies(task), toy_draws(1)[0]
    expected = task.predict(draw)
    freezer.train_only(["blocks.3"])
    assert {name.rpartition(".")[0].split(".mlp")[0] for name in storage.held} == {f"blocks.{i}" for i in range(3)}
    assert task.model.blocks[0].query.weight.isnan().all() and task.model.blocks[0].query.weight.shape == (16, 16)
    assert same(plain_state_dict(task.model), before) and same(effective_weights(task.model), before)
    with freezer.whole(), freezer.whole():
        assert torch.equal(task.predict(draw), expected)
        assert same(copies(task), before)
    near = task.predict(draw)
    if kind == "offload":
        assert torch.equal(near, expected)
    else:
        difference = float(((near - expected).norm() / expected.norm()).detach())
        assert 0 < difference < {"bf16": 0.01, "int8": 0.01, "nf4": 0.2}[kind]
    for i, active in enumerate((["blocks.3"], ["blocks.0", "blocks.3"], ["blocks.1"])):
        freezer.train_only(active)
        frozen = {n: v for n, v in plain_state_dict(task.model).items() if n.startswith("blocks.2.")}
        step(task, optimizer, i)
        assert all(torch.equal(v, before[n]) for n, v in frozen.items())
    after = {n: v.clone() for n, v in plain_state_dict(task.model).items()}
    freezer.release()
    assert same(copies(task), after) and not storage.held
    assert all("forward" not in module.__dict__ for module in task.model.modules())
    assert after["blocks.3.query.weight"].isfinite().all()


@pytest.mark.parametrize("checkpointing", [None, "not reentrant"])
@pytest.mark.parametrize("kind", ["bf16", "offload"])
def test_weights_that_are_no_coarser_train_the_rest_bit_for_bit(kind: str, checkpointing: str | None) -> None:
    """Through frozen blocks above the lowest active one, with the reference pass that uses weights twice."""
    ends = []
    for each in (None, kind):
        task, _, optimizer, freezer = setup(each, variant="siamese", checkpointing=checkpointing)
        for i, active in enumerate((["blocks.1"], ["blocks.0", "blocks.2"], ["blocks.3"])):
            freezer.train_only(active)
            with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
                step(task, optimizer, i)
        ends.append({n: v.clone() for n, v in plain_state_dict(task.model).items()})
    assert same(*ends)


@pytest.mark.parametrize("kind", ["bf16", "int8", "nf4"])
def test_gradients_are_those_of_the_network_with_coarse_weights(kind: str) -> None:
    """The reference: a plain network whose frozen weights are the decoded codes."""
    task, storage, _, freezer = setup(kind)
    freezer.train_only(["blocks.0"])
    task.loss(toy_draws(1)[0]).backward()
    found = {n: p.grad for n, p in task.model.named_parameters() if p.grad is not None}
    reference, _, _, other = setup(None)
    other.train_only(["blocks.0"])
    with torch.no_grad():
        for name in storage.held:
            weight = reference.model.get_submodule(name).weight
            weight.copy_(decode(encode(weight, kind), kind, weight.shape, weight.dtype))
    reference.loss(toy_draws(1)[0]).backward()
    expected = {n: p.grad for n, p in reference.model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_no_weight_is_kept_for_the_backward_pass() -> None:
    task, storage, _, freezer = setup("int8")
    freezer.train_only(["blocks.0"])
    kept: list[tuple[int, ...]] = []
    linear = task.model.blocks[2].query
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        linear(torch.randn(4, 6, 16, requires_grad=True))
    assert "blocks.2.query" in storage.held and kept == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_held_layer_that_is_asked_to_train_is_refused(kind: str) -> None:
    task, _, optimizer, freezer = setup(kind)
    freezer.train_only(["blocks.3"])
    weight = task.model.blocks[1].query.weight
    weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"layer 'blocks.1.query' is set to train.*train_only"):
        task.loss(toy_draws(1)[0])
    weight.grad = torch.zeros(16, 16)
    with pytest.raises(ValueError, match=r"layer 'blocks.1.query' is set to train"):
        optimizer.step()
    with pytest.raises(ValueError, match="choose from full, bf16, int8, nf4, offload"):
        FrozenStorage([], "int4")  # type: ignore[arg-type]


def test_fewer_bytes_stand_in_the_model() -> None:
    sizes = {}
    for kind in (None, *KINDS):
        task, _, _, freezer = setup(kind)
        freezer.train_only(["blocks.3"])
        tensors = [*task.model.blocks[0].parameters(), *task.model.blocks[0].buffers()]
        sizes[kind] = sum(t.untyped_storage().nbytes() for t in tensors)
    assert sizes["int8"] < 0.36 * sizes[None] and sizes["nf4"] < 0.25 * sizes[None]
    assert sizes["bf16"] < 0.6 * sizes[None] and sizes["offload"] < 0.13 * sizes[None]


@pytest.mark.parametrize("kind", ["int8", "offload"])
def test_searches_read_the_originals_and_go_on_exactly(kind: str) -> None:
    """A probe's readings, snapshots and resume; against the plain method, for a storage that changes nothing."""
    schedule = adaptive("probe", stages=2, search_steps=4, width=2)

    def made(kind: str | None) -> Rig:
        rig = Rig(schedule=schedule, total=12)
        if kind is not None:
            storage = FrozenStorage(rig.blocks, kind)  # type: ignore[arg-type]
            rig.method.freezer.storage = storage
            storage.follow()
        return rig

    whole, plain = made(kind), made(None)
    whole.run(checked=False)
    plain.run(checked=False)
    found, expected = plain_state_dict(whole.task.model), plain_state_dict(plain.task.model)
    if kind == "offload":
        assert same(found, expected)
    assert all(v.isfinite().all() for v in found.values())
    first, second = made(kind), made(kind)
    first.run(0, 7, checked=False)
    second.task.model.load_state_dict(plain_state_dict(first.task.model))
    second.method.load_state_dict(first.method.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.run(7, checked=False)
    assert same(plain_state_dict(second.task.model), found)


def test_adapters_on_frozen_codes() -> None:
    """LoRA over int8: originals are merged with the adapters at the end."""
    pytest.importorskip("peft")
    rig = Rig(method="mixed", schedule=load("schedule", "linear", stages=2), total=4, options={"rank": 4})
    rig.method.freezer.storage = storage = FrozenStorage(rig.blocks, "int8")
    rig.run(checked=False, stop=2)
    assert storage.held and not any(".lora_" in name for name in storage.held)
    expected = effective_weights(rig.task.model)
    storage.release()
    rig.method.finish()
    assert same(dict(rig.task.model.state_dict()), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_cuda_device(kind: str) -> None:
    """Originals are in pinned memory, and a fetched weight equals its original, whatever the streams do."""
    layers = nn.ModuleList(nn.Sequential(nn.Linear(256, 256), nn.GELU()) for _ in range(6))
    model = nn.Module()
    model.blocks = layers
    model.forward = lambda x: nn.Sequential(*layers)(x)  # type: ignore[method-assign]
    model.cuda()
    blocks = discover_blocks(model, "blocks.*")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    x = torch.randn(64, 256, device="cuda")
    expected = model.forward(x)
    storage = FrozenStorage(blocks, kind)  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    layers[0][0].weight.requires_grad_(True)
    storage.follow()
    assert len(storage.held) == 5 and original(layers[1][0].weight).is_pinned()
    for _ in range(20):
        found = model.forward(x)
        found.square().sum().backward()
        if kind == "offload":
            assert torch.equal(found, expected)
    storage.release()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(p.is_cuda for p in model.parameters())
