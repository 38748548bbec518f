"""Times the operations of a plan on the device itself, at the plan's own shapes, for a few seconds."""

import hashlib
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from entprog.plan.recording import Operation
from entprog.plan.roofline import CLIP, UPDATE, Clock, roofline
from entprog.profiling.hardware import device_here

SECONDS = 5.0
"""What all timing together may take."""

LARGEST = 2**30
"""Operations that move more bytes are left to the roofline."""

VIEW = 2e-6
"""Seconds of an operation that moves nothing."""


def is_here(name: str) -> bool:
    """Whether a device of `hardware.DEVICES`, or "cpu", is in this machine."""
    return name == "cpu" or (name == device_here() and torch.cuda.is_available())


def calibrate(clock: Clock, operations: Counter[Operation], cache: Path, seconds: float = SECONDS) -> Clock:
    """A clock that knows how long these operations take here, those first that weigh most.

    What was timed before on this device, with this torch and as many threads, is read from the folder `cache`; what
    is new is written there. The rest follows the roofline, scaled by what the timed ones took against theirs.
    """
    file = cache / "plan" / f"{_fingerprint(clock)}.json"
    known: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    before = len(known)
    device = torch.device("cpu" if clock.hardware.name == "cpu" else "cuda")
    if "update" not in known:
        known["update"] = _update(device)
    weight = {op: roofline(op, clock.hardware) * count for op, count in operations.items() if not op.is_view}
    end = time.perf_counter() + seconds
    measured: dict[Operation, float] = {}
    for operation in sorted(weight, key=lambda op: -weight[op]):
        key = _key(operation)
        if key not in known and time.perf_counter() < end and operation.bytes <= LARGEST:
            known[key] = _timed(operation, device)
        if known.get(key, 0.0) > 0:
            measured[operation] = known[key]
    if len(known) > before:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known) + "\n", encoding="utf-8")
    expected = sum(weight[operation] for operation in measured)
    took = sum(measured[operation] * operations[operation] for operation in measured)
    factor = took / expected if expected else 1.0
    return replace(clock, measured=measured, factor=factor, extra=VIEW, update=known["update"])


def _timed(operation: Operation, device: torch.device) -> float:
    """Median seconds of one call on tensors of those shapes; 0 where it can't be run by itself."""
    namespace, packet, overload = operation.name.split(".")
    function = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    positional, named = operation.arguments
    try:
        with torch.no_grad():
            args = _real(positional, device)
            kwargs = {name: _real(value, device) for name, value in named}
            function(*args, **kwargs)
            times: list[float] = []
            while len(times) < 3 or (sum(times) < 0.02 and len(times) < 30):
                _wait(device)
                started = time.perf_counter()
                function(*args, **kwargs)
                _wait(device)
                times.append(time.perf_counter() - started)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return 0.0
    return sorted(times)[len(times) // 2]


def _real(described: Any, device: torch.device) -> Any:
    if isinstance(described, tuple) and described and described[0] == "tensor":
        _, shape, stride, dtype = described
        tensor = torch.empty_strided(shape, stride, dtype=dtype, device=device)
        # Denormal numbers in memory that was never written would slow a processor down; tensors that share
        # memory with themselves can't be filled.
        base = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,))
        base.fill_(0.5 if dtype.is_floating_point else 0)
        return tensor
    if isinstance(described, tuple) and described and described[0] == "list":
        return [_real(item, device) for item in described[1:]]
    if isinstance(described, torch.device):
        return device
    return described


def _update(device: torch.device) -> float:
    """Seconds for each byte that clipping and fused AdamW move."""
    weights = [nn.Parameter(torch.zeros(512, 512, device=device)) for _ in range(8)]
    optimizer = torch.optim.AdamW(weights, fused=True)
    times = []
    for _ in range(5):
        for weight in weights:
            weight.grad = torch.full_like(weight, 1e-3)
        _wait(device)
        started = time.perf_counter()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        _wait(device)
        times.append(time.perf_counter() - started)
    moved = sum(_bytes(weight) for weight in weights) * (UPDATE + CLIP)
    return sorted(times)[2] / moved


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _key(operation: Operation) -> str:
    return hashlib.sha256(f"{operation.name}{operation.arguments}".encode()).hexdigest()[:24]


def _fingerprint(clock: Clock) -> str:
    """The device, torch's version and the threads: what timings depend on."""
    if clock.hardware.name != "cpu":
        about = torch.cuda.get_device_name()
    else:
        about = f"{torch.backends.cpu.get_cpu_capability()}-{torch.get_num_threads()}-threads"
    return "".join(c if c.isalnum() else "-" for c in f"{about}-torch-{torch.__version__}").lower()
