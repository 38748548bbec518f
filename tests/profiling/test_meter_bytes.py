"""Bytes: against what the allocator reports, by category, over whole steps, real and simulated."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn, optim
from torch._subclasses.fake_tensor import FakeTensorMode

from entprog.core.blocks import discover_blocks
from entprog.core.freeze import Freezer, param_groups
from entprog.nets.dit import VideoDiT
from entprog.profiling.ledger import Ledger
from entprog.profiling.meter import CATEGORIES, Meter
from entprog.profiling.profiled import cuda_peak, profiled_peak
from entprog.savings.in_backward import InBackward
from tiny import small_dit

Active = tuple[str, ...] | None


def prepared(active: Active, checkpointing: bool, device: str = "cpu") -> tuple[VideoDiT, optim.Optimizer]:
    model = small_dit(width=64)
    if device != "cpu":
        model.to(device)
    model.gradient_checkpointing = checkpointing
    blocks = discover_blocks(model)
    optimizer = optim.AdamW(param_groups(model, blocks))
    if active is not None:
        Freezer(model, blocks, optimizer, outside=False).train_only(active)
    return model, optimizer


def inputs(device: str = "cpu") -> list[Tensor]:
    x, image = torch.randn(2, 3, 16, 16, 16, device=device), torch.randn(2, 16, 16, 16, device=device)
    return [x, torch.rand(2, device=device), image, torch.rand(2, 3, 3, 64, 64, device=device)]


def step(model: nn.Module, optimizer: optim.Optimizer, given: list[Tensor], autocast: bool = False) -> None:
    with torch.autocast(given[0].device.type, torch.bfloat16, enabled=autocast):
        out = model(*given)
    (out - given[0]).pow(2).mean().backward()
    del out
    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def states(optimizer: optim.Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values()]


@pytest.mark.parametrize("active", [None, ("blocks.3", "temporal.1")])
@pytest.mark.parametrize(("checkpointing", "autocast"), [(False, False), (True, False), (False, True)])
def test_the_peak_is_that_of_the_allocator(active: Active, checkpointing: bool, autocast: bool) -> None:
    model, optimizer = prepared(active, checkpointing)
    given = inputs()
    with Meter(model, optimizer, held=given) as meter:
        step(model, optimizer, given, autocast)  # the states of the first step count as if they had been there
    real = profiled_peak(
        lambda: step(model, optimizer, given, autocast), [*model.parameters(), *states(optimizer), *given]
    )
    assert meter.peak == pytest.approx(real, rel=0.01)
    assert sum(meter.at_peak.values()) == meter.peak and set(meter.at_peak) == set(CATEGORIES)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("active", [None, ("blocks.3", "temporal.1")])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_is_that_of_a_cuda_device(active: Active, checkpointing: bool) -> None:
    model, optimizer = prepared(active, checkpointing, "cuda")
    given = inputs("cuda")
    step(model, optimizer, given)  # libraries take their workspaces
    besides = torch.cuda.memory_allocated()
    with Meter(model, optimizer, held=given) as meter:
        besides -= sum(meter.live.values())
        step(model, optimizer, given)
    assert meter.peak + besides == pytest.approx(cuda_peak(lambda: step(model, optimizer, given)), rel=0.01)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_simulated_tensors_give_the_same_numbers(checkpointing: bool) -> None:
    found = []
    for simulate in (False, True):
        with FakeTensorMode(allow_non_fake_inputs=True) if simulate else torch.enable_grad():
            model, optimizer = prepared(("blocks.2", "blocks.3"), checkpointing)
            given = inputs()
            with Meter(model, optimizer, blocks=discover_blocks(model), held=given) as meter:
                step(model, optimizer, given)
            found.append((meter.cost(), meter.by_block, meter.live))
    assert found[0] == found[1]


def test_what_is_in_each_category() -> None:
    model = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64))
    optimizer, x = optim.SGD(model.parameters(), lr=0.1, momentum=0.9), torch.randn(512, 64)
    weights = sum(p.numel() * 4 for p in model.parameters())
    with Meter(model, optimizer) as meter:
        out = model(x)
        kept = 4 * 512 * (64 + 256 + 64)
        loss = out.pow(2).sum()
        before = meter.live
        assert before["temporaries"] == kept + 4, "nobody knows yet which of them a backward pass will find"
        loss.backward()
        assert meter.live["gradients"] == weights and meter.live["temporaries"] == 0
        assert meter.live["activations"] == 4 * 512 * 128 + 4, "the input, the output and the loss are still held"
        optimizer.step()
        assert meter.live["optimizer"] == meter.live["weights"] == weights
        optimizer.zero_grad(set_to_none=True)
        assert meter.live["gradients"] == 0
    assert meter.at_peak["optimizer"] == weights, "states of the first step count from its start"


def test_what_a_forward_without_a_backward_makes_is_temporary() -> None:
    model = small_dit()
    with torch.no_grad(), Meter(model) as meter:
        model(*inputs()[:2])
    assert meter.at_peak["activations"] == 0 < meter.at_peak["temporaries"]


def test_recomputed_tensors_are_activations() -> None:
    plain, cost = [], []
    for checkpointing in (False, True):
        model, optimizer = prepared(None, checkpointing)
        with Meter(model, optimizer) as meter:
            step(model, optimizer, inputs())
        plain.append(meter.by_pass)
        cost.append(meter.cost())
    assert plain[0].recompute == 0 < plain[1].recompute < plain[1].forward == plain[0].forward
    assert plain[0].backward == plain[1].backward
    assert 0 < cost[1].by_category["activations"] < 0.5 * cost[0].by_category["activations"]


@pytest.mark.parametrize(
    "make", [optim.AdamW, lambda p: optim.SGD(p, momentum=0.9), optim.Adafactor, lambda p: InBackward(optim.AdamW(p))]
)
def test_a_first_whole_step_measures_like_a_later_one(make: Callable[..., optim.Optimizer]) -> None:
    model = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64))
    optimizer, x = make(model.parameters()), torch.randn(64, 64)
    costs = []
    for _ in range(3):
        with Meter(model, optimizer, held=[x]) as meter:
            model(x).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        costs.append(meter.cost())
    assert costs[0] == costs[1] == costs[2] and costs[0].by_category["optimizer"] > 0


def test_views_changes_in_place_and_resized_storages() -> None:
    model = nn.Linear(2, 2)
    own = 4 * 6
    with Meter(model) as meter:
        a = torch.zeros(100)
        views = [a[10:], a.view(10, 10), a.detach(), a.add_(1)]
        assert sum(meter.live.values()) == own + 400
        a.untyped_storage().resize_(0)
        assert sum(meter.live.values()) == own
        a.untyped_storage().resize_(800)
        assert sum(meter.live.values()) == own + 800
        b = torch.empty(0)
        b.resize_(50)
        assert sum(meter.live.values()) == own + 1000
        torch.add(torch.ones(60), 1, out=b.resize_(0))
        assert sum(meter.live.values()) == own + 800 + max(240, b.untyped_storage().nbytes())
        del a, b, views
    assert sum(meter.live.values()) == own and meter.peak > own + 1000


def test_buffers_and_what_is_held_are_weights() -> None:
    model = nn.BatchNorm1d(8)
    with Meter(model, held=[torch.zeros(100)]) as meter:
        pass
    assert meter.at_peak == {**dict.fromkeys(CATEGORIES, 0), "weights": 4 * 8 * 4 + 8 + 400}


def test_all_gradients_of_a_weight_that_is_used_twice_are_gradients() -> None:
    layer = nn.Linear(300, 300, bias=False)
    x = torch.randn(4, 300)
    with Meter(layer) as meter:
        layer(layer(x)).sum().backward()
    layer.weight.grad = None
    real = profiled_peak(lambda: layer(layer(x)).sum().backward(), [*layer.parameters(), x])
    assert meter.peak == pytest.approx(real, rel=0.01)
    assert meter.at_peak["gradients"] == 3 * 4 * 300 * 300, "those of both uses, and their sum"


def test_a_long_history_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for longest in (Ledger.LONGEST, 50):
        monkeypatch.setattr(Ledger, "LONGEST", longest)
        torch.manual_seed(0)
        model, optimizer = prepared(("blocks.3",), False)
        with Meter(model, optimizer) as meter:
            step(model, optimizer, inputs())
        found.append(meter.cost())
    assert found[0] == found[1]


def test_composite_operations_in_inference_mode_are_counted() -> None:
    model, x = nn.Linear(4, 8), torch.randn(2, 3, 4)
    with torch.inference_mode(), Meter() as meter:
        model(x)
    assert meter.flops == 2 * 6 * 4 * 8


def test_nothing_stays_behind() -> None:
    model, optimizer = prepared(None, False)
    own = torch.UntypedStorage.resize_
    with pytest.raises(RuntimeError, match="stop"), Meter(model, optimizer, blocks=discover_blocks(model)):
        raise RuntimeError("stop")
    assert torch.UntypedStorage.resize_ is own and not optimizer._optimizer_step_pre_hooks
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
