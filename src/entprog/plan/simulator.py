"""Bytes, FLOPs and operations of a training step that never runs: fake tensors, and only units that differ."""

import gc
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from entprog import plugins
from entprog.core.blocks import Block
from entprog.core.types import Role
from entprog.nets import layers
from entprog.plan.compose import Label, Recording, Timeline, compose, in_passes, shortened_to, windows
from entprog.plan.inventory import Inventory, Parts, counted, packed_bytes, total, weighed
from entprog.plan.low_rank import low_rank_added
from entprog.plan.recording import Operation, Recorder
from entprog.profiling.subject import Case, Subject
from entprog.savings.frozen_storage import FrozenStorage, fresh_tables
from entprog.savings.weight_precision import match_training

NORMS = ("layer_norm", "group_norm", "rms_norm")
"""What autocast runs in float32 on a CUDA device, and in bfloat16 on a CPU."""


@dataclass(frozen=True)
class Step:
    """What one optimizer step comes to.

    Attributes:
        trained: parameters that train.
        lowest: place of the lowest active block among those that the phase may train, None without any.
        peak: largest sum of live bytes; `by_category` its parts: weights, gradients, optimizer, activations.
        flops: of all micro-batches.
        operations: every operation that runs, with its count; `updates` are the optimizer's, by element size.
    """

    trained: int
    lowest: int | None
    peak: int
    by_category: dict[str, int]
    flops: int
    operations: Counter[Operation]
    updates: dict[int, int]


