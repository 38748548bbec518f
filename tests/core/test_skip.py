"""Skipping by the zero-parameter probe, and replay that agrees with the slow way bit for bit."""

import math

import pytest
import torch
from torch import Tensor, nn

from entprog.core.blocks import Block, Blocks, discover_blocks
from entprog.core.outside import used_outside
from entprog.core.skip import Skipper
from entprog.scores._skipping import without_each
from toy import siamese_role, toy_draws, toy_task


def blocks_of(task, variant="plain"):
    return discover_blocks(task.model, "blocks.*", role=siamese_role if variant == "siamese" else None)


def naive(task, draw, blocks, name, roles):
    """Skipping by hand: an identity written for the toy in place of the block."""
    module = blocks[name].module
    original = module.forward

    def passed_on(*args, **kwargs):
        if task.model.variant == "tuple":
            return (None if module.last else kwargs["context"], args[0])
        role = "reference" if task.model.variant == "siamese" and "reference" not in kwargs else "denoising"
        return args[0] if role in roles else original(*args, **kwargs)

    module.forward = passed_on
    try:
        return task.predict(draw)
    finally:
        del module.forward


@pytest.mark.parametrize("variant", ["plain", "tuple", "siamese"])
@pytest.mark.parametrize("skip", ["denoising", "both"])
@torch.no_grad()
def test_replay_equals_the_naive_reference_bit_for_bit(variant, skip):
    task = toy_task(12, variant)
    blocks = blocks_of(task, variant)
    draw = toy_draws(1)[0]
    roles = ("denoising", "reference") if skip == "both" else (skip,)
    expected = {name: naive(task, draw, blocks, name, roles) for name in blocks.names}
    expected[None] = task.predict(draw)
    counts = {}
    for fast in (True, False):
        with Skipper(blocks) as skipper:
            results = dict(without_each(skipper, lambda: task.predict(draw), skip, fast=fast))
        assert results.keys() == expected.keys()
        assert all(torch.equal(results[name], expected[name]) for name in expected)
        counts[fast] = sum(skipper.executed.values())
        assert sum(skipper.skipped.values()) == 12 * (2 if (variant, skip) == ("siamese", "both") else 1)
    assert counts[True] <= 0.6 * counts[False]
    assert not any("forward" in m.__dict__ for m in task.model.modules())


@torch.no_grad()
def test_reference_pass_can_be_skipped_alone():
    task = toy_task(4, "siamese")
    blocks = blocks_of(task, "siamese")
    draw = toy_draws(1)[0]
    expected = {name: naive(task, draw, blocks, name, ("reference",)) for name in blocks.names}
    with Skipper(blocks) as skipper:
        for name in blocks.names:
            with skipper.skip(name, roles=("reference",)):
                assert torch.equal(task.predict(draw), expected[name])
    assert skipper.roles == {"denoising", "reference"}
    assert set(skipper.skipped.values()) == {1} and set(skipper.executed.values()) == {7}


@torch.no_grad()
def test_a_written_record_is_not_replayed():
    """A model that writes into a block's output spoils the record; the result must not be spoilt, too."""

    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
                x += 1
            return x

    model, x = Writing(), torch.randn(2, 4)
    expected = model(x)
    with Skipper(discover_blocks(model)) as skipper:
        with skipper.record():
            model(x)
        for _ in range(2):
            with skipper.replay():
                assert torch.equal(model(x), expected)
        assert sum(skipper.replayed.values()) == 0
        with skipper.replay():
            assert not torch.equal(model(x + 1), expected)


class Streams(nn.Module):
    """Two residual streams; `order` is that of the outputs, `how` the kind of call."""

    def __init__(self, swapped):
        super().__init__()
        self.a, self.b, self.swapped = nn.Linear(4, 4), nn.Linear(4, 4), swapped

    def forward(self, x, *rest, **named):
        y = rest[0] if rest else named["y"]
        x, y = x + self.a(y), y + self.b(x)
        return (y, x) if self.swapped else (x, y)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("how", ["positional", "keyword", "all keywords"])
@torch.no_grad()
def test_outputs_in_any_order_inputs_by_any_way(swapped, how):
    block = Streams(swapped)
    x, y = torch.randn(2, 4), torch.randn(2, 4)
    with Skipper(Blocks([Block("block", block)])) as skipper, skipper.skip("block"):
        if how == "positional":
            output = block(x, y)
        elif how == "keyword":
            output = block(x, y=y)
        else:
            output = block(y=y, x=x)
    assert output[swapped] is x and output[not swapped] is y


