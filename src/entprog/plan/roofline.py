"""Seconds of a step from its operations: each as long as its arithmetic or its memory traffic takes, or as measured."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from entprog.plan.recording import Operation
from entprog.plan.simulator import Step
from entprog.profiling.hardware import Hardware

ARITHMETIC, TRAFFIC = 0.6, 0.8
"""Shares of the data sheet's rates that matrix products and memory traffic reach; usual for large sizes."""

UPDATE = 7
"""Times that fused AdamW reads or writes each parameter: weight, gradient and two states read, all but the gradient
written."""

CLIP = 3
"""The same for clipping: the norm reads each gradient, scaling reads and writes it."""


@dataclass(frozen=True)
class Clock:
    """Turns operations into seconds on a device.

    Attributes:
        measured: seconds of operations that were run on the device itself; those win over the roofline.
        factor: what the roofline's seconds are multiplied by where nothing was measured.
        extra: seconds that each operation costs besides (autograd, Python), from the calibration.
        update: seconds for each byte that the optimizer and clipping move; None for the roofline's.
    """

    hardware: Hardware
    measured: Mapping[Operation, float] = field(default_factory=dict)
    factor: float = 1.0
    extra: float = 0.0
    update: float | None = None

    @property
    def calibrated(self) -> bool:
        return bool(self.measured)

    def seconds(self, step: Step) -> float:
        """Wall time of one optimizer step: forward, backward, clipping and update."""
        return self.of_operations(step.operations) + self.of_update(step.updates)

    def of_operations(self, operations: Counter[Operation]) -> float:
        return sum(self.of(operation) * count for operation, count in operations.items())

    def of(self, operation: Operation) -> float:
        """Seconds of one call."""
        if operation in self.measured:
            return self.measured[operation] + self.extra
        if operation.is_view:
            return self.extra
        return self.factor * roofline(operation, self.hardware) + self.extra

    def of_update(self, updates: Mapping[int, int]) -> float:
        moved = sum(size * count for size, count in updates.items()) * (UPDATE + CLIP)
        return moved * (self.update if self.update is not None else 1 / (TRAFFIC * self.hardware.bandwidth))


def roofline(operation: Operation, hardware: Hardware) -> float:
    """Seconds of one call by the data sheet."""
    rate = hardware.rate(operation.dtype)
    if operation.flops and not rate:
        kind = str(operation.dtype).removeprefix("torch.")
        raise ValueError(f"{hardware.title} has no {kind}; set train.mixed_precision otherwise")
    arithmetic = operation.flops / (ARITHMETIC * rate) if operation.flops else 0.0
    traffic = operation.bytes / (TRAFFIC * hardware.bandwidth)
    return max(arithmetic, traffic, hardware.overhead)


def precision_on(hardware: Hardware, wanted: str) -> str:
    """What `train.mixed_precision` comes to on the device: "auto" is bf16 where there is fast bf16.

    Raises:
        ValueError: the device has not got it.
    """
    if wanted == "auto":
        if hardware.name == "cpu":
            return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"
        return "bf16" if hardware.bf16 else "no"
    if wanted == "bf16" and not hardware.bf16:
        raise ValueError(f"train.mixed_precision = 'bf16': {hardware.title} has none; choose fp16 or no")
    if wanted == "fp16" and hardware.name == "cpu":
        raise ValueError("train.mixed_precision = 'fp16': only on a CUDA device; choose bf16 or no")
    return wanted
