"""FSDP2 by block: each block is a unit of its own, the rest of the network is the root's."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from entprog.core.blocks import Blocks, outside_parameters
from entprog.core.sharded import is_sharded, sharded_modules
from entprog.savings.frozen_storage import BUFFERS, original
from entprog.savings.weight_precision import ATTRIBUTE

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["shard", "unshardable"]


def shard(model: nn.Module, blocks: Blocks, mesh: "DeviceMesh", *, policy: MixedPrecisionPolicy | None = None) -> None:
    """Shard weights, gradients and, through an optimizer that is built afterwards, its states over processes.

    Every block is an FSDP2 unit, gathered whole only while it computes; what lies outside of the blocks is the
    root's unit. The root is sharded again after a forward pass, so that after a pass without backward (a score, a
    reading) `parameters()` are those that the optimizer has.

    To be called once the network is complete (but before LoRA's adapters, which stay whole) and after everything that
    reads its structure by the identity of parameters (blocks, `input_parameters`, `used_outside`), but before the
    optimizer is built. Where parameters that are not to train are frozen before or after makes no difference.
    Gradients are means over the processes.

    Args:
        model: called through its forward, as are its blocks: FSDP2 gathers weights nowhere else.
        blocks: of this model.
        mesh: one dimension shards over all its processes; two, which must have names, are copies of shards (HSDP): as
            many copies as the first dimension is long, each divided over the second.
        policy: types of gathered weights and of reduced gradients; None for those of the weights.

    Raises:
        ValueError: something can't be sharded; a line for each cause. The model is then unchanged.
    """
    found = [*_wrong_mesh(mesh), *unshardable(model, blocks)]
    if found:
        raise ValueError("\n".join(found))
    policy = policy or MixedPrecisionPolicy()
    for block in blocks:
        if block.module is not model:
            fully_shard(block.module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=True, mp_policy=policy)


def unshardable(model: nn.Module, blocks: Blocks) -> Iterator[str]:
    """One line for each reason why FSDP2 can't shard this model by these blocks, with what to do about it."""
    named = dict(model.named_parameters())
    if sharded_modules(model) or any(map(is_sharded, named.values())):
        yield "the model is sharded already: shard it once, from its plain parameters"
        return
    for block in blocks:
        if getattr(block.module.forward, "__func__", None) is nn.Module.forward:
            yield (
                f"block {block.name!r} ({type(block.module).__name__}) has no forward of its own, so that FSDP2 can't "
                "gather it when it runs; name the modules inside it that are called"
            )
    yield from _shared(model, blocks)
    yield from _parameters(model, named)
    units = {f"block {block.name!r}": dict(block.named_parameters()) for block in blocks}
    units["what lies outside of the blocks"] = outside_parameters(model, blocks)
    for title, members in units.items():
        types = {str(p.dtype).removeprefix("torch."): name for name, p in members.items() if p.requires_grad}
        if len(types) > 1:
            which = " and ".join(f"{name} in {kind}" for kind, name in types.items())
            yield (
                f"{title} has trainable parameters of several types ({which}); FSDP2 reduces a unit's gradients "
                "in one: hold them in one type (float32, with bfloat16 by autocast or by the policy)"
            )


def _shared(model: nn.Module, blocks: Blocks) -> Iterator[str]:
    """Parameters that a block has in common with something outside of it."""
    owner = {id(p): block.name for block in blocks for p in block.parameters()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        block = owner.get(id(parameter))
        if block is not None and block and not name.startswith(f"{block}."):
            yield (
                f"parameter {name!r} is also part of block {block!r}: FSDP2 can't share one between units; untie them, "
                "or leave that block out of the blocks"
            )


def _parameters(model: nn.Module, named: dict[str, nn.Parameter]) -> Iterator[str]:
    if getattr(model, ATTRIBUTE, None) is not None:
        yield (
            "the model's weights change their type as they freeze (model.dtype), which shards can't; "
            'set model.dtype = "float32"'
        )
    if any(original(p) is not p for p in named.values()) or any(
        name.rpartition(".")[2] in BUFFERS for name, _ in model.named_buffers()
    ):
        yield (
            'frozen weights are held in fewer bytes (freeze.storage), which shards can\'t; set freeze.storage = "full"'
        )
    for name, parameter in named.items():
        if parameter.ndim == 0:
            yield f"parameter {name!r} is a scalar, which has nothing to divide; give it the shape (1,)"
        elif not parameter.is_floating_point():
            kind = str(parameter.dtype).removeprefix("torch.")
            yield f"parameter {name!r} holds {kind}, encoded weights, which are not sharded; load the model in float32"
        elif not parameter.is_contiguous():
            yield f"parameter {name!r} is not contiguous in memory; call .contiguous() on it (no channels_last)"


def _wrong_mesh(mesh: "DeviceMesh") -> Iterator[str]:
    if mesh.ndim > 2:
        yield f"the mesh has {mesh.ndim} dimensions: one shards, two are copies of shards; give one of these"
    elif mesh.ndim == 2 and mesh.mesh_dim_names is None:
        yield 'the mesh of copies of shards has no names; give mesh_dim_names=("replicate", "shard")'
