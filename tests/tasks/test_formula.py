"""The closed form of a step's FLOPs against the meter, for every active set, and both against torch's counter."""

import random
from collections.abc import Collection
from itertools import chain, combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from entprog.core.blocks import discover_blocks
from entprog.nets.dit import DiTConfig, VideoDiT
from entprog.profiling.meter import Flops, Meter
from entprog.tasks.human_video.flops_formula import OUTSIDE, Sizes, block_names, step_flops

SMALL = DiTConfig(depth=3, width=8, heads=2, channels=4, temporal_every=1)
SIZES = Sizes(batch=2, frames=3, height=4, width=6)


def loss(model: VideoDiT, sizes: Sizes, reference: str, pose: bool, routed: int | None = None) -> Tensor:
    c = model.config
    x = torch.randn(sizes.batch, sizes.frames, c.channels, sizes.height, sizes.width)
    image, tau = torch.randn_like(x[:, 0]), torch.rand(sizes.batch)
    maps = torch.rand(sizes.batch, sizes.frames, 3, 8, 8) if pose else None
    states = None
    if reference == "given":
        tokens = sizes.height * sizes.width // c.patch**2
        states = [torch.randn(sizes.batch, tokens, c.width) for _ in range(c.depth)]
    places = None if routed is None else torch.arange(routed).expand(sizes.batch, -1)
    return model(x, tau, None if reference == "none" else image, maps, states, places).pow(2).mean()


def train_only(model: VideoDiT, active: Collection[str], outside: bool | Collection[str]) -> bool:
    """Set what trains; whether anything does."""
    wanted = {*active, *(outside if not isinstance(outside, bool) else OUTSIDE if outside else ())}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name.startswith(each + ".") for each in wanted))
    return any(parameter.requires_grad for parameter in model.parameters())


def compare(
    config: DiTConfig, sizes: Sizes, active: Collection[str], model: VideoDiT | None = None, **options: Any
) -> Flops:
    """Run a step in the meter and insist that the formula says the same."""
    model = model or VideoDiT(config)
    blocks = discover_blocks(model)
    outside, checkpointing = options.get("outside", True), options.get("checkpointing", False)
    reference, pose = options.get("reference", "run"), options.get("pose", True)
    train_only(model, active, outside)
    model.gradient_checkpointing = checkpointing
    model.reference_gradient = options.get("reference_gradient", True)
    model.temporal_off = options.get("temporal_off", False)
    with Meter(blocks=blocks) as meter:
        value = loss(model, sizes, reference, pose, options.get("routed"))
        if value.requires_grad:
            value.backward()
    model.zero_grad(set_to_none=True)
    expected = step_flops(config, sizes, active, **options)
    assert meter.by_pass == expected, (active, options)
    return expected


def subsets(names: Collection[str]) -> list[tuple[str, ...]]:
    return list(chain.from_iterable(combinations(names, k) for k in range(len(names) + 1)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_formula_equals_the_meter_for_every_active_set(checkpointing: bool) -> None:
    torch.manual_seed(0)
    model = VideoDiT(SMALL)
    names = discover_blocks(model).names
    assert list(names) == block_names(SMALL) and len(subsets(names)) == 64
    found = {
        compare(SMALL, SIZES, active, model, outside=outside, checkpointing=checkpointing)
        for outside in (False, True)
        for active in subsets(names)[:: 4 if outside else 1]
    }
    assert len(found) > 32, "active sets differ in what they cost"


VARIANTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"reference_gradient": False}),
    ({}, {"reference": "none"}),
    ({}, {"reference": "given"}),
    ({}, {"temporal_off": True}),
    ({}, {"pose": False}),
    ({"pose": "blocks"}, {}),
    ({"pose": "blocks"}, {"reference": "given", "outside": ("head", "head_modulation")}),
    ({"pose": "none"}, {"outside": ("tau_embed",)}),
    ({"reference": "separate"}, {}),
    ({"reference": "separate"}, {"reference_gradient": False}),
    ({"reference": "none"}, {"outside": ("patch_embed",)}),
    ({"temporal_every": 2, "depth": 5}, {}),
    ({"temporal_every": 0}, {"outside": ("pose_embed",)}),
    ({"pose": "blocks"}, {"routed": 2}),
    ({"depth": 8, "temporal_every": 2}, {"routed": 4}),
]


