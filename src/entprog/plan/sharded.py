"""A step of one process among several: what it holds of a sharded network at the peak, and what it sends.

FSDP2 (`savings.sharding.shard`) makes a unit of each block and one of the rest (the root's). Its schedule is followed
over the simulated step of one process, with the samples that one process gets.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from entprog.core.processes import largest_bucket
from entprog.core.types import Role
from entprog.optimizers.base import Gathering
from entprog.plan.compose import Label, Recording, walk
from entprog.plan.inventory import Parts, Tensors, total, weighed
from entprog.plan.recording import Mark
from entprog.plan.simulator import Simulator
from entprog.profiling.subject import Case

CATEGORIES = ("weights", "gradients", "optimizer", "activations", "gathered")
"""Of a process's bytes. "gathered": units that are whole for a time, and the buffers of collective operations."""

Place = tuple[int | None, int]
ROOT: Place = (None, 0)


@dataclass(frozen=True)
class ProcessStep:
    """What an optimizer step takes of each process.

    Attributes:
        peak: the largest sum of live bytes; `by_category` its parts, one for each of `CATEGORIES`.
        carried: bytes of whole tensors that go through each kind of collective operation: of the gathered weights
            ("all_gather"), of the gradients that are reduced and divided ("reduce_scatter"), of gradients that all
            processes, or all copies of a shard, add up ("all_reduce").
        traffic: bytes that each process sends for that, and receives, in a ring.
    """

    peak: int
    by_category: dict[str, int]
    carried: dict[str, int]
    traffic: dict[str, int]


def replicated_step(
    simulator: Simulator, case: Case, active: Collection[str], *, processes: int, adapted: Collection[str] = (),
    with_states: Collection[str] | None = None, optimizer: Any = None,
) -> ProcessStep:  # fmt: skip
    """A step in which every process has the whole network, and gradients are averaged once, after the backward pass.

    The peak is the step's, or that of the averaging, which copies a bucket of gradients at a time.
    """
    step = simulator.step(case, active, adapted=adapted, with_states=with_states, optimizer=optimizer)
    trained, static = simulator.static(case, active, adapted, with_states, optimizer)
    carried = {"all_gather": 0, "reduce_scatter": 0, "all_reduce": weighed(trained)}
    at_step = {**step.by_category, "gathered": 0}
    averaging = {**static, "gradients": weighed(trained), "activations": 0, "gathered": _bucket(trained)}
    at_peak = max(at_step, averaging, key=lambda parts: sum(parts.values()))
    return ProcessStep(sum(at_peak.values()), at_peak, carried, ring(carried, 1, processes))


def sharded_step(
    simulator: Simulator, case: Case, active: Collection[str], *, shards: int, copies: int = 1,
    adapted: Collection[str] = (), with_states: Collection[str] | None = None, optimizer: Any = None,
) -> ProcessStep:  # fmt: skip
    """A step in which each process has one of `shards` shards of the network, of which there are `copies`.

    Gradients of each micro-batch are reduced as soon as a block has them. Adapters come after sharding: each process
    has them whole, and their gradients are averaged over all processes once, after the backward pass.
    """

    def divide(parts: Parts) -> Parts:
        return divided(parts, shards)

    simulator.subject.check(case.shape)
    _, static = simulator.static(case, active, adapted, with_states, optimizer, divide)
    inventory = simulator.inventory
    sizes: dict[Place, int] = {ROOT: weighed(padded(total(inventory.outside.values()), shards))}
    for k, unit in enumerate(simulator.subject.units):
        for i, name in enumerate(unit):
            sizes[k, i] = weighed(padded(inventory.whole(name), shards))
    labels = simulator.labels(active, adapted, case)
    schedule = Schedule(static, sizes, shards, accumulated=case.accumulation > 1)
    schedule.run(simulator.recording(case, active, adapted), labels)
    adapters = simulator.trained(case, active, adapted)[1]
    if adapters:
        schedule.after(_bucket(adapters))
    step = Gathering()
    if optimizer is not None:
        step = optimizer.gathering(_trained(simulator, case, active, adapted), shards=shards, cuda=case.fused)
        schedule.after(step.peak)
    gathered = case.accumulation * schedule.gathered + step.carried
    reduced = case.accumulation * schedule.reduced
    carried = {
        "all_gather": gathered, "reduce_scatter": reduced, "all_reduce": reduced // shards if copies > 1 else 0,
    }  # fmt: skip
    traffic, whole = ring(carried, shards, copies), weighed(adapters)
    carried["all_reduce"] += whole
    traffic["all_reduce"] += ring({"all_reduce": whole}, 1, shards * copies)["all_reduce"]
    return ProcessStep(sum(schedule.at_peak.values()), schedule.at_peak, carried, traffic)


