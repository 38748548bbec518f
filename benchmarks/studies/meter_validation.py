"""The meter's peak of whole training steps against what torch's allocators report.

    python -m benchmarks.studies.meter_validation                       # the nano model on this CPU, about a minute
    python -m benchmarks.studies.meter_validation --size s --device cuda

Writes benchmarks/results/meter-validation.jsonl: for each case the meter's peak by category, that of a simulated
step (FakeTensorMode), the real one (the profiler's memory events on a CPU, max_memory_allocated on a CUDA
device), and how far they are apart.
"""

import argparse
import json
import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch._subclasses.fake_tensor import FakeTensorMode

from entprog.core.blocks import discover_blocks
from entprog.core.freeze import Freezer, param_groups
from entprog.nets.dit import VideoDiT, build_dit
from entprog.profiling.meter import Meter
from entprog.profiling.profiled import cuda_peak, profiled_peak

RECORD = Path(__file__).parent.parent / "results" / "meter-validation.jsonl"


class Case:
    """A model with an optimizer and inputs, and the step that trains it."""

    def __init__(self, size: str, device: str, frames: int, active: str, checkpointing: bool, autocast: bool) -> None:
        self.autocast, self.device = autocast, device
        self.model: VideoDiT = build_dit(size)
        if device != "cpu":
            self.model.to(device)
        self.model.gradient_checkpointing = checkpointing
        self.blocks = discover_blocks(self.model)
        self.optimizer = optim.AdamW(param_groups(self.model, self.blocks), fused=True)
        if active != "full":
            freezer = Freezer(self.model, self.blocks, self.optimizer, outside=False)
            freezer.train_only(self.blocks.names[-len(self.blocks) // 3 :])
        self.given = [
            torch.randn(4, frames, 16, 16, 16, device=device), torch.rand(4, device=device),
            torch.randn(4, 16, 16, 16, device=device), torch.rand(4, frames, 3, 64, 64, device=device),
        ]  # fmt: skip

    def step(self) -> None:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            out = self.model(*self.given)
        (out - self.given[0]).pow(2).mean().backward()
        del out
        nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def existing(self) -> list[Tensor]:
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.model.parameters(), *states, *self.given]

    def metered(self) -> Meter:
        with Meter(self.model, self.optimizer, held=self.given) as meter:
            self.step()
        return meter


def measure(size: str, device: str, *case: Any) -> dict[str, Any]:
    frames, active, checkpointing, autocast = case
    with FakeTensorMode() if device == "cpu" else nullcontext():
        simulated = Case(size, "cpu", *case).metered().peak if device == "cpu" else None
    real = Case(size, device, *case)
    meter = real.metered()
    if device == "cpu":
        peak = profiled_peak(real.step, real.existing())
    else:
        # Workspaces of libraries lie beside what the meter knows.
        besides = torch.cuda.memory_allocated() - sum(meter.live.values())
        peak = cuda_peak(real.step) - besides
    return {
        "model": size, "device": device, "frames": frames, "active": active, "checkpointing": checkpointing,
        "autocast": "bf16" if autocast else "no", "meter": meter.peak, "by_category": meter.at_peak,
        "simulated": simulated, "real": peak, "difference": round(meter.peak / peak - 1, 6),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--out", type=Path, default=RECORD)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", encoding="utf-8") as file:
        about = {"command": " ".join(["python", *sys.argv]), "torch": torch.__version__}
        if arguments.device == "cuda":
            about["gpu"] = torch.cuda.get_device_name()
        file.write(json.dumps(about) + "\n")
        for case in product(arguments.frames, ("full", "suffix"), (False, True), (False, True)):
            row = measure(arguments.size, arguments.device, *case)
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(*case, f"{row['difference']:+.3%}", file=sys.stderr)


if __name__ == "__main__":
    main()
