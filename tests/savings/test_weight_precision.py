"""Frozen weights in bf16, trained ones in float32: nothing that trained is lost, and the bytes are there to see."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from entprog.config.schema import TrainConfig
from entprog.core.blocks import Blocks, discover_blocks
from entprog.core.freeze import Freezer, param_groups
from entprog.core.identity import find_identity
from entprog.core.truncation import input_parameters
from entprog.core.types import Draw
from entprog.profiling.meter import Meter
from entprog.savings.adapters import effective_weights, plain_state_dict
from entprog.savings.frozen_storage import FrozenStorage, original
from entprog.savings.in_backward import build_optimizer
from entprog.savings.options import Option
from entprog.savings.recompute import recomputed
from entprog.savings.simulated_step import simulate_step
from entprog.savings.weight_precision import (
    WeightPrecision,
    keep,
    load_exactly,
    set_precision,
    weight_storage,
)
from entprog.train.checkpoint import load_checkpoint, save_checkpoint
from entprog.train.state import EMA, load_optimizer_state, optimizer_state
from loops import Rig, adaptive

WAN: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 8, "out_channels": 4, "text_dim": 16,
    "freq_dim": 32, "ffn_dim": 128, "num_layers": 4, "rope_max_seq_len": 64,
}  # fmt: skip


class WanTask:
    """A tiny Wan network, as its config builds it, on velocities of random latents."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def with_model(self, model: nn.Module) -> "WanTask":
        return WanTask(model)

    def recompute(self, on: bool) -> None:
        assert not on

    def predict(self, draw: Draw) -> Tensor:
        out: Tensor = self.model(draw.x, draw.tau * 1000, draw.condition["text"], return_dict=False)[0]
        return out

    def loss(self, draw: Draw) -> Tensor:
        return (self.predict(draw).float() - draw.target).square().mean()


def draw(seed: int = 0) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    x, target = (torch.randn(2, channels, 2, 8, 8, generator=generator) for channels in (8, 4))
    text = torch.randn(2, 5, 16, generator=generator)
    return Draw(x, torch.rand(2, generator=generator), target, {"text": text})


def wan() -> nn.Module:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    model: nn.Module = WanTransformer3DModel(**WAN).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16())  # as a published file in bf16 holds it
    return model


class Trained:
    """A network in training: the optimizer over the output side and all blocks, and a Freezer."""

    def __init__(
        self, dtype: str = "bf16", weights: str = "float32", *, optimizer: str = "adamw", storage: str = "full",
        states: str = "keep", lr: float = 1e-4, in_backward: bool = False,
    ) -> None:  # fmt: skip
        self.model = wan()
        set_precision(self.model, dtype, weights)
        self.task, self.blocks = WanTask(self.model), discover_blocks(self.model, "blocks.*")
        for name, p in self.model.named_parameters():
            p.requires_grad_(name.startswith(("blocks.", "proj_out", "scale_shift_table")))
        options: dict[str, Any] = {"optimizer_in_backward": True, "max_grad_norm": 0.0} if in_backward else {}
        config = TrainConfig(optimizer=optimizer, **options)
        self.optimizer = build_optimizer(config, param_groups(self.model, self.blocks, lr=lr))
        self.storage = weight_storage(self.model, self.blocks, storage)
        self.freezer = Freezer(
            self.model, self.blocks, self.optimizer, storage=self.storage, states=states,  # type: ignore[arg-type]
        )  # fmt: skip

    def step(self, seed: int, *, autocast: bool = False) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = self.task.loss(draw(seed))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def run(self, first: int, last: int, *, autocast: bool = False) -> None:
        """Blocks 2 and 3 before step 8, blocks 1 and 3 then, blocks 0 and 2 from step 16 on."""
        for i in range(first, last):
            self.freezer.train_only(STAGES[i // 8])
            self.step(i, autocast=autocast)


STAGES = (("blocks.2", "blocks.3"), ("blocks.1", "blocks.3"), ("blocks.0", "blocks.2"))


def plain(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in plain_state_dict(model).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name].float(), b[name].float()) for name in a)