def _trained(
    simulator: Simulator, case: Case, active: Collection[str], adapted: Collection[str]
) -> Iterator[tuple[tuple[int, ...], int, Role]]:
    """Shape, bytes of a value and role of each divided parameter that trains, block by block."""
    order: list[Collection[str]] = [[name] for unit in simulator.subject.units for name in unit]
    for name in order:
        here = [set(names) & set(name) for names in (active, adapted)]
        inside = simulator.trained(replace(case, outside=False), *here)[0]
        yield from ((kind.shape, kind.size, "block") for kind in inside.elements())
    outside = simulator.trained(case, (), ())[2]
    yield from ((kind.shape, kind.size, "outside") for kind in outside.elements())


def _bucket(trained: Parts) -> int:
    """The most bytes of these parameters' gradients that are copied at once to be averaged."""
    return largest_bucket((kind.values, kind.size, times) for kind, times in trained.items())


def ring(carried: Mapping[str, int], shards: int, copies: int) -> dict[str, int]:
    """What each process sends of tensors of these bytes: all but its own part, twice where gradients are added up."""
    share = {"all_gather": 1 - 1 / shards, "reduce_scatter": 1 - 1 / shards, "all_reduce": 2 * (1 - 1 / copies)}
    return {name: round(size * share[name]) for name, size in carried.items()}


