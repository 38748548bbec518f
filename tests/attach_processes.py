"""`attach` in one of several gloo processes: `attach_processes.py CASE RANK WORLD FILE`; prints JSON of what it saw."""

import json
import os
import sys
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn, optim
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import entprog
from entprog.core.types import Draw

STEPS = 8


class Block(nn.Linear):
    """A residual linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input).tanh()


class Net(nn.Module):
    """Four blocks between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inlet, self.head = nn.Linear(8, 8), nn.Linear(8, 8)
        self.blocks = nn.ModuleList(Block(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inlet(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def draw(seed: int, size: int = 4) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    x, target = torch.randn(2, size, 8, generator=generator)
    return Draw(x, torch.rand(size, generator=generator), target)


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[no-any-return]


def weights(net: nn.Module) -> dict[str, Tensor]:
    for module in net.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    return {name: whole(p.detach()).clone() for name, p in net.named_parameters()}


def main(case: str, rank: int, world: int) -> dict[str, Any]:
    kind, score, schedule = case.split("-")
    net = Net()
    model: nn.Module = net
    if kind.startswith("fsdp"):
        mesh = init_device_mesh("cpu", (world,))
        for block in net.blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=kind != "fsdpkeep")
        fully_shard(net, mesh=mesh)
    elif kind == "ddp":
        model = DistributedDataParallel(net, find_unused_parameters=True)
    elif kind == "ddpplain":
        model = DistributedDataParallel(net)
    optimizer = optim.SGD(net.parameters(), 0.1)
    searching = schedule != "linear"
    options = {"stages": 1, "search_steps": 6, "estimator": schedule} if searching else {"stages": 4}
    method = entprog.attach(
        net, optimizer, steps=STEPS, predict=lambda d: model(d.x), probe=[draw(rank)], score=score,
        schedule="adaptive" if searching else "linear", schedule_options=options,
        gradient_checkpointing=kind == "fsdpckpt",
    )  # fmt: skip
    wrong, active = [], []
    for i in range(STEPS):
        with method.step(i) as plan:  # a probe restores its start on entry
            before = weights(net)
            given = draw(1000 + 10 * i + rank)
            (model(given.x) - given.target).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            after = weights(net)
        moved = {".".join(n.split(".")[:-1]) for n, value in after.items() if not torch.equal(value, before[n])}
        active.append(list(plan.active))
        if moved != {*plan.active, "inlet", "head"}:
            wrong.append([i, sorted(moved), list(plan.active)])
    return {
        "order": list(method.rankings[0].names),  # type: ignore[attr-defined]
        "active": active,
        "wrong": wrong,
        "weights": sum(float(value.double().abs().sum()) for value in weights(net).values()),
    }


if __name__ == "__main__":
    case, rank, world, file = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    seen: dict[str, Any] = {}
    for each in case.split(","):
        try:
            seen[each] = main(each, rank, world)
        except ValueError as error:
            seen[each] = str(error)
        dist.barrier()
    print(json.dumps(seen), flush=True)
    os._exit(0)  # a DistributedDataParallel that is still alive would wait for the others here
