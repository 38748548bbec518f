"""Options that list sizes, applied to a phase's own shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from entprog.core.types import Shape

__all__ = ["SizesByStage", "block_count", "check_bands", "check_lengths", "check_values", "needs_shape", "resized"]

CAPPED = ("resolution", "frames")
MULTIPLE = 8
"""Resolutions are multiples of this (patch x codec); a share of one is rounded to it."""


@dataclass(frozen=True, kw_only=True)
class SizesByStage:
    """Options that give each stage its own sizes.

    Attributes:
        resolution: sides in pixels, one for each stage; empty for the phase's own throughout. A value below 1 is a
            share of the phase's own, 0 is the phase's own, and larger values are cut to it.
        frames: frames of a clip, likewise.
        tokens: shares of the tokens that the middle blocks see, above 0 and at most 1.
        batch: samples of a micro-batch, shares and 0 as above.
    """

    resolution: tuple[int | float, ...] = ()
    frames: tuple[int | float, ...] = ()
    tokens: tuple[float, ...] = ()
    batch: tuple[int | float, ...] = ()

    table: ClassVar[str]
    """Name of the options table in messages."""

    def sizes(self) -> dict[str, Sequence[float]]:
        """The lists that are not empty, by name."""
        return {name: values for name in ("resolution", "frames", "tokens", "batch") if (values := getattr(self, name))}

    def size_at(self, stage: int, shape: Shape | None) -> Shape | None:
        """The shape of a stage in a phase of this full shape; None in a custom loop, which has no shape.

        Raises:
            ValueError: sizes are given, but there is no shape.
        """
        sizes = self.sizes()
        if sizes and shape is None:
            raise needs_shape(f"{self.table}.{next(iter(sizes))}")
        return resized(shape, {name: values[stage] for name, values in sizes.items()}) if shape is not None else None


def resized(shape: Shape, values: Mapping[str, float]) -> Shape:
    """The phase's shape with some of its values replaced.

    A number of at least 1 is the size itself, one below 1 a share of the phase's own, and 0 is the phase's own;
    `tokens` is always a share. Resolution and frames are cut to the phase's own, which is its full workload: a phase
    of one frame trains one frame, whatever the list says for the others.
    """
    given: dict[str, Any] = {name: _size(name, value, shape) for name, value in values.items()}
    return replace(shape, **given)


def _size(name: str, value: float, shape: Shape) -> float:
    if name == "tokens":
        return value
    own: int = getattr(shape, name)
    if value == 0:
        return own
    step = MULTIPLE if name == "resolution" else 1
    size = max(step, round(own * value / step) * step) if value < 1 else int(value)
    return min(size, own) if name in CAPPED else size


def check_values(option: str, name: str, values: Sequence[float], *, relative: bool = False) -> None:
    """Refuse impossible sizes.

    Args:
        option: name of the list in messages, with its table: "schedule.options.frames".
        relative: whether shares below 1 and 0 are allowed, too (see `resized`).

    Raises:
        ValueError: naming the option.
    """
    start = f"{option} = {list(values)}"
    if name == "tokens":
        if wrong := [value for value in values if not 0 < value <= 1]:
            raise ValueError(f"{start}: {wrong[0]:g} is not a share of the tokens; give numbers above 0 and at most 1")
    elif relative:
        if wrong := [value for value in values if value < 0 or (value > 1 and value != int(value))]:
            raise ValueError(
                f"{start}: {wrong[0]:g} can't be; give whole numbers, shares below 1, or 0 for the phase's own"
            )
    elif wrong := [value for value in values if value < 1 or value != int(value)]:
        raise ValueError(f"{start}: {wrong[0]:g} can't be; give whole numbers of at least 1")


def check_lengths(table: str, sizes: Mapping[str, Sequence[float]], stages: int) -> None:
    """Check lists that give one value for each stage.

    Args:
        table: name of the options table in messages.

    Raises:
        ValueError: an impossible value, or a list of another length.
    """
    for name, values in sizes.items():
        check_values(f"{table}.{name}", name, values, relative=True)
        if len(values) != stages:
            raise ValueError(f"{table}.{name} = {list(values)}: give one value for each of the {stages} stages")


def check_bands(edges: Sequence[float], shares: Sequence[float]) -> None:
    """Check noise levels that divide a method's draws, and the shares of the steps between them.

    Raises:
        ValueError: naming the option.
    """
    if any(not 0 < edge < 1 for edge in edges) or list(edges) != sorted(set(edges)):
        raise ValueError(f"noise_edges = {list(edges)}: give ascending noise levels between 0 and 1, such as [0.6]")
    if not shares:
        return
    if len(shares) != len(edges) + 1 or any(share <= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"noise_shares = {list(shares)}: give {len(edges) + 1} shares above 0 that sum to 1, one for each band of "
            "noise_edges from the cleanest up"
        )


def block_count(m: float, total: int, label: str) -> int:
    """Number of blocks that `m` means: a count, or below 1 a share of `total`.

    Raises:
        ValueError: more than `total`.
    """
    count = max(1, round(m * total)) if m < 1 else int(m)
    if count > total:
        raise ValueError(f"{label}: {count} blocks requested, the phase has {total}")
    return count


def needs_shape(option: str) -> ValueError:
    """The error for a custom loop that asks for sizes; `option` is named with its table."""
    return ValueError(f"{option}: sizes can only change where our own loop draws the batches")