def test_untouched_float32_stays_what_it_was() -> None:
    model = wan()
    assert not set_precision(model, "float32", "float32")
    assert type(model.blocks[0].ffn.net[2]) is nn.Linear
    assert weight_storage(model, discover_blocks(model), "full") is None
    assert isinstance(weight_storage(model, discover_blocks(model), "int8"), FrozenStorage)
    keep(model.blocks[0].ffn.net[2].weight, torch.ones(48, 128))
    assert model.blocks[0].ffn.net[2].weight.dtype == torch.float32
    load_exactly(model, wan().state_dict())


def test_trained_in_bf16_needs_frozen_in_bf16() -> None:
    with pytest.raises(ValueError, match=r"model\.weights = .bf16.: trained weights in bfloat16 need"):
        set_precision(wan(), "fp16", "bf16")


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_forward_and_gradients_are_those_of_float32(dtype: str, autocast: bool) -> None:
    """With the same values, exactly: frozen blocks above and below the active one, a recomputed one among them."""
    found = []
    for held in ("float32", dtype):
        trained = Trained(held)
        if dtype == "fp16":  # the same values in both
            for p in trained.model.parameters():
                p.data = p.data.half().to(p.dtype)
        trained.freezer.train_only(["blocks.1"])
        with recomputed(trained.blocks), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = trained.task.predict(draw())
            trained.task.loss(draw()).backward()
        found.append((out, {n: p.grad for n, p in trained.model.named_parameters() if p.grad is not None}))
    (expected, gradients), (out, others) = found
    assert torch.equal(out, expected) and out.dtype == expected.dtype
    assert gradients.keys() == others.keys() and all(torch.equal(gradients[n], others[n]) for n in gradients)


def test_types_follow_what_trains() -> None:
    trained = Trained()
    trained.freezer.train_only(["blocks.3"])
    named = dict(trained.model.named_parameters())
    low = {name for name, p in named.items() if p.dtype == torch.bfloat16}
    assert "blocks.0.attn1.to_q.weight" in low and "patch_embedding.weight" in low
    assert not any(name.startswith(("blocks.3.", "proj_out")) for name in low)
    assert not any("norm" in name or name.endswith(("bias", "table")) or "time_embedder" in name for name in low)
    held = sum(p.numel() for name, p in named.items() if name in low)
    resting = sum(p.numel() for name, p in named.items() if not name.startswith(("blocks.3.", "proj_out")))
    assert held > 0.9 * resting


@pytest.mark.parametrize("autocast", [False, True])
def test_twenty_steps_with_changes_of_stage_are_those_of_float32(autocast: bool) -> None:
    """Under autocast bit for bit, since the rounding of frozen blocks is that of their products."""
    trained, reference = Trained(), Trained("float32")
    start = plain(trained.model)
    for each in (trained, reference):
        each.run(0, 8, autocast=autocast)
    after = plain(trained.model)
    never = [n for n in start if n.startswith(("blocks.0.", "blocks.1.", "patch", "condition"))]
    assert all(torch.equal(start[n], after[n]) for n in never)
    assert all(original(p) is p for n, p in trained.model.named_parameters() if n in never)
    for each in (trained, reference):
        each.run(8, 20, autocast=autocast)
    resting = {n: v for n, v in after.items() if n.startswith("blocks.3.")}
    now = plain(trained.model)
    assert not all(torch.equal(now[n], resting[n]) for n in resting)
    assert all(torch.equal(now[n], start[n]) for n in start if n.startswith(("patch", "condition")))
    if autocast:
        assert same(now, plain(reference.model))
    else:
        ends, origin = plain(reference.model), start
        goal = torch.cat([(ends[n].float() - origin[n].float()).flatten() for n in origin])
        moved = torch.cat([(now[n].float() - origin[n].float()).flatten() for n in origin])
        assert float((moved - goal).norm() / goal.norm()) < 0.1