@pytest.mark.parametrize(("shape", "options"), VARIANTS)
def test_formula_equals_the_meter_in_every_variant(shape: dict[str, Any], options: dict[str, Any]) -> None:
    config = DiTConfig(**{"depth": 3, "width": 8, "heads": 2, "channels": 4, "temporal_every": 1, **shape})
    chosen = random.Random(0).sample(subsets(block_names(config)), 3)
    model = VideoDiT(config)
    for active in [(), *chosen]:
        for checkpointing in (False, True):
            outside = options.get("outside", False)
            compare(config, SIZES, active, model, **{**options, "outside": outside, "checkpointing": checkpointing})


def test_image_steps_run_no_temporal_block() -> None:
    sizes = Sizes(batch=1, frames=1, height=4, width=4)
    image = compare(SMALL, sizes, ("temporal.0", "blocks.2"), outside=False)
    assert image == compare(SMALL, sizes, ("blocks.2",), outside=False, temporal_off=True)


def test_fused_attention_costs_five_halves() -> None:
    config = DiTConfig(depth=2, width=8, heads=2, channels=4, patch=1, temporal_every=0)
    sizes = Sizes(batch=1, frames=1, height=20, width=16)
    for active in [("blocks.0",), ("blocks.1",)]:
        compare(config, sizes, active, outside=False)
    fused = step_flops(config, sizes, ("blocks.1",), outside=False, attention="flash")
    written = step_flops(config, sizes, ("blocks.1",), outside=False, attention="math")
    assert fused.forward == written.forward and fused.backward > written.backward


def test_torchs_counter_agrees_where_attention_is_written_out() -> None:
    config = DiTConfig(depth=2, width=8, heads=2, channels=4, patch=1, temporal_every=2)
    sizes = Sizes(batch=1, frames=2, height=20, width=16)
    for active, checkpointing in ((("blocks.1",), False), (("blocks.0", "temporal.0"), True)):
        model = VideoDiT(config)
        train_only(model, active, False)
        model.gradient_checkpointing = checkpointing
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, Meter() as meter:
            loss(model, sizes, "run", True).backward()
        expected = step_flops(config, sizes, active, outside=False, checkpointing=checkpointing, attention="math")
        assert counter.get_total_flops() == meter.flops == expected.total > 0


def test_flops_by_block_add_up_and_frozen_ends_cost_their_forward_alone() -> None:
    model = VideoDiT(SMALL)
    blocks = discover_blocks(model)
    train_only(model, ("blocks.2", "temporal.2"), False)
    model.gradient_checkpointing = True
    with Meter(blocks=blocks) as meter:
        loss(model, SIZES, "run", True).backward()
    each = meter.by_block
    assert sum(each.values(), Flops()) == meter.by_pass and set(each) == {*blocks.names, ""}
    for name in ("blocks.0", "temporal.0", "blocks.1", "temporal.1"):
        assert each[name].forward > 0 and each[name].backward == each[name].recompute == 0
    # Block 2 has no part in the reference pass of three blocks; its recomputation is its forward.
    assert each["blocks.2"].recompute == each["blocks.2"].forward
    assert each["temporal.2"].backward > each["temporal.2"].forward
    head = 2 * SIZES.batch * SIZES.frames * 6 * SMALL.width * SMALL.channels * 4
    assert each[""].backward == head, "the head passes a gradient on; its weights are frozen"


def test_names_that_are_no_blocks_are_refused() -> None:
    for options in ({"active": ("blocks.9",)}, {"checkpointing": ("x",)}, {"outside": ("hed",)}):
        with pytest.raises(ValueError, match=r"blocks.9|'x'|hed"):
            step_flops(SMALL, SIZES, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple of the patch"):
        step_flops(SMALL, Sizes(1, 1, 5, 4))


def test_a_module_called_twice_counts_twice() -> None:
    model = nn.ModuleList([nn.Linear(3, 5), nn.Linear(5, 3)])
    blocks = discover_blocks(model, ["0", "1"])
    with Meter(blocks=blocks) as meter:
        x = torch.randn(2, 3)
        model[1](model[0](model[1](model[0](x)))).sum().backward()
    product = 2 * 2 * 3 * 5
    assert meter.by_block["0"] == Flops(2 * product, 3 * product, 0), "the first input needs no gradient"
    assert meter.by_block["1"] == Flops(2 * product, 4 * product, 0)