@torch.no_grad()
def test_equal_inputs_are_told_apart():
    """One tensor given twice, or two zeros: which one an output follows shows when they are perturbed."""
    for swapped in (False, True):
        block, x = Streams(swapped), torch.zeros(2, 4)
        with Skipper(Blocks([Block("block", block)])) as skipper, skipper.skip("block"):
            block(x, x)
            y = torch.ones(2, 4)
            assert block(x, y)[swapped] is x


class Unskippable(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 4)

    def forward(self, x: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        return x + self.f(x), self.f(pose)


@torch.no_grad()
def test_a_block_without_identity_is_told_and_adapted():
    block, x = Unskippable(), torch.randn(2, 4)
    with Skipper(Blocks([Block("deep.block", block)])) as skipper, skipper.skip("deep.block"):
        # A zero input equals the zero output by chance: the perturbed probe must not fall for it.
        with pytest.raises(ValueError) as error:
            block(x, torch.zeros(2, 4))
        for part in (
            "'deep.block' (Unskippable)",
            "output 1, (2, 4)",
            "x (2, 4), pose (2, 4)",
            "adapters={'deep.block'",
        ):
            assert part in str(error.value)
    adapters = {"deep.block": lambda arguments: (arguments["x"], torch.zeros_like(arguments["pose"]))}
    with (
        Skipper(Blocks([Block("deep.block", block)], adapters=adapters)) as skipper,
        skipper.skip("deep.block"),
    ):
        output = block(x, pose=torch.ones(2, 4))
    assert output[0] is x and not output[1].any()
    with pytest.raises(ValueError, match=r"did you mean 'deep\.block'"):
        Blocks([Block("deep.block", block)], adapters={"deep.blok": lambda arguments: None})


def test_the_probe_leaves_no_trace():
    """Training mode, with dropout and running statistics: random state, buffers and parameters stay."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop, self.f = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4)

        def forward(self, x):
            return x + self.f(self.drop(self.norm(x)))

    block, x = Noisy(), torch.randn(8, 4)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    random_state = torch.get_rng_state()
    with Skipper(Blocks([Block("b", block)])) as skipper, skipper.skip("b"):
        assert block(x) is x
    assert torch.equal(torch.get_rng_state(), random_state) and block.training
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


def test_forwards_come_back_after_an_exception_and_nest():
    task = toy_task(2)
    blocks = blocks_of(task)
    own = task.model.blocks[0].forward
    task.model.blocks[0].forward = own  # somebody else's swap must survive
    outer, inner = Skipper(blocks), Skipper(blocks)
    skips = inner.skip("blocks.0"), outer.skip("blocks.1")
    with pytest.raises(RuntimeError, match="stop"), outer, inner, skips[0], skips[1]:
        task.predict(toy_draws(1)[0])
        raise RuntimeError("stop")
    assert task.model.blocks[0].__dict__["forward"] is own
    assert "forward" not in task.model.blocks[1].__dict__
    assert inner.skipped == {"blocks.0": 1, "blocks.1": 0} and outer.skipped["blocks.1"] == 1


@pytest.mark.parametrize("checkpointing", ["reentrant", "plain"])
def test_skipping_works_inside_gradient_checkpointing(checkpointing):
    draw = toy_draws(1)[0]
    gradients = {}
    for mode in (None, checkpointing):
        task = toy_task(4, checkpointing=mode)
        blocks = blocks_of(task)
        with Skipper(blocks) as skipper, skipper.skip("blocks.1"):
            task.loss(draw).backward()
        gradients[mode] = {name: p.grad for name, p in task.model.named_parameters()}
        assert skipper.skipped == {"blocks.0": 0, "blocks.1": 1, "blocks.2": 0, "blocks.3": 0}
        assert skipper.executed == {"blocks.0": 1, "blocks.1": 0, "blocks.2": 1, "blocks.3": 1}
    for name, gradient in gradients[None].items():
        assert (gradient is None) == name.startswith("blocks.1.")
        if gradient is not None:
            assert torch.equal(gradient, gradients[checkpointing][name])


def test_autocast_keeps_the_type_of_the_block():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(4, 4)

        def forward(self, x):
            return x.bfloat16() + self.f(x)

    block, x = Cast(), torch.randn(2, 4)
    with (
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16),
        Skipper(Blocks([Block("b", block)])) as skipper,
        skipper.skip("b"),
    ):
        assert block(x).dtype == torch.bfloat16


def test_misuse_is_told():
    task = toy_task(2)
    blocks = blocks_of(task)
    skipper = Skipper(blocks)
    with pytest.raises(ValueError, match="no_grad"), skipper, skipper.record():
        pass
    with pytest.raises(ValueError, match="record"), torch.no_grad(), skipper, skipper.replay():
        pass
    with pytest.raises(ValueError, match="inside `with Skipper"), torch.no_grad(), skipper.record():
        pass
    with pytest.raises(ValueError, match=r"did you mean 'blocks\.1'"), skipper.skip("blocks.11"):
        pass
    with (
        pytest.raises(ValueError, match="choose from denoising, reference"),
        skipper.skip("blocks.1", ("all",)),
    ):
        pass
    blocks.role = lambda arguments: "other"
    with pytest.raises(ValueError, match="'other'"), Skipper(blocks):
        task.predict(toy_draws(1)[0])


diffusers = pytest.importorskip("diffusers")


def dit():
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=4, sample_size=8,
        norm_num_groups=4, num_embeds_ada_norm=10,
    )  # fmt: skip
    labels = torch.tensor([1, 2])
    return model, dict(hidden_states=torch.randn(2, 4, 8, 8), timestep=labels, class_labels=labels)


def sd3():
    model = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=4, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10, out_channels=4,
        pos_embed_max_size=8,
    )  # fmt: skip
    return model, dict(
        hidden_states=torch.randn(2, 4, 8, 8), timestep=torch.tensor([1.0, 2.0]),
        encoder_hidden_states=torch.randn(2, 5, 12), pooled_projections=torch.randn(2, 10),
    )  # fmt: skip


def flux():
    model = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=12, pooled_projection_dim=10, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return model, dict(
        hidden_states=torch.randn(2, 16, 4), timestep=torch.tensor([0.1, 0.2]),
        encoder_hidden_states=torch.randn(2, 5, 12), pooled_projections=torch.randn(2, 10),
        img_ids=torch.zeros(16, 3), txt_ids=torch.zeros(5, 3),
    )  # fmt: skip


def wan():
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=32,
        ffn_dim=32, num_layers=4, rope_max_seq_len=32,
    )  # fmt: skip
    return model, dict(
        hidden_states=torch.randn(2, 4, 2, 8, 8), timestep=torch.tensor([1, 2]),
        encoder_hidden_states=torch.randn(2, 5, 16),
    )  # fmt: skip


@pytest.mark.parametrize("make", [dit, sd3, flux, wan])
@torch.no_grad()
def test_diffusers_transformers_need_no_adapter(make):
    torch.manual_seed(0)
    model, inputs = make()
    model.eval()
    for parameter in model.parameters():
        if not parameter.any():  # adaLN-zero: let every branch count
            parameter.normal_(0, 0.1)
    blocks = discover_blocks(model)
    assert len(blocks) == 4 and all("transformer_blocks." in n or n.startswith("blocks.") for n in blocks.names)

    def run():
        return model(**inputs, return_dict=False)[0]

    with Skipper(blocks) as skipper:
        fast = dict(without_each(skipper, run))
        executed = sum(skipper.executed.values())
    with Skipper(blocks) as skipper:
        slow = dict(without_each(skipper, run, fast=False))
    assert all(torch.equal(fast[name], slow[name]) for name in slow)
    assert all(not torch.equal(slow[name], slow[None]) for name in blocks.names)
    assert executed == 4 + 3 + 2 + 1
    assert torch.equal(run(), slow[None]) and math.isfinite(float(slow[None].sum()))


def test_diffusers_dit_uses_block_0_outside():
    model, inputs = dit()
    with pytest.warns(UserWarning, match=r"transformer_blocks\.0\.norm1\.emb"):
        names = used_outside(model, discover_blocks(model), lambda: model(**inputs))
    assert names and all(name.startswith("transformer_blocks.0.norm1.emb.") for name in names)