def test_what_froze_comes_back_bit_for_bit() -> None:
    trained = Trained()
    trained.run(0, 8)
    weight = trained.model.blocks[2].attn1.to_q.weight
    value = weight.detach().clone()
    trained.freezer.train_only(["blocks.0"])
    assert weight.dtype == torch.bfloat16 and torch.equal(weight, value.bfloat16())
    assert torch.equal(original(weight), value)
    assert torch.equal(plain_state_dict(trained.model)["blocks.2.attn1.to_q.weight"], value)
    assert torch.equal(effective_weights(trained.model)["blocks.2.attn1.to_q.weight"], value)
    trained.freezer.train_only(["blocks.2"])
    assert torch.equal(weight, value) and original(weight) is weight
    trained.freezer.release()
    assert weight.dtype == torch.float32
    trained = Trained()
    trained.run(0, 8)
    trained.freezer.train_only(["blocks.0"])
    expected = plain(trained.model)
    assert isinstance(trained.storage, WeightPrecision)
    trained.storage.restore()
    assert same(dict(trained.model.state_dict()), expected)


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize(("weights", "optimizer"), [("float32", "adamw"), ("bf16", "adamw"), ("bf16", "muon")])
def test_going_on_is_bit_exact(weights: str, optimizer: str, in_backward: bool, tmp_path: Any) -> None:
    def made() -> Trained:
        states = "offload" if in_backward else "keep"
        return Trained("bf16", weights, optimizer=optimizer, in_backward=in_backward, states=states)

    trained = made()
    trained.run(0, 12)
    state = {
        "model": plain_state_dict(trained.model),
        "freezer": trained.freezer.state_dict(),
        "optimizer": optimizer_state(trained.optimizer, trained.model),
    }
    save_checkpoint(tmp_path, 12, state)
    trained.run(12, 20)
    again, saved = made(), load_checkpoint(tmp_path / "checkpoint-12")
    types = {name: value.dtype for name, value in saved["model"].items()}
    assert types["blocks.2.attn1.to_q.weight"] == {"float32": torch.float32, "bf16": torch.bfloat16}[weights]
    assert types["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    load_exactly(again.model, saved["model"])
    again.freezer.load_state_dict(saved["freezer"])
    load_optimizer_state(again.optimizer, again.model, saved["optimizer"])
    again.run(12, 20)
    assert same(plain(trained.model), plain(again.model))


@pytest.mark.parametrize("weights", ["float32", "bf16"])
def test_bytes(weights: str) -> None:
    """Frozen weights take half, trained ones their own, states 4 bytes a value in each case."""
    costs = {}
    for dtype in ("float32", "bf16"):
        trained = Trained(dtype, "float32" if dtype == "float32" else weights)
        trained.freezer.train_only(["blocks.3"])
        with torch.autocast("cpu", torch.bfloat16), Meter(trained.model, trained.optimizer) as meter:
            trained.step(0)
        costs[dtype] = meter.at_peak
    counts = {n: p.numel() for n, p in trained.model.named_parameters()}
    trains = {n: p.requires_grad for n, p in trained.model.named_parameters()}
    low = {n for n, p in trained.model.named_parameters() if p.dtype == torch.bfloat16}
    buffers = sum(b.numel() * b.element_size() for b in trained.model.buffers())
    assert costs["float32"]["weights"] == 4 * sum(counts.values()) + buffers
    assert costs["bf16"]["weights"] == sum((2 if n in low else 4) * counts[n] for n in counts) + buffers
    saved = costs["float32"]["weights"] - costs["bf16"]["weights"]
    assert saved > 0.45 * 4 * sum(counts[n] for n in counts if not trains[n])
    states = sum(v.numel() * v.element_size() for s in trained.optimizer.state.values() for v in s.values())
    assert costs["bf16"]["optimizer"] == costs["float32"]["optimizer"] == states


def test_no_converted_weight_is_kept_for_the_backward_pass() -> None:
    trained = Trained()
    trained.freezer.train_only(["blocks.0"])
    kept: list[tuple[int, ...]] = []
    for layer, x in (
        (trained.model.blocks[2].attn1.to_q, torch.randn(2, 6, 48, requires_grad=True)),
        (trained.model.patch_embedding, torch.randn(1, 8, 2, 8, 8, requires_grad=True)),
    ):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
            layer(x)
    assert kept == []


@pytest.mark.parametrize("layer", [
    nn.Conv1d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.Conv3d(4, 6, (1, 2, 2), bias=False),
    nn.Conv2d(4, 6, 3, padding="same"), nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), nn.Linear(9, 5),
    nn.Linear(9, 5, bias=False),
])  # fmt: skip
@pytest.mark.parametrize("trains", [False, True])
def test_each_layer_computes_as_in_float32(layer: nn.Module, trains: bool) -> None:
    model = nn.Sequential(copy.deepcopy(layer))
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.bfloat16())
    reference = copy.deepcopy(model)
    set_precision(model, "bf16", "bf16")
    places = len(layer.weight.shape) - 2
    x = torch.randn(2, 4, *[9] * places) if places else torch.randn(2, 3, 9)
    found = []
    for each in (reference, model):
        each[0].weight.requires_grad_(trains)
        given = x.clone().requires_grad_(True)
        out = each(given)
        out.square().sum().backward()
        bias = None if each[0].bias is None else each[0].bias.grad
        found.append((out, given.grad, bias, each[0].weight.grad))
    assert model[0].weight.dtype == torch.bfloat16
    (out, through, bias, own), (out2, through2, bias2, own2) = found
    torch.testing.assert_close(out2, out)
    torch.testing.assert_close(through2, through)
    torch.testing.assert_close(bias2, bias)
    if trains:
        torch.testing.assert_close(own2.float(), own, rtol=1e-2, atol=1e-2)
    assert model(x.bfloat16()).dtype == torch.float32
    assert torch.equal(model[0](input=x), out2)  # AnimateDiff's blocks name the argument


