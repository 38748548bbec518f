"""Several processes that train one model compare what must be equal: active blocks, and weights that all have."""

import zlib

import torch
from torch import nn

from entprog.config.schema import DistributedConfig
from entprog.core.processes import numbers, several, world
from entprog.core.sharded import is_sharded
from entprog.core.types import StepPlan

__all__ = ["check_agreement", "checksums"]


@torch.no_grad()
def checksums(model: nn.Module) -> tuple[float, float]:
    """Sums of this process's trainable weights: of those that are whole, and of its parts of sharded ones."""
    sums = [0.0, 0.0]
    for parameter in model.parameters():
        if parameter.requires_grad:
            own = parameter.to_local() if is_sharded(parameter) else parameter  # type: ignore[attr-defined]
            sums[is_sharded(parameter)] += float(own.sum(dtype=torch.float64))
    return sums[0], sums[1]


def check_agreement(model: nn.Module, plan: StepPlan, config: DistributedConfig, step: int) -> None:
    """Compare the processes every `distributed.checksum_steps` steps; all must call this at each step.

    Raises:
        RuntimeError: naming two ranks and what differs, with both values.
    """
    if not several() or not config.checksum_steps or step % config.checksum_steps:
        return
    rows = numbers([float(zlib.crc32(repr(plan.active).encode())), *checksums(model)])
    shards = world() // config.replicate  # rank r has part r % shards of one of the copies
    for rank, row in enumerate(rows):
        for k, what in enumerate(("the active blocks", "the weights", "copies of a shard of the weights")):
            other = rank % shards if k == 2 else 0
            if row[k] != rows[other][k]:
                raise RuntimeError(
                    f"step {step}: {what} differ between ranks {other} and {rank} (checksums {rows[other][k]!r} and "
                    f"{row[k]!r}); go on from the last checkpoint, and compare the machines' processors and versions"
                )
