"""A deep network's step from a recording of a shallow one: units that see the same neighbours repeat exactly."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from entprog.plan.recording import Chunk, Event, Mark, Operation

Label = tuple[Any, ...]
Window = tuple[Label | None, Label, Label | None]


@dataclass(slots=True)
class Stretch:
    """All that happens in one unit of the network during one pass over the units; unit None: outside of them."""

    unit: int | None
    events: list[Event | Mark] = field(default_factory=list)
    operations: Counter[Operation] = field(default_factory=Counter)


@dataclass(frozen=True)
class Recording:
    """A step of the shallow network, as passes over its units.

    `passes` holds lists of stretches, each either one stretch outside all units, or one for each unit that the
    pass visits, in the order of the visit. `windows` name each unit by its own label and its neighbours'.
    """

    windows: tuple[Window, ...]
    passes: list[list[Stretch]]


@dataclass(slots=True)
class Timeline:
    """What a whole step comes to: the largest sum of live bytes, its parts, and every operation with its count."""

    peak: int = 0
    at_peak: dict[str, int] = field(default_factory=dict)
    operations: Counter[Operation] = field(default_factory=Counter)
    left: dict[str, int] = field(default_factory=dict)


def windows(labels: Sequence[Label]) -> tuple[Window, ...]:
    """Each label with its neighbours, None beyond the ends."""
    around = [None, *labels, None]
    return tuple(zip(around, labels, around[2:], strict=False))


def shortened_to(labels: Sequence[Label]) -> list[int]:
    """Places of the units that must stay so that every window of the whole is still there, in order.

    Where two units have the same window, what lies between them (and the second) goes, as long as each of its
    windows occurs elsewhere.
    """
    all_windows = windows(labels)
    needed, kept = set(all_windows), list(range(len(labels)))
    changed = True
    while changed:
        changed = False
        for first in range(len(kept)):
            for last in range(len(kept) - 1, first, -1):
                rest = kept[: first + 1] + kept[last + 1 :]
                if all_windows[kept[first]] == all_windows[kept[last]] and {all_windows[i] for i in rest} == needed:
                    kept, changed = rest, True
                    break
    return kept


def in_passes(chunks: Sequence[Chunk]) -> list[list[Stretch]]:
    """Chunks as passes: units visited one after the other, upwards in the forward, downwards in the backward.

    What happens between two units of a pass belongs to the first of them.
    """
    passes: list[list[Stretch]] = []
    current: list[Stretch] = []
    waiting: Stretch | None = None  # what came after the last unit, which may be the end of the pass
    backward = False

    def close() -> None:
        nonlocal current, waiting
        if current:
            passes.append(current)
        if waiting is not None:
            passes.append([waiting])
        current, waiting = [], None

    for chunk in chunks:
        if chunk.backward != backward:
            close()
            backward = chunk.backward
        if chunk.unit is None:
            waiting = waiting or Stretch(None)
            _extend(waiting, chunk)
            continue
        if current:
            last = current[-1].unit
            assert last is not None
            onward = chunk.unit <= last if backward else chunk.unit >= last
            if onward and waiting is not None:
                _extend(current[-1], waiting)
                waiting = None
            if not onward:
                close()
        elif waiting is not None:
            close()
        if not current or current[-1].unit != chunk.unit:
            current.append(Stretch(chunk.unit))
        _extend(current[-1], chunk)
    close()
    return passes


def compose(recording: Recording, labels: Sequence[Label], static: dict[str, int]) -> Timeline:
    """The step of a network whose units have these labels.

    Args:
        recording: has every window of `labels`.
        static: bytes that are there all the time, by category.
    """
    now = {**dict.fromkeys(("weights", "gradients", "optimizer", "activations"), 0), **static}
    line = Timeline(sum(now.values()), dict(now))
    total = line.peak
    for _, stretch, changes in walk(recording, labels):
        line.operations.update(stretch.operations)
        for delta, event in changes:
            if isinstance(event, Mark):
                continue
            total += delta
            now[event.category] += delta
            if total > line.peak:
                line.peak, line.at_peak = total, dict(now)
    line.left = now
    return line


def walk(
    recording: Recording, labels: Sequence[Label]
) -> Iterator[tuple[int | None, Stretch, Iterator[tuple[int, Event | Mark]]]]:
    """The step of the whole network in its order: each stretch with the unit of the whole and its changes of bytes."""
    wanted = windows(labels)
    place = {window: j for j, window in reversed(list(enumerate(recording.windows)))}
    chosen = list(range(len(wanted))) if wanted == recording.windows else [place[window] for window in wanted]
    times = Counter(chosen)
    gone: set[int] = set()
    for stretches in recording.passes:
        sequence: list[tuple[int | None, Stretch]]
        if stretches[0].unit is None:
            sequence = [(None, stretch) for stretch in stretches]
        else:
            visited = {stretch.unit: stretch for stretch in stretches}
            sequence = [(k, visited[j]) for k, j in enumerate(chosen) if j in visited]
            units = [stretch.unit for stretch in stretches]
            if units != sorted(units, key=lambda unit: unit or 0):
                sequence.reverse()
        for k, stretch in sequence:
            yield k, stretch, _changes(stretch, times, gone)


def _changes(stretch: Stretch, times: Counter[int], gone: set[int]) -> Iterator[tuple[int, Event | Mark]]:
    """Bytes by which each event of a stretch changes the whole."""
    for event in stretch.events:
        if isinstance(event, Mark):
            yield 0, event
            continue
        delta = event.delta
        if stretch.unit is None and event.unit is not None:
            delta *= times[event.unit]  # each repetition left one of these behind
        elif stretch.unit is not None and event.unit is None and event.delta < 0:
            if event.storage in gone:
                continue
            gone.add(event.storage)
        yield delta, event


def _extend(stretch: Stretch, more: Chunk | Stretch) -> None:
    stretch.events += more.events
    stretch.operations.update(more.operations)
