"""`distributed.shard`: the network of a run divided over the processes, and whole again in the first at the end."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, register_fsdp_forward_method

from entprog.config.schema import Config
from entprog.core.blocks import discover_blocks
from entprog.core.processes import first
from entprog.core.sharded import full_tensor, reshard, sharded_modules
from entprog.profiling.device import pick_device, pick_precision
from entprog.savings.sharding import shard
from entprog.tasks.base import Task
from entprog.tasks.finished_run import build_task
from entprog.train.phase import PhaseSetup, running
from entprog.train.state import Session

__all__ = ["before_sharding", "make_whole", "shard_task"]


def before_sharding(config: Config) -> Config:
    """How the network of such a run is built: on the CPU, to be divided there."""
    precision: Any = pick_precision(config.train.mixed_precision, pick_device(config.device))
    train = replace(config.train, mixed_precision=precision)
    return replace(config, device="cpu", train=train)


def shard_task(task: Task, config: Config) -> dict[int, tuple[str, ...]]:
    """Divide the task's network, block by block (FSDP2), and give each phase's input-side parameters.

    Those are known by the identity of parameters, which sharding replaces: they are found first.

    Raises:
        ValueError: something in the network can't be sharded.
    """
    phases = enumerate(running(config))
    inputs = {number: PhaseSetup.build(task, config, number, name).inputs for number, (name, _) in phases}
    device = pick_device(config.device)
    low = config.distributed.param_dtype == "bf16"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if low else None
    for parameter in task.model.parameters():
        parameter.requires_grad_(True)
    shard(task.model, discover_blocks(task.model), _mesh(config, device.type), policy=policy)
    for name in getattr(task.model, "entprog_forwards", ()):
        register_fsdp_forward_method(task.model, name)
    return inputs


def _mesh(config: Config, kind: str) -> DeviceMesh:
    count, copies = dist.get_world_size(), config.distributed.replicate
    if copies == 1:
        return init_device_mesh(kind, (count,))
    return init_device_mesh(kind, (copies, count // copies), mesh_dim_names=("replicate", "shard"))


def make_whole(session: Session) -> None:
    """After training: the first process gets a task with the whole network and its average. All must call this."""
    reshard(sharded_modules(session.task.model))
    weights = _gathered(session.task.model.state_dict())
    session.ema.weights = _gathered(session.ema.weights)
    if not first():
        return
    session.task = build_task(session.config)
    session.task.model.load_state_dict(weights)
    device = session.task.device
    session.ema.weights = {name: value.to(device) for name, value in session.ema.weights.items()}


def _gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the host in the first process, none in the others."""
    found = {}
    for name, value in tensors.items():
        whole = full_tensor(value.detach())
        if first():
            found[name] = whole.cpu()
    return found