def divided(parts: Parts, shards: int) -> Parts:
    """What the first of the processes holds: rows of each parameter, as many as the largest share has."""
    found: Parts = Counter()
    for kind, times in parts.items():
        found[_rows(kind, -(-kind.shape[0] // shards))] += times
    return found


def padded(parts: Parts, shards: int) -> Parts:
    """Parameters with as many rows as it takes to divide them evenly."""
    found: Parts = Counter()
    for kind, times in parts.items():
        found[_rows(kind, -(-kind.shape[0] // shards) * shards)] += times
    return found


def _rows(kind: Tensors, rows: int) -> Tensors:
    return kind._replace(shape=(rows, *kind.shape[1:]))


@dataclass(slots=True)
class _Unit:
    """An FSDP2 unit while a step runs: `whole` says whether its weights are gathered, `on_the_way` that they will be.

    `open` is true between the arrival of its output's gradient and its own gradients' reduction; `grown` are bytes of
    the gradients that are there, `padded` the same divided evenly. `turns` are its calls in the forward pass: the place
    of each among all calls, and whether it gives a gradient to its inputs, which is when its gradients are reduced;
    otherwise that happens at the end of the step. `returns` and `call` are of the call whose backward pass is
    running.
    """

    size: int
    whole: bool = False
    on_the_way: bool = False
    open: bool = False
    returns: bool = False
    call: int = 0
    grown: int = 0
    padded: int = 0
    turns: list[tuple[int, bool]] = field(default_factory=list)


class Schedule:
    """FSDP2's schedule, followed mark by mark: what is gathered, when, and which buffers there are.

    Forward: a unit is gathered into a buffer, copied out of it, and divided again after its call; the buffer goes when
    the next unit has been copied out of its own. Backward: a unit is gathered when its output's gradient is there, and
    the one below it at the same time, into its buffer; when its own gradients are there, they are copied to a buffer
    and reduced, and that buffer goes with the next unit's.

    Attributes:
        at_peak: bytes by category when their sum was largest.
        gathered, reduced: bytes that were gathered, and of gradients that were reduced, evenly divided.
    """

    def __init__(
        self, static: Mapping[str, int], sizes: Mapping[Place, int], shards: int, *, accumulated: bool
    ) -> None:
        self.now = {**dict.fromkeys(CATEGORIES, 0), **static}
        self.units = {place: _Unit(size) for place, size in sizes.items()}
        self.shards, self.accumulated = shards, accumulated
        self.gathered = self.reduced = 0
        self.at_peak = dict(self.now)
        self._total = self._peak = sum(self.now.values())
        self._order: list[Place] = []
        self._kept = self._reducing = 0  # bytes of the buffers that go with the next unit's

    def run(self, recording: Recording, labels: Sequence[Label]) -> None:
        """Follow a whole step."""
        for k, stretch, changes in walk(recording, labels):
            if stretch.unit is None:
                self._leave()
            for delta, event in changes:
                if isinstance(event, Mark):
                    self._at(event, ROOT if event.unit is None else (k, event.block))
                elif event.category != "gradients":  # those are followed by unit: here they go with each call
                    self._add(event.category, delta)
        self._finish()

    def after(self, gathered: int) -> None:
        """What comes after the backward pass, the averaging or the optimizer's step: it takes so many bytes besides."""
        self._add("gathered", -self._reducing)  # the last gradients are reduced
        self._reducing = 0
        self._add("gathered", gathered)
        self._add("gathered", -gathered)

    def _add(self, category: str, delta: int) -> None:
        self.now[category] += delta
        self._total += delta
        if self._total > self._peak:
            self._peak, self.at_peak = self._total, dict(self.now)

    def _at(self, mark: Mark, place: Place) -> None:
        unit = self.units[place]
        if mark.kind == "enter":
            unit.returns = mark.returns
            self._gather(unit)
            self._copy_out(unit, forward=True)
        elif mark.kind == "leave":
            self._divide(unit)
            unit.turns.append((len(self._order), unit.returns))
            self._order.append(place)
            if place == ROOT:
                self._drop_kept()
        elif mark.kind == "back":
            self._back(unit, mark.call)
        elif mark.adapter:  # not FSDP2's: its gradient stays whole, or is added to one that is there
            self._grow(0 if self.accumulated else Tensors(mark.shape, mark.size).bytes)
        else:
            rows = -(-mark.shape[0] // self.shards) * self.shards
            kind = Tensors(mark.shape, mark.size)
            unit.grown += kind.bytes
            unit.padded += _rows(kind, rows).bytes
            self._grow(kind.bytes)

    def _grow(self, size: int) -> None:
        """A gradient is there. No peak yet: the same bytes are among the activations until the next event."""
        self.now["gradients"] += size
        self._total += size

    def _gather(self, unit: _Unit) -> None:
        if unit.whole or unit.on_the_way:
            return
        unit.on_the_way = True
        self.gathered += unit.size
        self._add("gathered", unit.size)

    def _copy_out(self, unit: _Unit, *, forward: bool) -> None:
        if not unit.on_the_way:
            return
        self._add("gathered", unit.size)
        unit.whole, unit.on_the_way = True, False
        if forward:
            self._drop_kept()
            self._kept = unit.size
        else:
            self._add("gathered", -unit.size)

    def _drop_kept(self) -> None:
        self._add("gathered", -self._kept)
        self._kept = 0

    def _divide(self, unit: _Unit) -> None:
        if unit.whole:
            self._add("gathered", -unit.size)
        unit.whole = False

    def _back(self, unit: _Unit, call: int) -> None:
        if unit.open and (call == unit.call or not unit.returns):
            return
        self._leave()
        unit.open, unit.call = True, call
        self._gather(unit)
        self._copy_out(unit, forward=False)
        if unit.turns:
            turn, unit.returns = unit.turns.pop()
            if turn:
                self._gather(self.units[self._order[turn - 1]])

    def _leave(self) -> None:
        """Reduce the gradients of blocks whose backward pass is over, as it has come to another."""
        for place, unit in self.units.items():
            if unit.open and unit.returns and place != ROOT:
                self._reduce(unit)

    def _reduce(self, unit: _Unit) -> None:
        unit.open = False
        self._divide(unit)
        self._add("gathered", -self._reducing)
        self._reducing = 0
        if not unit.grown:
            return
        self._add("gathered", unit.padded)
        self._reducing = unit.padded
        self._add("gradients", -unit.grown)
        part = unit.padded // self.shards
        self._add("gradients", part)
        if self.accumulated:  # it is added to what is there
            self._add("gradients", -part)
        self.reduced += unit.padded
        unit.grown = unit.padded = 0

    def _finish(self) -> None:
        for unit in self.units.values():  # the root's is the first
            self._reduce(unit)