@pytest.mark.parametrize("kind", ["int8", "bf16", "offload"])
def test_together_with_frozen_storage(kind: str) -> None:
    """`freeze.storage` holds the linear layers of frozen blocks, this the rest; originals are the same."""
    trained, reference = Trained(storage=kind), Trained()
    trained.freezer.train_only(["blocks.3"])
    assert trained.model.blocks[0].attn1.to_q.weight.isnan().all()
    start = plain(trained.model)
    assert same(start, plain(reference.model))
    with trained.freezer.whole():
        assert same(dict(trained.model.state_dict()), start)
    trained.run(0, 20)
    assert all(v.isfinite().all() for v in plain(trained.model).values())
    resting = plain(trained.model)
    trained.freezer.train_only(["blocks.1"])
    assert same(resting, plain(trained.model))
    trained.freezer.release()
    assert same(resting, plain(trained.model))
    reference.run(0, 20)
    if kind == "bf16":
        assert same(resting, plain(reference.model))
    # A next phase: what rests with an original is held by its original.
    storage = weight_storage(trained.model, trained.blocks, kind)
    with Freezer(trained.model, trained.blocks, trained.optimizer, storage=storage) as freezer:
        freezer.train_only(["blocks.0"])
        assert same(resting, plain(trained.model))
    assert same(resting, plain(trained.model))


def test_a_layer_that_is_set_to_train_by_hand_is_refused() -> None:
    trained = Trained()
    trained.freezer.train_only(["blocks.3"])
    trained.model.blocks[0].attn1.to_q.weight.requires_grad_(True)
    trained.model.blocks[0].attn1.to_q.weight.grad = torch.zeros(48, 48, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"'blocks.0.attn1.to_q.weight' is set to train.*train_only"):
        trained.optimizer.step()


def test_the_network_is_understood_as_before() -> None:
    """Blocks, their identities and what is read before them do not change with the precision."""
    found: list[Any] = []
    for dtype in ("float32", "bf16"):
        model = wan()
        set_precision(model, dtype, "float32")
        model.requires_grad_(False)
        task, blocks = WanTask(model), discover_blocks(model)
        inputs = input_parameters(model, blocks, lambda task=task: task.predict(draw()))
        seen: list[Any] = []
        handle = blocks[0].module.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append((args, kwargs)), with_kwargs=True
        )
        task.predict(draw())
        handle.remove()
        args, kwargs = seen[0]
        identity = find_identity("blocks.0", blocks[0].module, blocks[0].module.forward, args, kwargs)
        found.append((blocks.names, inputs, identity.sources))
    assert found[0] == found[1]


