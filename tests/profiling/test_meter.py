"""The meter: exact FLOPs and weights, a sane peak, numerics untouched."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from entprog.core.blocks import discover_blocks
from entprog.core.freeze import Freezer, param_groups
from entprog.nets.dit import VideoDiT
from entprog.profiling.meter import Meter
from tiny import small_dit


def loss(model: VideoDiT, frames: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(0)
    x, image = torch.randn(2, frames, 16, 4, 4, generator=g), torch.randn(2, 16, 4, 4, generator=g)
    maps = torch.rand(2, frames, 3, 16, 16, generator=g)
    return (model(x, torch.tensor([0.2, 0.7]), image, maps) - x).pow(2).mean()


@pytest.mark.parametrize("active", [None, ("blocks.3",), ("blocks.0", "temporal.1")])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_equal_those_of_torch(active: tuple[str, ...] | None, checkpointing: bool) -> None:
    counts = []
    for counter in (Meter, lambda: FlopCounterMode(display=False)):
        model = small_dit()
        model.gradient_checkpointing = checkpointing
        blocks = discover_blocks(model)
        if active is not None:
            Freezer(model, blocks, torch.optim.SGD(model.parameters(), lr=1), outside=False).train_only(active)
        with counter() as meter:
            loss(model).backward()
        counts.append(meter.flops if isinstance(meter, Meter) else meter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_flops_of_a_product_by_hand() -> None:
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    with Meter() as meter:
        out = a @ b
    assert meter.flops == 2 * 3 * 5 * 7
    with Meter() as meter:
        out.sum().backward()
    assert meter.flops == 2 * 2 * 3 * 5 * 7


def test_flash_attention_on_a_cpu_is_counted() -> None:
    q, k, v = (torch.randn(1, 2, 16, 8, requires_grad=True) for _ in range(3))
    with Meter() as meter:
        out = nn.functional.scaled_dot_product_attention(q, k, v)
    products = 2 * 2 * 16 * 16 * 8  # of one matrix product over both heads
    assert meter.flops == 2 * products
    with Meter() as meter:
        out.sum().backward()
    assert meter.flops == 5 * products, "four of the backward, and the scores once more"


COUNTERS = 4 * 4
"""Bytes of AdamW's step counts of the four parameters of `mlp`."""


def mlp(width: int = 256) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 64))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Meter:
    with Meter(model, optimizer) as meter:
        model(x).pow(2).mean().backward()
    return meter


def test_the_peak_of_a_small_network_against_a_count_by_hand() -> None:
    model, x = mlp(), torch.randn(512, 64)
    optimizer = torch.optim.AdamW(model.parameters())
    cost = step(model, optimizer, x).cost()
    weights = sum(p.numel() * 4 for p in model.parameters())
    hidden, out = 512 * 256 * 4, 512 * 64 * 4
    assert cost.by_category["weights"] == weights and cost.by_category["optimizer"] == 2 * weights + COUNTERS
    assert sum(cost.by_category.values()) == cost.peak
    # What every step must hold, and all that it ever makes: both hidden tensors, their gradients, four of the output.
    assert 3 * weights + 2 * hidden + out <= cost.peak <= 4 * weights + 4 * hidden + 4 * out


def test_a_first_step_measures_like_a_later_one() -> None:
    model, x = mlp(), torch.randn(32, 64)
    optimizer = torch.optim.AdamW(model.parameters())
    costs = []
    for _ in range(3):
        costs.append(step(model, optimizer, x).cost())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    counts = [cost.by_category["optimizer"] for cost in costs]
    assert costs[0] == costs[1] == costs[2] and counts[0] > 0


def test_frozen_weights_need_neither_gradients_nor_states() -> None:
    model, x = mlp(), torch.randn(32, 64)
    optimizer = torch.optim.AdamW(model.parameters())
    full = step(model, optimizer, x).cost()
    model.zero_grad(set_to_none=True)
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    part = step(model, optimizer, x).cost()
    last = sum(p.numel() * 4 for p in model[2].parameters())
    assert (
        part.by_category["optimizer"] == 2 * last + COUNTERS // 2
        and part.by_category["weights"] == full.by_category["weights"]
    )
    assert part.peak < full.peak and part.flops < full.flops


def test_gradients_that_are_there_count() -> None:
    model, x = mlp(), torch.randn(4, 64)
    weights = sum(p.numel() * 4 for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    step(model, optimizer, x)
    with torch.no_grad(), Meter(model) as meter:
        model(x)
    assert meter.at_peak["gradients"] == meter.at_peak["weights"] == weights and meter.at_peak["optimizer"] == 0


def test_what_is_freed_is_no_longer_counted() -> None:
    model, x = mlp(), torch.randn(64, 64)
    with torch.no_grad(), Meter(model) as meter:
        model(x)
        once = meter.peak
        for _ in range(5):
            model(x)
    assert meter.peak == once


def test_numerics_are_untouched_and_nothing_stays_behind() -> None:
    plain, metered = small_dit(), small_dit()
    expected = loss(plain)
    expected.backward()
    optimizer = torch.optim.AdamW(param_groups(metered, discover_blocks(metered)))
    with Meter(metered, optimizer):
        value = loss(metered)
        value.backward()
    assert torch.equal(value, expected)
    for a, b in zip(plain.parameters(), metered.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad) and not b._post_accumulate_grad_hooks
    assert not optimizer.state
