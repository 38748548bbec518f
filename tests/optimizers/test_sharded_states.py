"""8-bit states of one process's rows of a sharded parameter are those of the whole parameter, there and back."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.distributed.tensor import Shard, distribute_tensor

from entprog.core.types import AdamOptions
from entprog.optimizers.adamw8bit import Adamw8bit
from fake_processes import fake_group, mesh_of

pytest.importorskip("torchao")
WORLD = 8
WIDE, ODD, SMALL, FEW = (64, 512), (256, 160), (64, 64), (20, 2048)
"""Blocks in rows, blocks over rows, full moments in parts only, and parts of different sizes."""


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    with fake_group(WORLD):
        yield


def built(p: nn.Parameter) -> optim.Optimizer:
    return Adamw8bit().build([{"params": [p], "lr": 1e-2, "name": "blocks.0"}], AdamOptions(0.9, 0.999, 1e-8, 0.01))


def divided(whole: Tensor) -> Any:
    return distribute_tensor(whole, mesh_of(WORLD), [Shard(0)], src_data_rank=None)


def stepped(p: nn.Parameter, optimizer: optim.Optimizer, seeds: range, *, sharded: bool) -> None:
    for seed in seeds:
        gradient = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        p.grad = divided(gradient) if sharded else gradient
        optimizer.step()


def pair(shape: tuple[int, int]) -> tuple[nn.Parameter, optim.Optimizer, nn.Parameter, optim.Optimizer]:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(99))
    whole, parts = nn.Parameter(start.clone()), nn.Parameter(divided(start.clone()))
    return whole, built(whole), parts, built(parts)


@pytest.mark.parametrize("shape", [WIDE, ODD, FEW])
def test_a_part_steps_as_the_whole(group: None, shape: tuple[int, int]) -> None:
    whole, one, parts, many = pair(shape)
    stepped(whole, one, range(3), sharded=False)
    stepped(parts, many, range(3), sharded=True)
    rows = -(-shape[0] // WORLD)
    assert torch.equal(parts.to_local(), whole[:rows])  # type: ignore[attr-defined]
    ours, theirs = many.state[parts], one.state[whole]
    assert ours["exp_avg.codes"].shape == shape, "sharded as the parameter is"
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(ours[f"{name}.codes"].to_local(), theirs[f"{name}.codes"][:rows])
        scale = ours[f"{name}.scale"].to_local().reshape(-1)
        assert torch.equal(scale, theirs[f"{name}.scale"][: len(scale)]) and len(scale) == rows * shape[1] // 256


@pytest.mark.parametrize("shape", [WIDE, ODD, SMALL])
def test_states_of_one_process_go_on_in_parts(group: None, shape: tuple[int, int]) -> None:
    whole, one, parts, many = pair(shape)
    stepped(whole, one, range(3), sharded=False)
    saved = one.state_dict()["state"][0]
    # As a checkpoint is read: what has the parameter's shape is divided.
    state = {key: divided(value) if value.shape == shape else value.clone() for key, value in saved.items()}
    with torch.no_grad():
        parts.copy_(divided(whole.detach()))
    many.load_state_dict({"state": {0: state}, "param_groups": many.state_dict()["param_groups"]})
    stepped(whole, one, range(3, 4), sharded=False)
    stepped(parts, many, range(3, 4), sharded=True)
    rows = shape[0] // WORLD
    assert torch.equal(parts.to_local(), whole[:rows])  # type: ignore[attr-defined]
    assert ("exp_avg.codes" in many.state[parts]) == (shape != SMALL)


@pytest.mark.parametrize("full", [False, True])
def test_states_of_parts_go_on_in_one_process(full: bool) -> None:
    """Scales of a row each, as parts have them, are taken as they are; moments that parts had in full are quantised."""
    (whole, one), (other, two) = (
        (p, built(p)) for p in (nn.Parameter(torch.ones(WIDE)), nn.Parameter(torch.ones(WIDE)))
    )
    stepped(whole, one, range(3), sharded=False)
    saved = one.state_dict()["state"][0]
    state = {key: value.view(64, 2) if key.endswith("scale") else value for key, value in saved.items()}
    if full:
        maps = {"exp_avg": True, "exp_avg_sq": False}
        state = {"step": saved["step"]} | {
            name: one._maps[whole.device, signed][saved[f"{name}.codes"].int()]  # type: ignore[attr-defined]
            * saved[f"{name}.scale"].repeat_interleave(256).view(WIDE)
            for name, signed in maps.items()
        }  # fmt: skip
    with torch.no_grad():
        other.copy_(whole)
    two.load_state_dict({"state": {0: state}, "param_groups": two.state_dict()["param_groups"]})
    stepped(whole, one, range(3, 4), sharded=False)
    stepped(other, two, range(3, 4), sharded=False)
    if full:  # a block whose largest value is negative has another scale
        assert torch.allclose(other, whole, atol=2e-4)
    else:
        assert torch.equal(other, whole)
    assert two.state[other]["exp_avg.scale"].shape == (128,)
