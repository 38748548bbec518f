"""Devices by name: memory, bandwidth and dense arithmetic rates from the vendors' data sheets."""

import os
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches

import torch

from entprog.profiling.units import parse_bytes

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Hardware:
    """A device that a step may run on.

    Attributes:
        memory: bytes; `reserve` of it is for the driver's context, library workspaces and fragmentation.
        bandwidth: bytes a second of its memory.
        bf16, fp16, fp32: dense operations a second, without sparsity; bf16 0 where it is not supported. fp32 is
            that of ordinary arithmetic, as torch does not use TF32 by itself.
        overhead: minimum seconds to launch one operation.
        source: where the figures are from.
    """

    name: str
    title: str
    memory: int
    bandwidth: float
    bf16: float
    fp16: float
    fp32: float
    reserve: int = GIB
    overhead: float = 6e-6
    source: str = ""

    @property
    def usable(self) -> int:
        """Largest peak in bytes that a step may have."""
        return max(0, self.memory - self.reserve)

    def rate(self, dtype: torch.dtype) -> float:
        """Dense operations a second in matrix products of a dtype."""
        return {torch.bfloat16: self.bf16, torch.float16: self.fp16}.get(dtype, self.fp32)


def _gpu(name: str, title: str, gib: float, gigabytes: float, half: float, single: float, source: str) -> Hardware:
    """From GiB, GB/s, TFLOP/s of bf16 (and fp16), and TFLOP/s of fp32."""
    return Hardware(
        name, title, int(gib * GIB), gigabytes * 1e9, half * 1e12, half * 1e12, single * 1e12, source=source
    )


DEVICES: dict[str, Hardware] = {
    device.name: device
    for device in (
        _gpu("h200", "NVIDIA H200 SXM 141 GB", 139.8, 4800, 989.4, 66.9, "H200 data sheet"),
        _gpu("h100", "NVIDIA H100 SXM 80 GB", 79.6, 3350, 989.4, 66.9, "H100 data sheet"),
        _gpu("h100-pcie", "NVIDIA H100 PCIe 80 GB", 79.6, 2000, 756.0, 51.2, "H100 data sheet"),
        _gpu("a100", "NVIDIA A100 SXM 80 GB", 79.2, 2039, 312.0, 19.5, "A100 data sheet"),
        _gpu("a100-40gb", "NVIDIA A100 SXM 40 GB", 39.4, 1555, 312.0, 19.5, "A100 data sheet"),
        _gpu("l40s", "NVIDIA L40S 48 GB", 44.5, 864, 362.1, 91.6, "L40S data sheet"),
        _gpu("a6000", "NVIDIA RTX A6000 48 GB", 47.5, 768, 154.8, 38.7, "RTX A6000 data sheet, GA102 white paper"),
        _gpu("rtx6000", "NVIDIA RTX 6000 Ada 48 GB", 47.4, 960, 364.2, 91.1, "RTX 6000 Ada data sheet"),
        _gpu(
            "5090", "NVIDIA GeForce RTX 5090 32 GB", 31.4, 1792, 209.5, 104.8, "Blackwell white paper (fp32 accumulate)"
        ),
        _gpu("4090", "NVIDIA GeForce RTX 4090 24 GB", 23.5, 1008, 165.2, 82.6, "Ada white paper (fp32 accumulate)"),
        _gpu("3090", "NVIDIA GeForce RTX 3090 24 GB", 23.6, 936, 71.0, 35.6, "GA102 white paper (fp32 accumulate)"),
        replace(_gpu("t4", "NVIDIA T4 16 GB", 14.6, 320, 65.0, 8.1, "T4 data sheet"), bf16=0.0),
    )
}
"""Devices by the name that `--device` takes. Memory is what the driver reports, slightly less than the nominal size."""


def find_device(name: str, memory: str = "") -> Hardware:
    """A device by name; `memory`, such as "24GiB", replaces its own.

    "cpu" is this machine.

    Raises:
        ValueError: no such device (the message lists the nearest and all known ones), or an invalid size.
    """
    known = [*DEVICES, "cpu"]
    by_name = {_plain_name(each): device for each, device in DEVICES.items()}
    found = this_cpu() if name.lower() == "cpu" else by_name.get(_plain_name(name))
    if found is None:
        near = get_close_matches(name.lower(), known, 1, 0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"--device {name!r}: unknown; {hint}choose one of {', '.join(known)}, with --memory if it differs"
        )
    if torch.cuda.is_available() and found.name == device_here():
        found = replace(found, memory=torch.cuda.get_device_properties(0).total_memory)
    if not memory:
        return found
    try:
        return replace(found, memory=parse_bytes(memory) or found.memory)
    except ValueError as error:
        raise ValueError(f"--memory {error}") from None


def device_here() -> str:
    """Name of the device of this machine: a CUDA device of the table, else "cpu"."""
    if torch.cuda.is_available():
        title = _plain_name(torch.cuda.get_device_name())
        for name in sorted(DEVICES, key=len, reverse=True):
            if _plain_name(name) in title:
                return name
    return "cpu"


def _plain_name(name: str) -> str:
    """A device's name without vendor words and separators."""
    return re.sub(r"nvidia|geforce|rtx|[^a-z0-9]", "", name.lower())


def this_cpu() -> Hardware:
    """This machine's processor; its rates are rough until calibrated."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = torch.get_num_threads()
    fast = 8.0 if torch.cpu._is_avx512_bf16_supported() else 1.0
    single = 40e9 * cores
    return Hardware(
        "cpu", f"this machine's processor, {cores} thread{'s' * (cores > 1)}", memory, 10e9, single * fast,
        single, single, overhead=5e-6, source="rough figures for one core",
    )  # fmt: skip
