"""One training step under FSDP2, as a process of its own: `fsdp_step.py real RANK WORLD FILE` or `fake 0 WORLD -`.

Prints the peak bytes of the rank: as the profiler saw them over gloo, or as the meter counts them simulated, with a
process group that only pretends.
"""

import sys

import torch
import torch.distributed as dist
from torch import nn, optim
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from entprog.nets.dit import VideoDiT, build_dit
from entprog.profiling.meter import Meter
from entprog.profiling.profiled import profiled_peak


def sharded(mesh: DeviceMesh) -> VideoDiT:
    """The last two of six spatial blocks train; each block is a group of its own."""
    torch.manual_seed(0)
    model = build_dit("nano", depth=6, width=128, heads=4, temporal_every=0, reference="none", pose="none")
    model.requires_grad_(False)
    model.gradient_checkpointing = True
    for i, block in enumerate(model.blocks):
        block.requires_grad_(i >= 4)
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def main(kind: str, mesh: DeviceMesh) -> int:
    model = sharded(mesh)
    optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    given = [torch.randn(2, 1, 16, 16, 16), torch.rand(2)]

    def step() -> None:
        out = model(*given)
        (out - given[0]).pow(2).mean().backward()
        del out
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    if kind == "fake":
        with Meter(model, optimizer, held=given) as meter:
            step()
        assert sum(meter.at_peak.values()) == meter.peak
        return meter.peak
    states = [value for state in optimizer.state.values() for value in state.values()]
    return profiled_peak(step, [*model.parameters(), *states, *given])


if __name__ == "__main__":
    kind, rank, world, file = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    if kind == "fake":
        dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
        mesh = init_device_mesh("cpu", (world,))
        with FakeTensorMode(allow_non_fake_inputs=True):
            peak = main(kind, mesh)
    else:
        dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
        peak = main(kind, init_device_mesh("cpu", (world,)))
        dist.barrier()
    print(peak, flush=True)
    dist.destroy_process_group()
