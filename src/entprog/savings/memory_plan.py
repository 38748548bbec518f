"""`train.memory_budget`: every stage runs in the cheapest way that fits, or training is refused before it starts."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from entprog.config.schema import Config
from entprog.core.blocks import Blocks
from entprog.core.freeze import States
from entprog.core.processes import largest_bucket, several, world
from entprog.core.select import deepest_sets
from entprog.core.types import Draw, Ranking, Schedule, Shape, Trainable, Trial, Workload
from entprog.profiling.units import parse_bytes, written_bytes
from entprog.savings.in_backward import optimizer_plugin
from entprog.savings.options import Fit, Option, fit, ways
from entprog.savings.simulated_step import simulate_step

Key = tuple[frozenset[str], Shape]


@dataclass
class MemoryPlan:
    """The budget of a phase, and how each of its workloads runs in it.

    Attributes:
        order: the phase's blocks, the lowest first.
        shape: the phase's own.
        draw: gives a draw of one sample of a shape.
        sizes: resolutions that the data set stores.
        reserved: bytes that are always in use: EMA weights, fixed draws.
        states: what happens to optimizer states of frozen blocks.
        trainable: ids of the parameters that may train in this phase, taken before any was frozen.
        processes: how many have a share of each batch; the budget is that of one of them.
        options: how a workload runs, once `take` was called for it.
    """

    task: Trainable
    blocks: Blocks
    config: Config
    order: tuple[str, ...]
    shape: Shape
    draw: Callable[[Shape], Draw]
    sizes: Sequence[int]
    budget: int
    reserved: int
    states: States
    trainable: frozenset[int]
    processes: int = 1
    options: dict[Key, Option] = field(default_factory=dict)
    known: dict[tuple[Option, Shape, tuple[str, ...]], Any] = field(default_factory=dict)

    def try_to_fit(
        self, active: Sequence[str], shape: Shape, kept: Iterable[str] = (), beside: int = 0, *, leanest: bool = False
    ) -> Fit:
        """The cheapest way to train `active` at `shape`, with states of `kept` blocks and `beside` more bytes.

        `leanest` tries only the option that takes the least memory: where that does not fit, nothing does.
        """
        frozen = tuple(name for name in self.order if name in set(kept) - set(active)) if self.states == "keep" else ()
        batch = shape.batch // self.processes

        def measure(option: Option) -> Any:
            key = (option, shape, frozen)
            if key not in self.known:
                self.known[key] = simulate_step(
                    self.task, self.blocks, option, self.draw(shape), batch, self.config.train,
                    trainable=self.trainable, kept=frozen,
                )  # fmt: skip
            return self.known[key]

        ordered = tuple(name for name in self.order if name in set(active))
        checkpointing = self.config.train.gradient_checkpointing
        options = ways(ordered, batch, states=self.states, checkpointing=checkpointing)
        if self.config.train.optimizer_in_backward:  # it would step at each piece
            options = [option for option in options if option.pieces == 1]
        return fit(options[-1:] if leanest else options, measure, self.budget, reserved=self.reserved + beside)

    def take(
        self, workload: Workload, ranking: Ranking | None, kept: Iterable[str] = (), beside: int = 0
    ) -> Workload | None:
        """The workload that fits: itself, or with as many blocks further up; None where nothing fits.

        Without a ranking its blocks do not change.
        """
        shape, m = workload.shape or self.shape, len(workload.active)
        kept = list(kept)
        sets = deepest_sets(ranking, self.order, m) if ranking else [workload.active]
        for active in sets:
            if not self.try_to_fit(active, shape, kept, beside, leanest=True).fits:
                continue
            found = self.try_to_fit(active, shape, kept, beside)
            if found.fits:
                self.options[frozenset(active), shape] = found.option
                return workload if set(active) == set(workload.active) else replace(workload, active=tuple(active))
        return None

    def option(self, workload: Workload) -> Option:
        """How to run a workload that `take` returned."""
        return self.options[self.key(workload)]

    def key(self, workload: Workload) -> Key:
        """Key of a workload that ignores the order of its blocks."""
        return frozenset(workload.active), workload.shape or self.shape

    def refusal(self, stage: int, workload: Workload, beside: int = 0) -> ValueError:
        """The error where nothing fits: what is missing, and what would fit."""
        shape, m, total = workload.shape or self.shape, len(workload.active), self.reserved + beside
        top = self.try_to_fit(self.order[-m:], shape, (), beside, leanest=True)
        label = f"train.memory_budget = {self.config.train.memory_budget!r}: "
        weights = top.cost.by_category.get("weights", 0)
        if weights + total > self.budget:
            more = f" and {written_bytes(total)} of averaged weights, draws and copies" if total else ""
            return ValueError(f"{label}the weights alone take {written_bytes(weights)}{more}; raise it")
        return ValueError(
            f"{label}stage {stage} with {m} of {len(self.order)} blocks, {shape.frames} frames of {shape.size} px"
            f" in batches of {shape.batch} takes at least {written_bytes(top.cost.peak + total)}; "
            f"{self._would_fit(m, shape, beside)}"
        )

    def _would_fit(self, m: int, shape: Shape, beside: int) -> str:
        def fits(count: int, size: Shape) -> bool:
            return self.try_to_fit(self.order[-count:], size, (), beside, leanest=True).fits

        found = []
        if blocks := _largest(range(1, m), lambda count: fits(count, shape)):
            found.append(f"the last {blocks} blocks")
        batches = range(self.processes, shape.batch, self.processes)
        if batch := _largest(batches, lambda count: fits(m, replace(shape, batch=count))):
            found.append(f"batches of {batch}")
        smaller = sorted(size for size in self.sizes if size < shape.resolution)
        if side := _largest(smaller, lambda size: fits(m, replace(shape, resolution=size))):
            found.append(f"{side} px")
        if frames := _largest(range(1, shape.frames), lambda count: fits(m, replace(shape, frames=count))):
            found.append(f"{frames} frames")
        return (
            f"what would fit, one at a time: {', '.join(found)}" if found else "nothing smaller fits either; raise it"
        )


def _largest(values: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The largest of rising values that fits, where all below a fitting one fit, too."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(values[middle]) else (low, middle)
    return values[low - 1] if low else None


@dataclass(frozen=True)
class Fitted:
    """A schedule whose candidates all fit: each as it is, or with blocks further up, or left out."""

    inside: Schedule
    memory_plan: MemoryPlan
    answers: dict[Any, tuple[tuple[Workload, ...], dict[Key, Option]]] = field(default_factory=dict, compare=False)

    @property
    def stages(self) -> int:
        return self.inside.stages

    @property
    def search_steps(self) -> int:
        return self.inside.search_steps

    @property
    def estimator(self) -> str:
        return self.inside.estimator

    def candidates(
        self, stage: int, ranking: Ranking, shape: Shape | None, last: Workload | None
    ) -> tuple[Workload, ...]:
        """The candidates of the schedule that fit.

        Raises:
            ValueError: none does; it says what would.
        """
        key = (stage, ranking, shape, last)
        if key not in self.answers:
            named = self.inside.candidates(stage, ranking, shape, last)
            kept, beside = self.kept(stage, ranking, shape), self.copies(len(named))
            taken = [self.memory_plan.take(workload, ranking, kept, beside) for workload in named]
            found = tuple(dict.fromkeys(workload for workload in taken if workload is not None))
            if not found:
                raise self.memory_plan.refusal(stage, named[0], beside)
            self.answers[key] = (
                found,
                {self.memory_plan.key(workload): self.memory_plan.option(workload) for workload in found},
            )
        found, options = self.answers[key]
        self.memory_plan.options.update(options)  # of this stage: an earlier one may have had more bytes left
        return found

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return self.inside.shapes(shape)

    def choose(self, trials: Sequence[Trial], cost: str) -> tuple[Workload, dict[Workload, float]]:
        return self.inside.choose(trials, cost)

    def kept(self, stage: int, ranking: Ranking, shape: Shape | None) -> set[str]:
        """Blocks that may have trained by the end of a stage, whose states are in memory where they are kept."""
        earlier = (self.inside.candidates(k, ranking, shape, None) for k in range(stage + 1))
        return {name for candidates in earlier for workload in candidates for name in workload.active}

    def copies(self, candidates: int) -> int:
        """Bytes that a probe of this many candidates keeps: weights and states at its start and at each end."""
        if self.estimator != "probe" or candidates < 2:
            return 0
        memory_plan, train = self.memory_plan, self.memory_plan.config.train
        plugin = optimizer_plugin(train)
        inside = {id(p) for block in memory_plan.blocks for p in block.parameters()}
        return (candidates + 1) * sum(
            _bytes(p) + plugin.state_bytes(p, "block" if id(p) in inside else "outside")
            for p in memory_plan.task.model.parameters()
            if id(p) in memory_plan.trainable
        )

    def unchanged(self, ranking: Ranking) -> Iterator[bool]:
        """For each stage whether some candidate fits with the blocks that the schedule names."""
        shape = self.memory_plan.shape
        for stage in range(self.stages):
            named = self.inside.candidates(stage, ranking, shape, None)
            kept, beside = self.kept(stage, ranking, shape), self.copies(len(named))
            yield any(self.memory_plan.try_to_fit(w.active, w.shape or shape, kept, beside).fits for w in named)


def fit_phase(
    memory_plan: MemoryPlan, schedule: Schedule | None, ranking: Ranking | None, planned: Iterable[Workload] = ()
) -> tuple[Schedule | None, MemoryPlan]:
    """The schedule with candidates that fit, and how they run; both checked for every stage before training starts.

    States of frozen blocks are kept as the recipe says where that fits, else offloaded on a CUDA device; elsewhere
    they are dropped, unless a search would need them later.

    Args:
        planned: what a method without a schedule will train; all blocks at the phase's shape if nothing is named.

    Raises:
        ValueError: a stage, or one of the planned workloads, does not fit.
    """
    if schedule is None or ranking is None:
        for stage, workload in enumerate(dict.fromkeys(planned) or (Workload(memory_plan.order, memory_plan.shape),)):
            if memory_plan.take(workload, None) is None:
                raise memory_plan.refusal(stage, workload)
        return schedule, memory_plan
    fitted = Fitted(schedule, memory_plan)
    if memory_plan.states == "keep" and not all(fitted.unchanged(ranking)):
        on_device = memory_plan.task.device.type == "cuda"
        if on_device or schedule.estimator == "none":
            memory_plan = replace(memory_plan, states="offload" if on_device else "drop")
            fitted = Fitted(schedule, memory_plan)
    for stage in range(schedule.stages):
        fitted.candidates(stage, ranking, memory_plan.shape, None)
    return fitted, memory_plan


def described(memory_plan: MemoryPlan) -> Iterator[dict[str, Any]]:
    """One line for each fitted workload: how it runs, what it takes, and why it does not run cheaper."""
    for (active, shape), option in memory_plan.options.items():
        same = {
            key: cost for key, cost in memory_plan.known.items() if key[1] == shape and set(key[0].active) == active
        }
        peaks = {key[0]: cost.peak for key, cost in same.items()}
        dearest = max(peaks.values())
        yield {
            "m": len(active), "lowest": next(name for name in memory_plan.order if name in active),
            "resolution": shape.resolution, "frames": shape.frames, "batch": shape.batch, "tokens": shape.tokens,
            "checkpointing": option.checkpointing, "pieces": option.pieces, "states": option.states,
            "bytes_peak": peaks[option] + memory_plan.reserved, "bytes_without": dearest + memory_plan.reserved,
            "bytes_reserved": memory_plan.reserved,
        }  # fmt: skip


def in_words(line: dict[str, Any]) -> str:
    """A line of `described` for the terminal."""
    how = [f"{line['pieces']} pieces a batch"] if line["pieces"] > 1 else []
    how += ["checkpointing"] if line["checkpointing"] else []
    how += [f"states: {line['states']}"] if line["states"] != "keep" else []
    return (
        f"fit: {line['m']} blocks from {line['lowest']} at {line['resolution']} px x {line['frames']}: "
        f"{written_bytes(line['bytes_peak'])} with {', '.join(how) or 'nothing special'}"
        + (f" (else {written_bytes(line['bytes_without'])})" if how else "")
    )


def check_budget(config: Config, task: Trainable) -> None:
    """Refuse at once a budget that no phase fits in.

    Raises:
        ValueError: the budget is below the weights.
    """
    budget = parse_bytes(config.train.memory_budget)
    if budget is None or config.freeze.storage != "full":
        return
    weights = sum(map(_bytes, (*task.model.parameters(), *task.model.buffers())))
    if weights > budget:
        label = f"train.memory_budget = {config.train.memory_budget!r}"
        raise ValueError(f"{label}: the weights alone take {written_bytes(weights)}; raise it")


def make_memory_plan(
    config: Config, task: Trainable, blocks: Blocks, order: Sequence[str], shape: Shape,
    draw: Callable[[Shape], Draw], sizes: Sequence[int], fixed: Sequence[Draw],
    never_trained: Collection[str] = (), cached_steps: int = 0, recompute: bool = False,
) -> MemoryPlan:  # fmt: skip
    """The memory plan of a phase that has a budget.

    Args:
        fixed: draws that stay in memory for the whole phase.
        never_trained: names of parameters that never train in this phase.
        cached_steps: steps whose samples come again, for which the prefix cache keeps hidden states.
        recompute: whether the phase recomputes activations.
    """
    budget = parse_bytes(config.train.memory_budget)
    assert budget is not None, "needs train.memory_budget"
    reserved = sum(_bytes(tensor) for each in fixed for tensor in each.tensors().values())
    if config.train.ema_decay:
        reserved += sum(4 * p.numel() for p in task.model.parameters())
    if several():  # gradients are added up over the processes in one piece after the other
        trained = [p for p in task.model.parameters() if p.requires_grad]
        reserved += largest_bucket((p.numel(), p.element_size(), 1) for p in trained)
    if config.train.reference_cache == "device":
        reserved += config.train.reference_cache_bytes
    if task.device.type == "cpu" and config.train.echo_cache == "host":
        draws = cached_steps * config.train.gradient_accumulation_steps
        reserved += draws * task.hidden_bytes(replace(shape, batch=shape.batch // world()))
    named = task.model.named_parameters()
    trainable = frozenset(id(p) for name, p in named if p.requires_grad and name not in set(never_trained))
    states = config.freeze.states
    config = replace(config, train=replace(config.train, gradient_checkpointing=recompute))  # as the phase has it
    return MemoryPlan(
        task, blocks, config, tuple(order), shape, draw, sizes, budget, reserved, states, trainable, world()
    )


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
