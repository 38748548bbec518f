"""What a plan says: a row for each way of training a phase, the phases, and the whole."""

from dataclasses import asdict, dataclass, field
from typing import Any

from entprog.config.schema import PhaseConfig
from entprog.core.types import Shape
from entprog.profiling.hardware import Hardware


@dataclass(frozen=True, slots=True)
class Process:
    """What an optimizer step takes of each of several processes.

    Attributes:
        batch: samples of a micro-batch that it gets.
        bytes: largest sum of live bytes by category; `peak` is their sum. "gathered": units that are whole for a time,
            and buffers of collective operations.
        fits: whether its device has so much besides its reserve.
        carried: bytes of the whole tensors of a step by collective operation: "all_gather", "reduce_scatter",
            "all_reduce".
        traffic: bytes that it sends for these, and receives, where the processes form a ring.
    """

    batch: int
    peak: int
    bytes: dict[str, int]
    fits: bool
    carried: dict[str, int]
    traffic: dict[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One way of training one phase, or one stage of it.

    Attributes:
        kind: "stage", or the comparison "full" (the run itself where that is its method), "full-saving"
            (checkpointing and 8-bit states) or "lora".
        stages: numbers of the stages, from 1, in which the schedule may choose this.
        order: what the ranking is called ("suffix" is the best case, "spread" the worst); "" where it is all one.
        m: blocks that train.
        lowest: place of the lowest of them among the phase's blocks, from 0.
        steps: optimizer steps of all the stages.
        bytes: largest sum of live bytes by category; `peak` is their sum.
        fits: whether the device has so much besides its reserve.
        flops, seconds: of one optimizer step.
        process: what each process takes where there are several; else None.
    """

    phase: str
    kind: str
    stages: tuple[int, ...]
    order: str
    m: int
    shape: Shape
    trained: int
    lowest: int
    steps: int
    peak: int
    bytes: dict[str, int]
    fits: bool
    flops: int
    seconds: float
    process: Process | None = None


@dataclass(frozen=True, slots=True)
class Largest:
    """What of a phase fits the device: `what` is "m", "frames" or "resolution".

    `value` is the largest that fits, None where none does; `limit` says that nothing larger was looked at. `order`
    and `m` say for which blocks. Of a rectangle the value is the height, and `width` is its width.
    """

    what: str
    value: int | None
    limit: bool
    order: str
    m: int
    width: int = 0


@dataclass(slots=True)
class PhasePlan:
    """A phase: what trains it, and how long the whole of it takes at best and at worst.

    `ranking` is the peak of scoring its blocks, in bytes; None where nothing is scored.
    """

    name: str
    settings: PhaseConfig
    blocks: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    seconds: tuple[float, float] = (0.0, 0.0)
    flops: tuple[float, float] = (0.0, 0.0)
    largest: list[Largest] = field(default_factory=list)
    ranking: int | None = None


@dataclass(slots=True)
class Plan:
    """A whole run on a device; `notes` say what of its configuration the figures leave out.

    `processes` say how it is spread: "gpus", "shard" and "replicate"; None for one process.
    """

    model: str
    parameters: int
    hardware: Hardware
    precision: str
    calibrated: bool
    phases: list[PhasePlan] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    processes: dict[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "phases": [asdict(phase) for phase in self.phases]}
