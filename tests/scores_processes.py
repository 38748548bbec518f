"""Scores in one of several gloo processes, alone and shared: `scores_processes.py RANK WORLD FILE`; prints JSON.

For each case and kind of network: both values by block, and how often this process ran the network for each.
"""

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from entprog import plugins
from entprog.config.schema import Config
from entprog.core.blocks import discover_blocks
from entprog.core.processes import sharing
from entprog.core.types import Draw
from entprog.savings.sharding import shard
from toy_vectors import Vectors

CASES: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "cei": ("cei", {}, (4, 4, 4, 4, 4)),
    "cei of one draw": ("cei", {}, (5,)),
    "cei, stable": ("cei", {"stable": 0.5}, (8, 8, 8, 8, 8, 8, 8, 8)),
    "conditions": ("cei", {"sigma": "conditions"}, (4, 4)),
    "conditions of unequal draws": ("cei", {"sigma": "conditions"}, (4, 3)),
    "skip_loss": ("skip_loss", {}, (4, 4, 4, 3)),
    "influence": ("influence", {}, (4, 4, 3)),
    "gradient": ("gradient", {}, (4, 4, 1, 3)),
    "snr": ("gradient", {"norm": "snr"}, (4, 4)),
    "reverse": ("order", {"order": "reverse"}, (4, 4)),
}


def draws(sizes: tuple[int, ...]) -> list[Draw]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for size in sizes:
        x, target, hint = torch.randn(3, size, 8, generator=generator)
        found.append(Draw(x, torch.rand(size, generator=generator), target, {"hint": hint}))
    return found


class Hinted(Vectors):
    """With a condition, which is added to the input."""

    def predict(self, draw: Draw) -> torch.Tensor:
        return self.model(draw.x + draw.condition["hint"], draw.tau)


def scored(case: str, sharded: bool) -> dict[str, Any]:
    name, options, sizes = CASES[case]
    torch.manual_seed(0)
    task = Hinted()
    task.setup(Config())
    if sharded:
        shard(task.model, discover_blocks(task.model), init_device_mesh("cpu", (dist.get_world_size(),)))
    ran: list[int] = []
    task.model.register_forward_pre_hook(lambda *_: ran.append(1))
    score = plugins.load("score", name, **options)
    blocks = discover_blocks(task.model)
    alone = score.score(task, blocks, draws(sizes))
    before = len(ran)
    with sharing():
        shared = score.score(task, blocks, draws(sizes))
    return {
        "alone": alone.values, "shared": shared.values, "errors": [alone.stderr, shared.stderr],
        "samples": [alone.samples, shared.samples], "ran": [before, len(ran) - before],
    }  # fmt: skip


if __name__ == "__main__":
    rank, world, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    kinds = {"whole": False, "sharded": True}
    found = {
        f"{case}, {kind}": scored(case, sharded)
        for kind, sharded in kinds.items()
        for case in CASES
        if not (sharded and case == "snr")
    }
    print(json.dumps(found), flush=True)
    dist.barrier()
    dist.destroy_process_group()