class Simulator:
    """Simulates steps of one network; what was simulated once serves every active set that it can tell of."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.inventory = Inventory(subject)
        self.recordings: dict[Case, list[Recording]] = {}
        self.timelines: dict[tuple[Case, frozenset[str], frozenset[str]], Timeline] = {}
        self.simulated = 0

    def step(
        self,
        case: Case,
        active: Collection[str],
        *,
        adapted: Collection[str] = (),
        with_states: Collection[str] | None = None,
        optimizer: Any = None,
    ) -> Step:
        """One step that trains the blocks `active` (and what lies outside, if the case says so).

        Args:
            adapted: blocks whose adapters train in place of their own weights.
            with_states: blocks that have optimizer states; those that train, if None.
            optimizer: a plugin of that kind; AdamW where none is given.

        Raises:
            ValueError: the shape is none that the network takes.
        """
        self.subject.check(case.shape)
        trained, static = self.static(case, active, adapted, with_states, optimizer)
        line = self.timeline(case, active, adapted)
        by_category = {name: line.at_peak[name] + static.get(name, 0) for name in line.at_peak}
        operations: Counter[Operation] = Counter(
            {operation: count * case.accumulation for operation, count in line.operations.items()}
        )
        updates: dict[int, int] = {}
        for kind, times in trained.items():
            updates[kind.size] = updates.get(kind.size, 0) + kind.values * times
        order = [name for unit in self.subject.units for name in unit]
        places = [order.index(name) for name in (*active, *adapted)]
        return Step(
            trained=counted(trained),
            lowest=min(places, default=None),
            peak=sum(by_category.values()),
            by_category=by_category,
            flops=sum(operation.flops * count for operation, count in operations.items()),
            operations=operations,
            updates=updates,
        )

    def static(
        self, case: Case, active: Collection[str], adapted: Collection[str] = (),
        with_states: Collection[str] | None = None, optimizer: Any = None, divide: Callable[[Parts], Parts] = Counter,
    ) -> tuple[Parts, dict[str, int]]:  # fmt: skip
        """What trains, and the bytes that are there all the time, by category.

        Args:
            divide: what a process holds of these parameters, but for adapters, which it has whole;
                all of them by default.
        """
        inside, adapters, outside = self.trained(case, active, adapted)
        held = (divide(inside), adapters, divide(outside))
        inside, adapters, outside = (self._as_trained(parts, case) for parts in held)
        trained = inside + adapters + outside
        idle = set(with_states or ()) - set(active)
        plugin = optimizer or plugins.load("optimizer", "adamw")

        def states(parts: Parts, role: Role) -> int:
            about = {"counted": not case.fused, "role": role}
            return sum(sum(plugin.states(kind.shape, kind.size, **about)) * n for kind, n in parts.items())

        rest = [self._as_trained(divide(self.inventory.whole(name)), case) for name in idle]
        own = states(total([inside, *rest]), "block")
        return trained, {
            "weights": self._weights(case, active, adapted, divide) + weighed(trained) - weighed(total(held)),
            "optimizer": own + states(adapters, "adapter") + states(outside, "outside"),
            "gradients": weighed(trained) if case.accumulation > 1 else 0,
        }

    def trained(self, case: Case, active: Iterable[str], adapted: Iterable[str]) -> tuple[Parts, Parts, Parts]:
        """What trains: of the blocks' own parameters, of adapters, and of what is outside of blocks."""
        inside, beside, outside = list(map(self.inventory.whole, active)), [], []
        for name in adapted:
            spared = self.inventory.spared(name, case.spared)
            inside.append(self.inventory.beside_adapters(name, spared))
            beside.append(self.inventory.adapters(name, case.low_rank, spared))
        if case.outside:
            outside += [self.inventory.outside["heads"]]
            outside += [self.inventory.outside["inputs"]] if case.inputs else []
        return total(inside), total(beside), total(outside)

    def _as_trained(self, parts: Parts, case: Case) -> Parts:
        """Parameters in the type that they have while they train."""
        if not case.widened:
            return parts
        found: Parts = Counter()
        for kind, times in parts.items():
            found[kind._replace(size=self.inventory.trained_size.get(kind.size, kind.size))] += times
        return found

    def _weights(
        self, case: Case, active: Collection[str], adapted: Collection[str], divide: Callable[[Parts], Parts]
    ) -> int:
        """Bytes of weights as they are held while they rest, adapters and EMA among them."""
        everything = divide(self.inventory.everything())
        found = self.inventory.buffers + weighed(everything) + (4 * counted(everything) if case.averaged else 0)
        for name in {*active, *adapted} if case.low_rank else ():  # a block that trains in full rests its own
            spared = self.inventory.spared(name, case.spared)
            found += weighed(self.inventory.adapters(name, case.low_rank, spared))
        if case.storage != "full":
            held = []
            for name in set(self.inventory.blocks) - set(active):
                spared = self.inventory.spared(name, case.spared) if name in adapted else ()
                held.append(self.inventory.held(name, spared))
            taken = total(held)
            found += packed_bytes(taken, case.storage) - weighed(taken)
        return found

    def timeline(self, case: Case, active: Collection[str], adapted: Collection[str] = ()) -> Timeline:
        """What comes and goes in a step, without what is there all the time."""
        key = (case, frozenset(active), frozenset(adapted))
        if key not in self.timelines:
            labels = self.labels(active, adapted, case)
            self.timelines[key] = compose(self.recording(case, active, adapted), labels, {})
        return self.timelines[key]

    def labels(self, active: Collection[str], adapted: Collection[str] = (), case: Case | None = None) -> list[Label]:
        """What of a unit matters to a step: its kind, which of its blocks train, and whether any below it does.

        With adapters also which of the blocks have them and what of these is spared, with a share of the tokens
        which blocks see only that.
        """
        stems = sorted({name.rpartition(".")[0] for unit in self.subject.units for name in unit})
        below = dict.fromkeys(stems, False)
        chosen, low, found = set(active), set(adapted), []
        routed = self.subject.routed if case is not None and case.shape.tokens < 1 else frozenset()
        for kind, unit in zip(self.subject.kinds, self.subject.units, strict=True):
            label: Label = (kind, tuple(name in chosen for name in unit), tuple(below.values()))
            if low and case is not None:
                label += (tuple(name in low and self.inventory.spared(name, case.spared) for name in unit),)
            if routed:
                label += (tuple(name in routed for name in unit),)
            found.append(label)
            for name in unit:
                below[name.rpartition(".")[0]] |= name in chosen or name in low
        return found

    def whole(self, case: Case, active: Collection[str], adapted: Collection[str] = ()) -> Timeline:
        """The step without a short cut: every unit is simulated. Slow; what `step` is tested against."""
        labels = self.labels(active, adapted, case)
        places = range(len(labels))
        return compose(self._simulated(case, labels, places, active, adapted), labels, {})

    def recording(self, case: Case, active: Collection[str], adapted: Collection[str] = ()) -> Recording:
        """A step of a network that has every unit, with its neighbours, that the whole has."""
        labels = self.labels(active, adapted, case)
        needed = set(windows(labels))
        for recording in self.recordings.setdefault(case, []):
            if needed <= set(recording.windows):
                return recording
        places = shortened_to(labels)
        recording = self._simulated(case, labels, places, active, adapted)
        self.recordings[case].append(recording)
        return recording

    def _simulated(
        self, case: Case, labels: Sequence[Label], places: Sequence[int], active: Collection[str],
        adapted: Collection[str],
    ) -> Recording:  # fmt: skip
        self.simulated += 1
        with without_garbage_collection(), FakeTensorMode(), as_on_a_gpu(case.fused), fresh_tables():
            model, names = self.subject.build(places)
            model.requires_grad_(False)
            owned = {id(p) for unit in names for name in unit for p in model.get_submodule(name).parameters()}
            for name, parameter in model.named_parameters():
                wanted = case.outside and (case.inputs or name.startswith(self.subject.heads))
                parameter.requires_grad_(wanted and id(parameter) not in owned)
            for place, unit in zip(places, names, strict=True):
                for whole, here in zip(self.subject.units[place], unit, strict=True):
                    if whole in active:
                        model.get_submodule(here).requires_grad_(True)
                    elif whole in adapted:
                        low_rank_added(model, here, case.low_rank, self.inventory.spared(whole, case.spared))
            if case.widened:
                match_training(model)
            if case.storage != "full":
                blocks = [Block(name, model.get_submodule(name)) for unit in names for name in unit]
                FrozenStorage(blocks, case.storage).follow()  # type: ignore[arg-type]
            if case.new_rest:
                wholes = [name for place in places for name in self.subject.units[place]]
                pairs = zip(wholes, (name for unit in names for name in unit), strict=True)
                rest = [name for whole, name in pairs if whole not in {*active, *adapted}]
                self.subject.leave_out(model, rest)
            if case.accumulation > 1:
                for parameter in model.parameters():
                    parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            units = [[model.get_submodule(name) for name in unit] for unit in names]
            begin = self.subject.step(model, case)
            with Recorder(model, units, in_backward=case.in_backward) as recorder:
                self._run(begin(), recorder)
        kept = windows([labels[place] for place in places])
        return Recording(kept, in_passes(recorder.chunks))

    def _run(self, forward: Callable[[], Tensor], recorder: Recorder) -> None:
        loss = forward()
        recorder.begin_backward()
        if loss.requires_grad:
            loss.backward()


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """A simulation makes millions of small objects that live as long as it does: looking for cycles takes a third."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def as_on_a_gpu(wanted: bool) -> Iterator[None]:
    """Lets tensors of the CPU take the paths that those of a CUDA device take, where they differ in bytes.

    Attention is fused at every length, and autocast runs norms in float32. A function mode would not do for the latter:
    there is none in a backward pass, which recomputes.
    """
    if not wanted:
        yield
        return
    before, norms = layers.WRITTEN_OUT, {name: getattr(nn.functional, name) for name in NORMS}

    def in_float32(norm: Any) -> Any:
        def wide(x: Tensor, *others: Any, **named: Any) -> Tensor:
            if not torch.is_autocast_enabled("cpu"):
                return norm(x, *others, **named)  # type: ignore[no-any-return]
            wider = {name: _float(value) for name, value in named.items()}
            return norm(x.float(), *map(_float, others), **wider)  # type: ignore[no-any-return]

        return wide

    layers.WRITTEN_OUT = 0
    for name, norm in norms.items():
        setattr(nn.functional, name, in_float32(norm))
    try:
        yield
    finally:
        layers.WRITTEN_OUT = before
        for name, norm in norms.items():
            setattr(nn.functional, name, norm)


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value
