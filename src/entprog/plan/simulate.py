"""Bytes, FLOPs and operations of a training step that never runs: fake tensors, and only units that differ."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from entprog.nets import layers
from entprog.plan.compose import Label, Recording, Timeline, compose, in_passes, shortened_to, windows
from entprog.plan.record import Operation, Recorder
from entprog.plan.subjects import Case, Subject, low_rank_added


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
        self.recordings: dict[Case, list[Recording]] = {}
        self.counts: dict[int, dict[str, Counter[int]]] = {}
        self.timelines: dict[tuple[Case, frozenset[str]], Timeline] = {}
        self.simulated = 0

    def step(
        self,
        case: Case,
        active: Collection[str],
        *,
        with_states: Collection[str] | None = None,
        state_bytes: Callable[[int, int], float] | None = None,
    ) -> Step:
        """One step that trains the blocks `active` (and what lies outside, if the case says so).

        Args:
            with_states: blocks that have optimizer states; those that train, if None.
            state_bytes: bytes of the optimizer's states for so many elements of a size in bytes; AdamW's, if None.

        Raises:
            ValueError: the shape is none that the network takes.
        """
        self._check(case)
        counts = self._counts(case.low_rank)
        trained = _sum(counts[name] for name in active)
        if case.outside:
            trained += counts["heads"] + (counts["inputs"] if case.inputs else Counter())
        stateful = (
            trained if with_states is None else trained + _sum(counts[name] for name in set(with_states) - set(active))
        )
        states = state_bytes or (lambda count, size: 2 * count * size)
        weights = sum(count * size for parts in self._weights(case.low_rank) for size, count in parts.items())
        static = {
            "weights": weights,
            "optimizer": round(sum(states(count, size) for size, count in stateful.items())),
            "gradients": _bytes(trained) if case.accumulation > 1 else 0,
        }
        line = self.timeline(case, active)
        by_category = {name: line.at_peak[name] + static.get(name, 0) for name in line.at_peak}
        operations: Counter[Operation] = Counter(
            {operation: count * case.accumulation for operation, count in line.operations.items()}
        )
        order = [name for unit in self.subject.units for name in unit]
        places = [order.index(name) for name in active]
        return Step(
            trained=sum(trained.values()),
            lowest=min(places, default=None),
            peak=sum(by_category.values()),
            by_category=by_category,
            flops=sum(operation.flops * count for operation, count in operations.items()),
            operations=operations,
            updates=dict(trained),
        )

    def timeline(self, case: Case, active: Collection[str]) -> Timeline:
        """What comes and goes in a step, without what is there all the time."""
        key = (case, frozenset(active))
        if key not in self.timelines:
            labels = self.labels(active)
            self.timelines[key] = compose(self.recording(case, active), labels, {})
        return self.timelines[key]

    def labels(self, active: Collection[str]) -> list[Label]:
        """What of a unit matters to a step: its kind, which of its blocks train, and whether any below it does."""
        stems = sorted({name.rpartition(".")[0] for unit in self.subject.units for name in unit})
        below = dict.fromkeys(stems, False)
        chosen, found = set(active), []
        for kind, unit in zip(self.subject.kinds, self.subject.units, strict=True):
            found.append((kind, tuple(name in chosen for name in unit), tuple(below.values())))
            for name in unit:
                below[name.rpartition(".")[0]] |= name in chosen
        return found

    def whole(self, case: Case, active: Collection[str]) -> Timeline:
        """The step without a short cut: every unit is simulated. Slow; what `step` is tested against."""
        labels = self.labels(active)
        places = range(len(labels))
        return compose(self._simulated(case, labels, places, active), labels, {})

    def _check(self, case: Case) -> None:
        shape, multiple = case.shape, self.subject.multiple
        if shape.resolution % multiple or shape.resolution <= 0:
            raise ValueError(
                f"resolution = {shape.resolution}: no multiple of {multiple} pixels (patch x codec of "
                f"{self.subject.name}); choose {max(1, round(shape.resolution / multiple)) * multiple}"
            )

    def recording(self, case: Case, active: Collection[str]) -> Recording:
        """A step of a network that has every unit, with its neighbours, that the whole has."""
        labels = self.labels(active)
        needed = set(windows(labels))
        for recording in self.recordings.setdefault(case, []):
            if needed <= set(recording.windows):
                return recording
        places = shortened_to(labels)
        recording = self._simulated(case, labels, places, active)
        self.recordings[case].append(recording)
        return recording

    def _simulated(
        self, case: Case, labels: Sequence[Label], places: Sequence[int], active: Collection[str]
    ) -> Recording:
        self.simulated += 1
        with FakeTensorMode(), as_on_a_gpu(case.fused):
            model, names = self.subject.build(places)
            model.requires_grad_(False)
            owned = {id(p) for unit in names for name in unit for p in model.get_submodule(name).parameters()}
            for name, parameter in model.named_parameters():
                wanted = case.outside and (case.inputs or name.startswith(self.subject.heads))
                parameter.requires_grad_(wanted and id(parameter) not in owned)
            trains = []
            for place, unit in zip(places, names, strict=True):
                for whole, here in zip(self.subject.units[place], unit, strict=True):
                    if whole in active:
                        model.get_submodule(here).requires_grad_(True)
                        trains.append(here)
            if case.low_rank:
                low_rank_added(model, trains, case.low_rank)
            if case.accumulation > 1:
                for parameter in model.parameters():
                    parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            units = [[model.get_submodule(name) for name in unit] for unit in names]
            with Recorder(model, units, in_backward=case.in_backward) as recorder:
                self._run(self.subject.step(model, case), recorder)
        kept = windows([labels[place] for place in places])
        return Recording(kept, in_passes(recorder.chunks))

    def _run(self, forward: Callable[[], Tensor], recorder: Recorder) -> None:
        loss = forward()
        recorder.begin_backward()
        if loss.requires_grad:
            loss.backward()

    def _counts(self, low_rank: int) -> dict[str, Counter[int]]:
        """Elements that train when a block does, by element size; "inputs" and "heads" lie outside of all blocks."""
        if low_rank not in self.counts:
            with FakeTensorMode():
                model, names = self.subject.build(range(len(self.subject.units)))
                every = [name for unit in names for name in unit]
                outside = {id(p) for p in model.parameters()}
                if low_rank:
                    low_rank_added(model, every, low_rank)
                found = {}
                for name in every:
                    parameters = list(model.get_submodule(name).parameters())
                    outside -= {id(p) for p in parameters}
                    found[name] = _elements(p for p in parameters if p.requires_grad)
                left = [(name, p) for name, p in model.named_parameters() if id(p) in outside]
                heads = self.subject.heads
                found["inputs"] = _elements(p for name, p in left if not name.startswith(heads))
                found["heads"] = _elements(p for name, p in left if name.startswith(heads))
            self.counts[low_rank] = found
        return self.counts[low_rank]

    def _weights(self, low_rank: int) -> list[Counter[int]]:
        whole = list(self._counts(0).values())
        if not low_rank:
            return whole
        return [*whole, *(v for k, v in self._counts(low_rank).items() if k not in ("inputs", "heads"))]


@contextmanager
def as_on_a_gpu(wanted: bool) -> Iterator[None]:
    """Lets tensors of the CPU take the paths that those of a CUDA device take, where they differ in bytes.

    Attention is fused at every length, and autocast runs layer norms in float32. A function mode would not do for
    the latter: there is none in a backward pass, which recomputes.
    """
    if not wanted:
        yield
        return
    before, norm = layers.WRITTEN_OUT, nn.functional.layer_norm

    def in_float32(x: Tensor, shape: Any, *weights: Any, **others: Any) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return norm(x, shape, *weights, **others)
        return norm(x.float(), shape, *map(_float, weights), **{k: _float(v) for k, v in others.items()})

    layers.WRITTEN_OUT = 0
    nn.functional.layer_norm = in_float32  # type: ignore[assignment]
    try:
        yield
    finally:
        layers.WRITTEN_OUT = before
        nn.functional.layer_norm = norm


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def _elements(parameters: Any) -> Counter[int]:
    found: Counter[int] = Counter()
    for parameter in parameters:
        found[parameter.element_size()] += parameter.numel()
    return found


def _sum(parts: Any) -> Counter[int]:
    total: Counter[int] = Counter()
    for part in parts:
        total.update(part)
    return total


def _bytes(counts: Counter[int]) -> int:
    return sum(size * count for size, count in counts.items())
