"""`attach` in one of several gloo processes: `attach_processes.py CASES RANK WORLD FILE`; prints JSON of what it saw.

A case is "wrapper-score-schedule". In one process the draws are those of two ranks together.
"""

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
from entprog.core.blocks import discover_blocks
from entprog.core.types import Draw
from entprog.scores.gradient import Gradient

STEPS = 8


class Block(nn.Linear):
    """A residual linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input).tanh()


class Net(nn.Module):
    """Four blocks between two linear layers."""

    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inlet, self.head = nn.Linear(8, 8), nn.Linear(8, 8)
        self.blocks = nn.ModuleList(Block(8, 8) for _ in range(4))
        self.register_buffer("scale", torch.full((), 2.0) if scaled else None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inlet(x) if self.scale is None else self.inlet(x) * self.scale
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def draw(seed: int, size: int = 4) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    x, target = torch.randn(2, size, 8, generator=generator)
    return Draw(x, torch.rand(size, generator=generator), target)


def drawn(seed: int, rank: int, world: int) -> Draw:
    if world > 1:
        return draw(seed + rank)
    both = draw(seed), draw(seed + 1)
    return Draw(*(torch.cat([getattr(each, name) for each in both]) for name in ("x", "tau", "target")))


class _Task:
    """A network and its loss, for scores."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def predict(self, draw: Draw) -> Tensor:
        result: Tensor = self.model(draw.x)
        return result

    def losses(self, draw: Draw) -> Tensor:
        return (self.predict(draw) - draw.target).pow(2).mean(1)

    def loss(self, draw: Draw) -> Tensor:
        return self.losses(draw).mean()


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[no-any-return]


def weights(net: nn.Module) -> dict[str, Tensor]:
    for module in net.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    return {name: whole(p.detach()).clone() for name, p in net.named_parameters()}


def prefixed(rank: int, world: int, keep: int) -> dict[str, Any]:
    """Under DistributedDataParallel, with a buffer that it sends before each forward; each rank has its own keys."""
    net = Net(scaled=True)
    model = DistributedDataParallel(net, find_unused_parameters=True)
    optimizer = optim.SGD(net.parameters(), 0.1)
    method = entprog.attach(
        model, optimizer, steps=STEPS, predict=lambda d: model(d.x), probe=[drawn(0, rank, world)], score="order",
        score_options={"order": "last"}, schedule="fixed", schedule_options={"m": (2,)}, inputs_every=0,
        prefix_cache=keep,
    )  # fmt: skip
    calls: list[int] = []
    net.blocks[0].register_forward_hook(lambda module, args, output: calls.append(int(output.isfinite().all())))
    for i in range(STEPS):
        seed = i // 2 if rank else i // 4
        given = draw(100 * (rank + 1) + seed)
        with method.step(i), method.batch(seed):
            (model(given.x) - given.target).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return {"run": sum(calls), "weights": [float(value.double().abs().sum()) for value in weights(net).values()]}


def main(case: str, rank: int, world: int) -> dict[str, Any]:
    kind, score, schedule = case.split("-")
    if kind == "ddpprefix":
        return prefixed(rank, world, int(schedule))
    net = Net()
    model: nn.Module = net
    if kind.startswith("fsdp"):
        mesh = init_device_mesh("cpu", (world,))
        for block in net.blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=kind != "fsdpkeep")
        fully_shard(net, mesh=mesh)
    elif kind in ("ddp", "ddpwhole"):
        model = DistributedDataParallel(net, find_unused_parameters=True)
    elif kind == "ddpplain":
        model = DistributedDataParallel(net)
    optimizer = optim.SGD(net.parameters(), 0.1)
    searching = schedule != "linear"
    options = {"stages": 1, "search_steps": 6, "estimator": schedule} if searching else {"stages": 4}
    method = entprog.attach(
        model if kind == "ddpwhole" else net, optimizer, steps=STEPS, predict=lambda d: model(d.x),
        probe=[draw(0, 4 + rank) if kind == "uneven" else drawn(0, rank, world)], score=score, cost="flops",
        schedule="adaptive" if searching else "linear", schedule_options=options,
        gradient_checkpointing=kind == "fsdpckpt", inputs_every=0 if kind == "fsdpinputs" else 1,
        prefix_cache=int(kind == "fsdpprefix"),
    )  # fmt: skip
    scores = (
        Gradient().score(_Task(net), discover_blocks(net), [drawn(0, rank, world)]) if kind in ("one", "fsdp") else None
    )
    wrong, active = [], []
    for i in range(STEPS):
        with method.step(i) as plan:  # a probe restores its start on entry
            before = weights(net)
            given = drawn(1000 + 10 * i, rank, world)
            (model(given.x) - given.target).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            after = weights(net)
        moved = {".".join(n.split(".")[:-1]) for n, value in after.items() if not torch.equal(value, before[n])}
        active.append([name.removeprefix("module.") for name in plan.active])
        if moved != {*active[-1], "inlet", "head"}:
            wrong.append([i, sorted(moved), active[-1]])
    return {
        "order": [name.removeprefix("module.") for name in method.rankings[0].names],  # type: ignore[attr-defined]
        "scores": dict(scores.values) if scores else {},
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
