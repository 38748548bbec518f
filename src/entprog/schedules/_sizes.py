"""What an option of a schedule makes of a phase's own shape."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from entprog.core.types import Shape

WHOLE = ("resolution", "frames", "batch")


def resized(shape: Shape, values: Mapping[str, float]) -> Shape:
    """The phase's shape with some of its values replaced.

    Resolution and frames never go beyond the phase's own, which is its full workload: a phase of one frame trains
    one frame, whatever the schedule lists for the others.
    """
    given: dict[str, Any] = {name: int(value) if name in WHOLE else value for name, value in values.items()}
    for name in given.keys() & {"resolution", "frames"}:
        given[name] = min(given[name], getattr(shape, name))
    return replace(shape, **given)


def check_values(option: str, name: str, values: Sequence[float]) -> None:
    """Refuse what no shape can have.

    Raises:
        ValueError: naming the option.
    """
    said = f"schedule.options.{option} = {list(values)}"
    if name == "tokens":
        if wrong := [value for value in values if not 0 < value <= 1]:
            raise ValueError(f"{said}: {wrong[0]:g} is no share of the tokens; give numbers above 0 and at most 1")
    elif wrong := [value for value in values if value < 1 or value != int(value)]:
        raise ValueError(f"{said}: {wrong[0]:g} can't be; give whole numbers of at least 1")


def block_count(m: float, total: int, said: str) -> int:
    """Blocks that `m` stands for: a count, or below 1 a share of `total`.

    Raises:
        ValueError: more than there are.
    """
    count = max(1, round(m * total)) if m < 1 else int(m)
    if count > total:
        raise ValueError(f"{said}: {count} blocks asked for, the phase has {total}")
    return count


def needs_shape(option: str) -> ValueError:
    """What a foreign loop is told that asks for sizes."""
    return ValueError(f"schedule.options.{option}: sizes can only change where our own loop draws the batches")
