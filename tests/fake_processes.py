"""One process of several, simulated: FSDP2 on fake tensors, with a process group that only pretends."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
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
    adapted: Collection[str] = (), rank: int = 0, resting: Mapping[str, Parts] | None = None,
    plugin: OptimizerPlugin | None = None,
) -> tuple[Meter, Counter[str]]:  # fmt: skip
    """The second step of the first process, and the bytes that its collective operations carry.

    Args:
        resting: frozen parameters that blocks hold and do not use.
        plugin: the optimizer; AdamW if None.
    """
    mesh = mesh_of(shards, copies)
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
            elif name in adapted:
                low_rank_added(model, name, rank)
        for name, parts in (resting or {}).items():
            for i, kind in enumerate(parts.elements()):
                unused = nn.Parameter(torch.zeros(kind.shape), requires_grad=False)
                model.get_submodule(name).register_parameter(f"resting_{i}", unused)
        blocks = Blocks([Block(name, model.get_submodule(name)) for unit in units for name in unit])
        shard(model, blocks, mesh)
        optimizer = (plugin or AdamW()).build(param_groups(model, blocks, lr=1e-4), AdamOptions(0.9, 0.999, 1e-8, 0.01))

        def step() -> None:
            for _ in range(case.accumulation):
                forward = subject.step(model, case)()  # holds its batch throughout, as the training loop does
                forward().backward()
            optimizer.step()

        step()
        if case.accumulation == 1:
            optimizer.zero_grad(set_to_none=True)
        with Meter(model, optimizer) as meter, Carried() as carried:
            step()
    return meter, carried.bytes
