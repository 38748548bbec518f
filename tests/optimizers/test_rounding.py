"""Parameters held in bfloat16: stepped in float32, rounded stochastically, the same at every rerun."""

from typing import Any

import pytest
import torch
from torch import nn

from entprog.config.schema import TrainConfig
from entprog.core.probe import Snapshot
from entprog.profiling.meter import Meter
from entprog.savings.in_backward import InBackward, build_optimizer, optimizer_plugin
from entprog.savings.rounding import rounded_stochastically
from entprog.train.checkpoint import load_checkpoint, save_checkpoint
from entprog.train.state import load_optimizer_state, optimizer_state

NAMES = ("adamw", "adamw8bit", "adafactor", "muon", "benchmarks.rivals.galore:Galore")


def config(name: str, **options: Any) -> TrainConfig:
    if name == "adamw8bit":
        pytest.importorskip("torchao")
    if name.endswith("Galore"):
        options = {"optimizer_options": {"rank": 8, "update_proj_gap": 2}, **options}
    return TrainConfig(optimizer=name, **{"adam_weight_decay": 0.0, **options})


class Net(nn.Module):
    """Two matrices, one of which is large enough for 8-bit states, and vectors."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(64, 96), nn.Linear(96, 16)
        self.to(torch.bfloat16).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.first.weight.dtype
        out: torch.Tensor = self.second(torch.tanh(self.first(x.to(dtype))))
        return out


def made(name: str, dtype: torch.dtype = torch.bfloat16, lr: float = 1e-3, **options: Any) -> tuple[Net, Any]:
    net = Net(dtype)
    groups = [
        {"name": "blocks.0", "params": list(net.first.parameters()), "lr": lr},
        {"name": "outside", "params": list(net.second.parameters()), "lr": lr},
    ]
    return net, build_optimizer(config(name, **options), groups)


def step(net: Net, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(seed))
    net(x).float().square().mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_value_becomes_one_of_its_neighbours_and_the_mean_is_kept() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(500, generator=generator) * torch.logspace(-20, 20, 500)
    low = (values.view(torch.int32) & ~0xFFFF).view(torch.float32)
    high = ((values.view(torch.int32) & ~0xFFFF) + 0x10000).view(torch.float32)
    total, draws = torch.zeros(500), 2000
    for step in range(draws):
        found = rounded_stochastically(values, 0, step, 0)
        assert found.dtype == torch.bfloat16 and ((found == low) | (found == high)).all()
        total += found.float() / low / draws
    # The standard error of a mean of so many draws of one of two values.
    spread = (high / low - 1).abs() / draws**0.5
    assert ((total - values / low).abs() < 3 * spread).all()
    assert abs(float(((total - values / low) / spread).mean())) < 0.1


def test_what_bfloat16_holds_stays_and_so_does_what_is_no_number() -> None:
    exact = torch.tensor([0.0, -0.0, 1.0, -3.5, torch.inf, -torch.inf])
    assert torch.equal(rounded_stochastically(exact, 0, 0, 0).float(), exact)
    payloads = torch.tensor([0x7FFFFFFF, -1, 0x7F800001, 0x7FC00000], dtype=torch.int64).to(torch.int32)
    assert rounded_stochastically(payloads.view(torch.float32), 0, 0, 0).isnan().all()
    assert rounded_stochastically(torch.zeros(0, 3), 0, 0, 0).shape == (0, 3)
    assert rounded_stochastically(torch.tensor(1.001), 0, 0, 0).shape == ()


def test_bits_follow_from_seed_step_and_place_alone() -> None:
    values = torch.rand(256, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    base = rounded_stochastically(values, 1, 2, 3)
    assert torch.equal(base, rounded_stochastically(values.view(16, 16).T.T, 1, 2, 3).flatten())
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4), (3, 2, 1), (1, 3, 2)):
        assert not torch.equal(base, rounded_stochastically(values, *other))
    assert torch.equal(state, torch.get_rng_state())


def test_adamw_keeps_the_movement_of_float32_over_400_steps() -> None:
    """At 1e-5, where rounding to nearest keeps a twelfth."""
    start = (torch.randn(256, 256, generator=torch.Generator().manual_seed(0)) * 0.03).bfloat16()
    direction = torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
    ends = {}
    for kind in ("float32", "stochastic", "nearest"):
        p = nn.Parameter(start.float() if kind == "float32" else start.clone())
        groups = [{"name": "outside", "params": [p], "lr": 1e-5}]
        optimizer = build_optimizer(config("adamw"), groups)
        if kind == "nearest":
            optimizer = torch.optim.AdamW([p], lr=1e-5, weight_decay=0.0, fused=True)
        for i in range(400):
            p.grad = (direction + torch.randn(256, 256, generator=torch.Generator().manual_seed(i))).to(p.dtype)
            optimizer.step()
        ends[kind] = p.detach().float() - start.float()
    goal = ends["float32"]
    share = {kind: float((moved * goal).sum() / goal.square().sum()) for kind, moved in ends.items()}
    assert 0.95 < share["stochastic"] < 1.05 and share["nearest"] < 0.15


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_that_of_float32_but_for_one_rounding(name: str) -> None:
    """From the same weights and gradients each value becomes a neighbour of float32's; states are float32's own."""
    (low, ours), (full, reference) = made(name), made(name, torch.float32)
    for i in range(3):
        with torch.no_grad():
            for p, q in zip(low.parameters(), full.parameters(), strict=True):
                q.copy_(p)
        x = torch.randn(8, 64, generator=torch.Generator().manual_seed(i))
        low(x).float().square().mean().backward()
        for p, q in zip(low.parameters(), full.parameters(), strict=True):
            q.grad = p.grad.float()
        kept = [p.grad for p in low.parameters()]
        ours.step()
        reference.step()
        assert all(p.grad is g for p, g in zip(low.parameters(), kept, strict=True))
        for p, q in zip(low.parameters(), full.parameters(), strict=True):
            assert p.dtype == torch.bfloat16
            below = (q.detach().view(torch.int32) & ~0xFFFF).view(torch.float32)
            above = ((q.detach().view(torch.int32) & ~0xFFFF) + 0x10000).view(torch.float32)
            assert ((p == below) | (p == above)).all()
            for key, value in reference.state[q].items():
                assert torch.equal(value, ours.state[p][key]) and value.dtype == ours.state[p][key].dtype
        ours.zero_grad(set_to_none=True)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_going_on_from_a_checkpoint_is_bit_exact(name: str, backward: bool, tmp_path: Any) -> None:
    options = {"optimizer_in_backward": True, "max_grad_norm": 0.0} if backward else {}
    net, optimizer = made(name, **options)
    for i in range(3):
        step(net, optimizer, i)
    save_checkpoint(tmp_path, 3, {"model": dict(net.state_dict()), "optimizer": optimizer_state(optimizer, net)})
    for i in range(3, 6):
        step(net, optimizer, i)
    torch.manual_seed(99)
    other, again = made(name, **options)
    saved = load_checkpoint(tmp_path / "checkpoint-3")
    other.load_state_dict(saved["model"])
    load_optimizer_state(again, other, saved["optimizer"])
    for i in range(3, 6):
        step(other, again, i)
    assert same(weights(net), weights(other))


@pytest.mark.parametrize("name", NAMES)
def test_the_backward_pass_steps_alike_and_snapshots_repeat(name: str) -> None:
    ends = []
    for backward in (False, True):
        net, optimizer = made(name, optimizer_in_backward=backward, max_grad_norm=0.0)
        assert isinstance(optimizer, InBackward) == backward
        step(net, optimizer, 0)
        snapshot = Snapshot.take(net, optimizer)
        step(net, optimizer, 1)
        first = weights(net)
        snapshot.restore(net, optimizer)
        step(net, optimizer, 1)
        assert same(first, weights(net))
        ends.append(first)
    assert same(*ends)


def test_another_seed_rounds_otherwise() -> None:
    found = []
    for seed in (0, 0, 1):
        net, optimizer = made("adamw", seed=seed)
        step(net, optimizer, 0)
        found.append(weights(net))
    assert same(found[0], found[1]) and not same(found[0], found[2])


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_states_are_as_announced(name: str) -> None:
    net, optimizer = made(name)
    before = torch.get_rng_state()
    with Meter(net, optimizer) as meter:
        net(torch.randn(8, 64, generator=torch.Generator().manual_seed(0))).float().square().mean().backward()
    step(net, optimizer, 0)
    made_bytes = sum(v.numel() * v.element_size() for state in optimizer.state.values() for v in state.values())
    plugin = optimizer_plugin(config(name))
    announced = sum(plugin.state_bytes(p, "block") for p in net.first.parameters())
    announced += sum(plugin.state_bytes(p, "outside") for p in net.second.parameters())
    assert meter.at_peak["optimizer"] == made_bytes == announced
    assert torch.equal(before, torch.get_rng_state())


def test_hooks_of_a_step_run_once() -> None:
    """Also where torch's own class, which the step goes through, has been wrapped by an instance of it."""
    torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
    for name in ("adamw", "muon"):
        net, optimizer = made(name)
        calls: list[str] = []
        optimizer.register_step_pre_hook(lambda *call, calls=calls: calls.append("before"))
        optimizer.register_step_post_hook(lambda *call, calls=calls: calls.append("after"))
        step(net, optimizer, 0)
        assert calls == ["before", "after"]