@pytest.mark.parametrize("weights", ["float32", "bf16"])
def test_a_simulated_step_takes_what_the_real_one_takes(weights: str) -> None:
    trained = Trained("bf16", weights)
    trainable = {id(p) for p in trained.model.parameters() if p.requires_grad}
    trained.storage.follow()  # type: ignore[union-attr]
    before = {n: (p.dtype, p.data_ptr()) for n, p in trained.model.named_parameters()}
    blocks = Blocks(trained.blocks)
    cost = simulate_step(
        trained.task, blocks, Option(("blocks.3",)), draw(), 2, TrainConfig(max_grad_norm=0.0), trainable=trainable
    )
    assert before == {n: (p.dtype, p.data_ptr()) for n, p in trained.model.named_parameters()}
    trained.freezer.train_only(["blocks.3"])
    with Meter(trained.model, trained.optimizer) as meter:
        drawn = draw()  # alive during the backward, as in the training loop
        trained.task.loss(drawn).backward()
    assert cost.by_category == meter.at_peak and cost.flops == meter.flops


def test_averages_see_the_originals() -> None:
    trained = Trained()
    ema = EMA(trained.model, 0.5)
    trained.run(0, 8)
    trained.freezer.train_only(["blocks.0"])
    ema.updates = 100
    before = {name: value.clone() for name, value in ema.weights.items()}
    ema.update(trained.model)
    now = plain(trained.model)
    for name, value in ema.weights.items():
        torch.testing.assert_close(value, torch.lerp(before[name], now[name].float(), 0.5), rtol=0, atol=0)
    with ema.applied(trained.model):
        pass
    assert same(now, plain(trained.model))


@pytest.mark.parametrize("estimator", ["supernet", "probe"])
def test_searches_go_on_exactly(estimator: str) -> None:
    schedule = adaptive(estimator, stages=2, search_steps=4, width=2)

    def made() -> Rig:
        rig = Rig(schedule=schedule, total=12)
        set_precision(rig.task.model, "bf16", "float32")
        rig.method.freezer.storage = storage = weight_storage(rig.task.model, rig.blocks, "full")
        storage.follow()  # type: ignore[union-attr]
        return rig

    whole, first, second = made(), made(), made()
    whole.run(checked=False)
    first.run(0, 7, checked=False)
    load_exactly(second.task.model, plain_state_dict(first.task.model))
    second.method.load_state_dict(first.method.state_dict())
    load_optimizer_state(second.optimizer, second.task.model, optimizer_state(first.optimizer, first.task.model))
    second.run(7, checked=False)
    assert same(plain(second.task.model), plain(whole.task.model))


@pytest.mark.parametrize("method", ["lora", "mixed"])
def test_merged_adapters_are_not_rounded_away(method: str) -> None:
    """LoRA trains in float32 beside bf16 weights; the merged weight is kept in full."""
    pytest.importorskip("peft")
    from entprog.plugins import load

    rig = Rig(method=method, schedule=load("schedule", "linear", stages=2), total=4, options={"rank": 4})
    set_precision(rig.task.model, "bf16", "float32")
    rig.method.freezer.storage = storage = weight_storage(rig.task.model, rig.blocks, "full")
    storage.follow()  # type: ignore[union-attr]
    rig.run(checked=False)
    low = [n for n, p in rig.task.model.named_parameters() if ".lora_" in n and p.dtype != torch.float32]
    assert not low
    expected = effective_weights(rig.task.model)
    storage.release()  # type: ignore[union-attr]
    rig.method.finish()
    found = plain_state_dict(rig.task.model)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name].float(), expected[name].float(), rtol=1e-6, atol=1e-7)
