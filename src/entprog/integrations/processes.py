"""`attach` under DistributedDataParallel and FSDP2: every process ranks and decides the same."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from entprog.core.sharded import is_sharded
from entprog.core.types import Scores

__all__ = ["agreeing", "check_options", "check_wrappers", "mean_scores", "several", "unsynchronised", "wrappers_in"]


def several() -> bool:
    """Whether this is one of several processes of a group, each of which calls `attach`."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def check_options(model: nn.Module, probe: Sequence[Any], options: dict[str, Any]) -> None:
    """What can't be right in several processes is refused; every process must call this.

    Raises:
        ValueError: a way of sharding, an option, or probes that differ in size between processes.
    """
    for module in model.modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise ValueError(
                "model: FullyShardedDataParallel (FSDP1) joins parameters into flat ones, which can't be frozen block "
                "by block; use torch.distributed.fsdp.fully_shard (FSDP2)"
            )
    if any(hasattr(p, "ds_id") for p in model.parameters()):
        raise ValueError(
            "model: DeepSpeed's ZeRO stage 3 holds the parameters elsewhere, so they can't be scored; use stage 1 "
            "or 2, or torch.distributed.fsdp.fully_shard"
        )
    if any(is_sharded(p) for p in model.parameters()):
        if options["inputs_every"] != 1:
            raise ValueError(
                f"inputs_every = {options['inputs_every']}: which parameters are on the input side is not found under "
                "fully_shard; leave it at 1"
            )
        if options["states"] == "offload":
            raise ValueError("states = 'offload': sharded optimizer states are not moved; choose 'keep' or 'drop'")
    if several():
        sizes = _gathered([draw.size for draw in probe])
        if any(each != sizes[0] for each in sizes):
            raise ValueError(
                f"probe: the processes gave draws of {sizes} samples; give each as many draws of the same sizes, or "
                "the same probe"
            )


@contextmanager
def wrappers_in() -> Iterator[list[DistributedDataParallel]]:
    """The DistributedDataParallel modules that are called inside the context.

    Without a process group there are none, and no global hook, of which `torch.compile` would warn.
    """
    seen: list[DistributedDataParallel] = []
    if not (dist.is_available() and dist.is_initialized()):
        yield seen
        return

    def note(module: nn.Module, arguments: Any) -> None:
        if isinstance(module, DistributedDataParallel) and module not in seen:
            seen.append(module)

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def check_wrappers(wrappers: Sequence[DistributedDataParallel]) -> None:
    """The wrapper must expect that blocks have no gradient.

    Raises:
        ValueError: it does not.
    """
    for wrapper in wrappers:
        if not wrapper.find_unused_parameters or wrapper.static_graph:
            raise ValueError(
                "model: DistributedDataParallel waits for the gradients of blocks that are frozen later; construct it "
                "with find_unused_parameters=True and without static_graph"
            )


@contextmanager
def unsynchronised(wrappers: Sequence[DistributedDataParallel]) -> Iterator[None]:
    """Scores take gradients without a backward that the wrapper sees, so it must not wait for one."""
    with ExitStack() as stack:
        for wrapper in wrappers:
            stack.enter_context(wrapper.no_sync())
        yield


def mean_scores(scores: Scores) -> Scores:
    """The mean over processes of each block's score, the same in all of them.

    Raises:
        ValueError: the processes found different blocks.
    """
    gathered = _gathered((dict(scores.values), dict(scores.stderr), scores.samples))
    if any(list(values) != list(scores.values) for values, _, _ in gathered):
        raise ValueError("blocks: the processes found different blocks; build the same model in each")
    count = len(gathered)
    values = {name: sum(each[name] for each, _, _ in gathered) / count for name in scores.values}
    stderr = {
        name: sum(each[name] ** 2 for _, each, _ in gathered) ** 0.5 / count
        for name in scores.stderr
        if all(name in each for _, each, _ in gathered)
    }
    return replace(scores, values=values, stderr=stderr, samples=sum(samples for _, _, samples in gathered))


def agreeing() -> Callable[[Sequence[float]], list[float]] | None:
    """The mean over processes of each number of a list; None in one process."""
    return _mean if several() else None


def _mean(values: Sequence[float]) -> list[float]:
    gathered = _gathered(list(values))
    return [sum(column) / len(gathered) for column in zip(*gathered, strict=True)]


def _gathered(value: Any) -> list[Any]:
    """What each process gave, in the order of the ranks."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered
