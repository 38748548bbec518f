"""`shard`: every block and the root are FSDP2 units; what can't be sharded is refused before anything changes."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from entprog.core.blocks import Block, Blocks, discover_blocks
from entprog.core.sharded import is_sharded
from entprog.nets.dit import VideoDiT, build_dit
from entprog.savings.frozen_storage import FrozenStorage
from entprog.savings.sharding import shard, unshardable
from entprog.savings.weight_precision import set_precision
from fake_processes import fake_group, mesh_of


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with fake_group(8):
        yield


def network() -> tuple[VideoDiT, Blocks]:
    model = build_dit("nano", depth=2, width=16, heads=2, temporal_every=0, reference="none", pose="none")
    return model, discover_blocks(model)


@pytest.mark.parametrize("copies", [1, 2])
def test_blocks_and_the_root_are_units(copies: int) -> None:
    model, blocks = network()
    whole = {name: tuple(p.shape) for name, p in model.named_parameters()}
    shard(model, blocks, mesh_of(8 // copies, copies), policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    units = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
    assert units == ["", *blocks.names]
    for name, parameter in model.named_parameters():
        assert is_sharded(parameter) and tuple(parameter.shape) == whole[name]
        rows = -(-whole[name][0] // (8 // copies))
        assert parameter.to_local().shape[0] == rows  # type: ignore[attr-defined]
    assert list(unshardable(model, blocks)) == [
        "the model is sharded already: shard it once, from its plain parameters"
    ]


def refused(model: nn.Module, blocks: Blocks) -> list[str]:
    with pytest.raises(ValueError) as error:
        shard(model, blocks, mesh_of(8))
    assert not any(map(is_sharded, model.parameters()))
    return str(error.value).split("\n")


def test_each_cause_has_its_line() -> None:
    model, blocks = network()
    first, second = (block.module for block in blocks)
    model.tied = next(iter(first.parameters()))
    first.gain = nn.Parameter(torch.ones(()))
    first.codes = nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    first.kernel = nn.Parameter(torch.zeros(2, 2).t())
    second.half()
    next(iter(second.parameters())).data = next(iter(second.parameters())).data.float()
    lines = refused(model, blocks)
    for said in (
        "parameter 'blocks.0.gain' is a scalar", "parameter 'blocks.0.codes' holds uint8",
        "parameter 'blocks.0.kernel' is not contiguous", "is also part of block 'blocks.0'",
        "block 'blocks.1' has trainable parameters of several types",
    ):  # fmt: skip
        assert any(said in line for line in lines), (said, lines)
    assert len(lines) == 5


def test_weights_that_are_held_otherwise() -> None:
    model, blocks = network()
    set_precision(model, "bf16", "float32")
    assert any("model.dtype" in line for line in refused(model, blocks))
    model, blocks = network()
    model.requires_grad_(False)
    FrozenStorage(blocks, "int8").follow()
    assert any("freeze.storage" in line for line in refused(model, blocks))


def test_blocks_that_are_lists_and_other_meshes() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([nn.ModuleList([nn.Linear(8, 8)]), nn.ModuleList([nn.Linear(8, 8)])])
    lists = Blocks([Block(f"layers.{i}", each) for i, each in enumerate(model.layers)])
    assert "block 'layers.0' (ModuleList) has no forward of its own" in refused(model, lists)[0]
    network_, blocks = network()
    with pytest.raises(ValueError, match="the mesh has 3 dimensions"):
        shard(network_, blocks, init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("a", "b", "c")))
    with pytest.raises(ValueError, match="has no names"):
        shard(network_, blocks, init_device_mesh("cpu", (2, 4)))
