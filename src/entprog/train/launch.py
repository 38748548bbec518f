"""Training in the processes that torchrun starts: their group, what they must have in common, and the first error."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from entprog.config.load import write_config
from entprog.config.schema import Config
from entprog.core.processes import by_first, decided, first, gathered, several, world
from entprog.savings.in_backward import optimizer_plugin
from entprog.train.checkpoint import checkpoints

__all__ = [
    "check_processes",
    "check_same",
    "launched",
    "leave_group",
    "lost_process",
    "process_group",
    "resumed",
    "together",
]

T = TypeVar("T")
LOST = re.compile("gloo|NCCL|ProcessGroup|[Cc]onnection (closed|reset)|[Tt]imed out")
"""What errors of torch.distributed contain when another process can't be reached."""


def launched() -> int:
    """How many processes torchrun has started; 1 without it.

    Raises:
        ValueError: WORLD_SIZE without the other variables that torchrun sets.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    count = int(world) if world.isdigit() else 1
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if count > 1 and (missing := [name for name in needed if not os.environ.get(name)]):
        raise ValueError(
            f"WORLD_SIZE = {world}, but {', '.join(missing)} not set; start it with "
            f"torchrun --nproc-per-node {world} -m entprog train ..., or unset WORLD_SIZE"
        )
    return count


@contextmanager
def process_group(config: Config) -> Iterator[Config]:
    """Join the processes of torchrun; yields the configuration with this process's device.

    CPU tensors and decisions go by gloo, tensors of GPUs by NCCL. Does nothing in one process.

    Raises:
        ValueError: fewer GPUs than processes on this machine.
    """
    if launched() == 1 or dist.is_initialized():
        yield config
        return
    local = int(os.environ["LOCAL_RANK"])
    cuda = config.device in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"torchrun: process {local} of this machine has no GPU of its own ({torch.cuda.device_count()} found); "
                f"give --nproc-per-node {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local)
        config = replace(config, device=f"cuda:{local}")
    elif config.device.startswith("cuda:"):
        raise ValueError(
            f'device = "{config.device}": each process of torchrun needs a GPU of its own; set device = "cuda"'
        )
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=config.distributed.timeout_minutes))
    try:
        yield config
    finally:
        leave_group(waiting=sys.exc_info()[0] is None)


def resumed(run: Path, resume: str | None) -> str | None:
    """Where to go on: as asked for, or at the last checkpoint where torchrun has restarted the processes by itself.

    What a restarted run has written before its first checkpoint is removed.
    """
    if resume is not None or int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) < 1 or not run.is_dir():
        return resume
    if decided(bool(checkpoints(run))):
        return "latest"
    by_first(lambda: shutil.rmtree(run, ignore_errors=True))
    return None


def lost_process(error: BaseException) -> str | None:
    """What to say of an error that means that another process has ended; None for any other error."""
    if not several() or not isinstance(error, RuntimeError) or not LOST.search(str(error)):
        return None
    return (
        "another process of this run has ended or does not answer; torchrun names it below (its own lines say why). "
        "Go on with --resume-from-checkpoint latest"
    )


def leave_group(*, waiting: bool = True) -> None:
    """Leave the group, where there is one; `waiting`: only once every process does."""
    if not dist.is_initialized():
        return
    if waiting:
        dist.barrier()  # gloo may abort a process that is still sending
    dist.destroy_process_group()


def together(work: Callable[[], T]) -> T:
    """`work` on every process; if it is refused on one, all stop, and only the first prints why.

    Raises:
        ValueError: in the first process: the first refusal, with the rank that it came from.
        SystemExit: 2, in the others.
    """
    if not several():
        return work()
    result: T | None = None
    refused: Exception | None = None
    try:
        result = work()
    except (ValueError, OSError) as error:
        refused = error
    reasons = gathered(None if refused is None else str(refused))
    for rank, reason in enumerate(reasons):
        if reason is None:
            continue
        if not first():
            raise SystemExit(2)
        raise refused or ValueError(f"rank {rank}: {reason}")
    return result  # type: ignore[return-value]


def check_same(what: str, value: Any, remedy: str) -> None:
    """Refuse values that differ between processes; called by all of them, in `together` or before it.

    Raises:
        ValueError: naming two ranks and their values.
    """
    for other, theirs in enumerate(values := gathered(value)):
        if theirs != values[0]:
            raise ValueError(f"{what}: rank 0 has {values[0]!r}, rank {other} has {theirs!r}; {remedy}")


def check_processes(config: Config) -> None:
    """Refuse, before any work, recipes that differ between processes and batches that they can't divide.

    Raises:
        ValueError: naming key, value and remedy; in the first process.
        SystemExit: 2, in the others.
    """
    if not several():
        return
    together(lambda: _same_recipe(config))
    together(lambda: _divisible(config))
    together(lambda: _possible(config))


def _same_recipe(config: Config) -> None:
    texts = gathered(write_config(config))
    for rank, text in enumerate(texts):
        if text != texts[0]:
            pairs = zip(texts[0].splitlines(), text.splitlines(), strict=False)
            line, other = next(((a, b) for a, b in pairs if a != b), ("", "more keys"))
            raise ValueError(f"recipe: rank 0 has {line!r}, rank {rank} has {other!r}; give every process the same one")


def _divisible(config: Config) -> None:
    count = world()
    for name, phase in config.phases.items():
        if phase.steps and phase.batch % count:
            raise ValueError(
                f"phases.{name}.batch = {phase.batch}: can't be divided among {count} processes; give a multiple of "
                f"{count} (and fewer gradient_accumulation_steps), or --nproc-per-node as a divisor of {phase.batch}"
            )


def _possible(config: Config) -> None:
    """One line for each key that several processes can't do, or that shards can't."""
    train, shard, found = config.train, config.distributed.shard, []
    if train.optimizer_in_backward:
        found.append("train.optimizer_in_backward = true: steps before gradients are averaged; set it to false")
    if shard and train.memory_budget:
        found.append(
            f'train.memory_budget = "{train.memory_budget}": can\'t be fitted to shards; leave it out, and see what '
            f"entprog plan --gpus {world()} --shard says"
        )
    if shard and train.mixed_precision == "fp16":
        found.append('train.mixed_precision = "fp16": its loss scale is not judged over shards; choose "bf16" or "no"')
    if shard and not optimizer_plugin(train).shards:
        found.append(
            f'train.optimizer = "{train.optimizer}": can\'t step shards; choose "adamw", "adamw8bit" or "muon", '
            "or distributed.shard = false"
        )
    if shard and config.freeze.storage != "full":
        found.append(f'freeze.storage = "{config.freeze.storage}": shards are held as they are; set it to "full"')
    if shard and config.freeze.states == "offload":
        found.append('freeze.states = "offload": shards of states are not moved; choose "keep" or "drop"')
    if shard and train.compile != "off":
        found.append(f'train.compile = "{train.compile}": not with distributed.shard = true; set it to "off"')
    if world() % config.distributed.replicate:
        found.append(
            f"distributed.replicate = {config.distributed.replicate}: does not divide {world()} processes; give a "
            "divisor"
        )
    if found:
        raise ValueError("\n".join(found))
