"""Shared by methods without ranking and schedule: what step i trains is known before training."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from entprog.core.freeze import Freezer
from entprog.core.sizes import SizesByStage, check_lengths, needs_shape
from entprog.core.types import MethodContext, Shape, StepPlan, Workload
from entprog.methods._noise_bands import NoiseBands
from entprog.methods.base import Method, MethodPlugin


@dataclass(frozen=True, kw_only=True)
class Unranked(SizesByStage, NoiseBands, MethodPlugin):
    """Blocks by turn, sizes by stage; a subclass overrides which blocks a turn trains. All methods are pure."""

    ranked: ClassVar[bool] = False
    table: ClassVar[str] = "method_options"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lengths(self.table, self.sizes(), self.stages)

    @property
    def stages(self) -> int:
        """The length of the lists of sizes; 1 without any."""
        return max((len(values) for values in self.sizes().values()), default=1)

    def turn_steps(self, names: Sequence[str], steps: int) -> int:
        """Steps of a turn, in a phase of `steps` steps over these blocks."""
        return steps

    def active(self, turn: int, names: Sequence[str], seed: int) -> tuple[str, ...]:
        """The blocks that train in a turn, of `names` and in their order."""
        return tuple(names)

    def reaches_inputs(self, turn: int, names: Sequence[str], seed: int) -> bool:
        """Whether input-side parameters train in a turn."""
        return True

    def workload(self, i: int, names: Sequence[str], shape: Shape | None, steps: int, seed: int) -> Workload:
        """What step i trains, in a phase of `steps` steps whose full shape is `shape`."""
        turn, band = i // self.turn_steps(names, steps), self.band(i)
        size = self.size_at(i * self.stages // steps, shape)
        if self.noise_edges:
            if size is None:
                raise needs_shape(f"{self.table}.noise_edges")
            size = self.drawn_from(band, size)
        return self.at(band, turn, size, names, seed)

    def at(self, band: int, turn: int, size: Shape | None, names: Sequence[str], seed: int) -> Workload:
        """What a step of a turn trains in a band."""
        return Workload(self.active(turn, names, seed), size, self.reaches_inputs(turn, names, seed))

    def replays(self, i: int, names: Sequence[str], shape: Shape | None, steps: int, seed: int) -> int:
        """The step whose batch step i trains on."""
        return i

    def workloads(
        self, names: Sequence[str], shape: Shape | None, steps: int, seed: int
    ) -> Iterator[tuple[Workload, int]]:
        """What a phase trains, in order, each with its number of steps."""
        ends = {-(-stage * steps // self.stages) for stage in range(self.stages + 1)}
        ends |= set(range(0, steps, self.turn_steps(names, steps)))
        for start, end in pairwise(sorted(ends)):
            counted = Counter(self.workload(i, names, shape, steps, seed) for i in self._distinct(start, end))
            for workload, count in counted.items():
                yield workload, count if self.noise_edges else end - start

    def _distinct(self, start: int, end: int) -> Iterable[int]:
        """The steps of a turn and stage that may differ."""
        return range(start, end) if self.noise_edges else (start,)

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Every shape that a phase of this full shape trains at."""
        return tuple(dict.fromkeys(self.size_at(stage, shape) or shape for stage in range(self.stages)))


class BoundUnranked(Method):
    """The method of one phase. A subclass may use another Freezer, or do something between two turns.

    Args:
        freezer: options of the Freezer.
    """

    freezer_class: ClassVar[type[Freezer]] = Freezer

    def __init__(self, context: MethodContext, plugin: Unranked, **freezer: Any) -> None:
        self.context, self.plugin = context, plugin
        plugin.check_drawn(context)
        if plugin.stages > context.total_steps:
            raise ValueError(
                f"method_options: {plugin.stages} stages, but the phase has {context.total_steps} steps; "
                "give shorter lists or raise steps"
            )
        self.freezer = self.freezer_class(
            context.task.model,
            context.blocks,
            context.optimizer,
            outside=context.outside,
            storage=context.storage,
            **freezer,
        )
        self.names = tuple(context.blocks.names)
        self.turn_steps = plugin.turn_steps(self.names, context.total_steps)
        self.turn = 0
        self.announced = -1

    def plan(self, i: int) -> StepPlan:
        """See `Method.plan`: given by the options."""
        context = self.context
        about = self.names, context.shape, context.total_steps, context.seed
        return StepPlan(self.plugin.workload(i, *about), self.plugin.replays(i, *about), self._stage(i))

    def switch(self) -> None:
        """Called between two turns, with the blocks of the first still active."""
        return

    @contextmanager
    def step(self, i: int) -> Iterator[StepPlan]:
        """See `Method.step`."""
        if i // self.turn_steps != self.turn:
            self.turn = i // self.turn_steps
            self.switch()
        plan = self.plan(i)
        self.freezer.train_only(plan.active, inputs=plan.workload.inputs)
        if self.announced < plan.stage:
            self.announced = plan.stage
            self.context.notify("stage", {"stage": plan.stage, "m": plan.m, "active": list(plan.active)})
        yield plan

    def _stage(self, i: int) -> int:
        """What is reported as a stage: turns where there are several, else the stages of the sizes."""
        turns = self.turn_steps < self.context.total_steps
        return i // self.turn_steps if turns else i * self.plugin.stages // self.context.total_steps

    def state_dict(self) -> dict[str, Any]:
        return {"freezer": self.freezer.state_dict(), "turn": self.turn, "announced": self.announced}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.freezer.load_state_dict(state["freezer"])
        self.turn, self.announced = state["turn"], state["announced"]
