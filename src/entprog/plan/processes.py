"""`entprog plan --gpus N [--shard] [--replicate R]`: what each of several processes holds and sends."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from entprog.config.schema import Config
from entprog.plan.rows import Process
from entprog.plan.sharded import replicated_step, sharded_step
from entprog.profiling.subject import Case
from entprog.savings.in_backward import optimizer_plugin

if TYPE_CHECKING:
    from entprog.plan.estimate import Planner


@dataclass(frozen=True, slots=True)
class Processes:
    """How a run is spread.

    Attributes:
        gpus: processes, one a GPU; each gets an equal share of a batch.
        shard: whether the network is divided by FSDP2, block by block; else every process has all of it.
        replicate: copies of the shards (HSDP); each is divided over gpus / replicate processes.
    """

    gpus: int
    shard: bool = False
    replicate: int = 1

    @property
    def shards(self) -> int:
        return self.gpus // self.replicate if self.shard else 1

    def refused(self, config: Config) -> Iterator[str]:
        """One line for each setting that can't be spread like this."""
        if self.gpus < 1:
            yield f"--gpus {self.gpus}: give 1 or more"
            return
        if self.replicate < 1 or self.gpus % self.replicate:
            choices = _listed([n for n in range(1, self.gpus) if self.gpus % n == 0])
            yield f"--replicate {self.replicate}: does not divide --gpus {self.gpus}; choose {choices}"
        elif self.replicate > 1 and not self.shard:
            yield f"--replicate {self.replicate}: makes copies of shards; add --shard, or leave it out"
        elif self.shard and self.shards == 1:
            yield (
                f"--shard: with --gpus {self.gpus} and --replicate {self.replicate} each copy is on one GPU, so that "
                "nothing is divided; choose more GPUs or fewer copies, or leave --shard out"
            )
        for name, phase in config.phases.items():
            if phase.steps and phase.batch % self.gpus:
                yield f"phases.{name}.batch = {phase.batch}: {self._uneven(phase.batch)}"
        train = config.train
        if train.optimizer_in_backward and self.gpus > 1:
            yield (
                "train.optimizer_in_backward = true: steps on a gradient before the processes have added theirs up; "
                "set it to false for --gpus"
            )
        if not self.shard:
            return
        if config.freeze.storage != "full":
            yield f'freeze.storage = "{config.freeze.storage}": can\'t be sharded yet; set it to "full" for --shard'
        if not optimizer_plugin(train).shards:
            yield (
                f'train.optimizer = "{train.optimizer}": can\'t step shards; choose "adamw", "adamw8bit" or "muon" '
                "for --shard, whose states are divided over the GPUs"
            )

    def check_network(self, planner: "Planner") -> None:
        """Refuse networks that can't be sharded.

        Raises:
            ValueError: weights whose type changes as they freeze, or scalar parameters.
        """
        inventory = planner.simulator.inventory
        if self.shard and inventory.trained_size:
            raise ValueError(
                f'model.dtype = "{planner.config.model.dtype}": weights that change type as they freeze can\'t be '
                'sharded yet; set model.dtype = "float32" for --shard, with train.mixed_precision = "bf16"'
            )
        if self.shard and any(not kind.shape for kind in inventory.everything()):
            raise ValueError(f"--shard: {planner.subject.name} has scalar parameters, which FSDP2 can't divide")

    def share(self, case: Case, phase: str) -> Case:
        """The same step with the samples that one process gets.

        Raises:
            ValueError: the batch can't be divided evenly.
        """
        batch = case.shape.batch
        if batch % self.gpus:
            raise ValueError(f"phases.{phase}: a stage has batches of {batch}: {self._uneven(batch)}")
        return replace(case, shape=replace(case.shape, batch=batch // self.gpus))

    def _uneven(self, batch: int) -> str:
        above = -(-batch // self.gpus) * self.gpus
        below = above - self.gpus
        batches = f"{below} or {above}" if below else f"{above}"
        fewer = [n for n in range(1, min(batch, self.gpus)) if batch % n == 0]
        fewer += [batch] if batch < self.gpus else []
        return (
            f"can't be divided evenly over --gpus {self.gpus}; choose a batch of {batches}, or --gpus {_listed(fewer)}"
        )


def process_of(
    planner: "Planner", phase: str, case: Case, active: Sequence[str], *, adapted: Sequence[str] = (),
    with_states: Collection[str] | None = None, optimizer: Any = None,
) -> Process | None:  # fmt: skip
    """What each process takes of a step; None where there is one process."""
    processes = planner.processes
    if processes is None:
        return None
    own = processes.share(case, phase)
    chosen: dict[str, Any] = {"adapted": adapted, "with_states": with_states, "optimizer": optimizer}
    if processes.shard:
        shards, copies = processes.shards, processes.replicate
        step = sharded_step(planner.simulator, own, active, shards=shards, copies=copies, **chosen)
    else:
        step = replicated_step(planner.simulator, own, active, processes=processes.gpus, **chosen)
    kept = planner.references_kept(own, (*active, *adapted))
    parts = {**step.by_category, "activations": step.by_category["activations"] + kept}
    peak = step.peak + kept
    return Process(own.shape.batch, peak, parts, peak <= planner.hardware.usable, step.carried, step.traffic)


def _listed(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers or [1])
    return f"{', '.join(first)} or {last}" if first else last
