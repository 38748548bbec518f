"""One process of several, simulated: FSDP2 on fake tensors, with a process group that only pretends."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from entprog.core.blocks import Block, Blocks
from entprog.core.freeze import param_groups
from entprog.core.processes import average_gradients
from entprog.core.sharded import is_sharded
from entprog.core.types import AdamOptions
from entprog.optimizers.adamw import AdamW
from entprog.optimizers.base import OptimizerPlugin
from entprog.plan.inventory import Parts
from entprog.plan.low_rank import low_rank_added
from entprog.plan.simulator import as_on_a_gpu
from entprog.profiling.meter import Meter
from entprog.profiling.subject import Case, Subject
from entprog.savings.sharding import shard


@contextmanager
def fake_group(world: int) -> Iterator[None]:
    """A process group of so many, of which this process is the first and the only one."""
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def mesh_of(shards: int, copies: int = 1) -> DeviceMesh:
    if copies == 1:
        return init_device_mesh("cpu", (shards,))
    return init_device_mesh("cpu", (copies, shards), mesh_dim_names=("replicate", "shard"))


class Carried(TorchDispatchMode):
    """Bytes of the whole tensors of each collective operation."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        if name == "all_gather_into_tensor":  # of a DTensor
            self.bytes["allgather_base"] += args[0].nbytes * args[1]
        if name in ("_allgather_base_", "_reduce_scatter_base_", "allreduce_"):
            whole = args[1] if name == "_reduce_scatter_base_" else args[0]
            tensors = whole if isinstance(whole, list | tuple) else [whole]
            self.bytes[name.strip("_")] += sum(each.nbytes for each in tensors)
        return func(*args, **(kwargs or {}))


def metered_process(
    subject: Subject, case: Case, active: Collection[str], *, shards: int, copies: int = 1,
    adapted: Collection[str] = (), spared: Mapping[str, Sequence[str]] | None = None,
    resting: Mapping[str, Parts] | None = None, plugin: OptimizerPlugin | None = None,
) -> tuple[Meter, Counter[str]]:  # fmt: skip
    """The second step of the first process, and the bytes that its collective operations carry.

    Adapters come after sharding and are whole, as in training.

    Args:
        shards: processes that the network is divided over; with 1 each has all of it.
        spared: modules of an adapted block that train in full.
        resting: frozen adapters that blocks hold and do not use.
        plugin: the optimizer; AdamW if None.
    """
    mesh = mesh_of(shards, copies) if shards > 1 else None
    counted = patch.object(FakeTensor, "__int__", lambda count: 1)  # of steps: fake ones have no values
    with FakeTensorMode(allow_non_fake_inputs=True), as_on_a_gpu(case.fused), counted:
        model, units = subject.build(range(len(subject.units)))
        model.requires_grad_(False)
        owned = {id(p) for unit in units for name in unit for p in model.get_submodule(name).parameters()}
        for name, parameter in model.named_parameters():
            wanted = case.outside and (case.inputs or name.startswith(subject.heads))
            parameter.requires_grad_(wanted and id(parameter) not in owned)
        for name in (name for unit in units for name in unit):
            if name in active:
                model.get_submodule(name).requires_grad_(True)
        blocks = Blocks([Block(name, model.get_submodule(name)) for unit in units for name in unit])
        if mesh is not None:
            shard(model, blocks, mesh)
        for name in adapted:
            low_rank_added(model, name, case.low_rank, (spared or {}).get(name, ()))
        for name, parts in (resting or {}).items():
            for i, kind in enumerate(parts.elements()):
                unused = nn.Parameter(torch.zeros(kind.shape), requires_grad=False)
                model.get_submodule(name).register_parameter(f"resting_{i}", unused)
        groups = []
        for group in param_groups(model, blocks, lr=1e-4):  # adapters have their own, as the methods give them
            for divided in (True, False):
                members = [p for p in group["params"] if is_sharded(p) == divided]
                groups += [{**group, "params": members}] if members else []
        optimizer = (plugin or AdamW()).build(groups, AdamOptions(0.9, 0.999, 1e-8, 0.01))

        def gradients() -> None:
            for _ in range(case.accumulation):
                forward = subject.step(model, case)()  # holds its batch throughout, as the training loop does
                forward().backward()

        def step() -> None:
            gradients()
            average_gradients(p.grad for p in model.parameters() if p.grad is not None and not is_sharded(p))
            optimizer.step()

        step()
        if case.accumulation == 1:
            optimizer.zero_grad(set_to_none=True)
        with Meter(model, optimizer) as meter, Carried() as carried:
            step()
    return meter, carried.bytes
