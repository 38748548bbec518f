"""One optimizer step of 28 blocks in full and in part:
python -m benchmarks.studies.engine_step [--width 192 --pixels 256 ...].

Arms, each with and without checkpointing, interleaved in one run:
    full        everything trains, gradient through the Siamese reference, one pose adapter at the input
    suffix      the last m blocks train, a pose adapter at every block, inputs frozen, reference cached
    detached    as suffix, and no gradient through the reference pass (model.reference_gradient = false)
    scattered   m blocks spread evenly train, and everything outside of blocks, as published
Writes FLOPs, peak bytes by category (the meter's), seconds (median process CPU time; synchronised wall time on a CUDA
device) and their ratios to full to benchmarks/results/engine-step.json. The formula's bound is what scattered blocks
can save at best: full, less the weight gradients of the frozen blocks' linear layers. The suffix arm is timed with its
references in the cache; what they cost once is `fill_flops`, and what they hold `cache_bytes`.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from entprog.codecs.pca import CHANNELS, FACTOR
from entprog.config.schema import Config
from entprog.core.blocks import discover_blocks
from entprog.core.freeze import Freezer, param_groups
from entprog.core.truncation import input_parameters
from entprog.core.types import Draw
from entprog.diffusion.objective import Objective
from entprog.nets.dit import VideoDiT, build_dit
from entprog.profiling.meter import Meter
from entprog.savings.reference_cache import ReferenceCache
from entprog.tasks.human_video.task import HumanVideoTask
from entprog.train.log import describe_run

ARMS = ("full", "suffix", "detached", "scattered")


class Arm:
    """A model with its optimizer, of which exactly what the arm trains is trainable."""

    def __init__(self, name: str, settings: argparse.Namespace, draw: Draw) -> None:
        torch.manual_seed(0)
        part = name in ("suffix", "detached")
        pose = "blocks" if part else "input"
        model = build_dit("xl", depth=settings.depth, width=settings.width, heads=settings.heads, pose=pose)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.02)
        self.name, self.draw = name, draw
        self.model: VideoDiT = model.to(settings.device)
        self.model.reference_gradient = name != "detached"
        self.task = HumanVideoTask(self.model, Objective(), autocast=settings.precision)
        blocks = discover_blocks(self.model, "blocks.*")
        self.model.temporal.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(param_groups(self.model, blocks, lr=1e-5), fused=True)
        inputs = input_parameters(self.model, blocks, lambda: self.task.predict(draw))
        freezer = Freezer(self.model, blocks, self.optimizer, inputs=inputs)
        depth, m = settings.depth, settings.m
        scattered = [i * depth // m for i in range(m)]
        places = range(depth) if name == "full" else range(depth - m, depth) if part else scattered
        self.active = [f"blocks.{i}" for i in places]
        freezer.train_only(self.active, inputs=not part)
        self.fill_flops = 0
        if part:
            self.task.reference_cache = ReferenceCache(self.model, "device", 2**34)
            with Meter() as meter:
                self.task.prepare(draw)
            self.fill_flops = meter.flops

    def passes(self) -> None:
        self.task.prepare(self.draw)
        self.task.loss(self.draw).backward()

    def measure(self, checkpointing: bool) -> dict[str, Any]:
        """FLOPs and bytes of one step."""
        self.model.gradient_checkpointing = checkpointing
        self.optimizer.zero_grad(set_to_none=True)
        with Meter(self.model, self.optimizer) as meter:
            self.passes()
        cost = meter.cost()
        cache = self.task.reference_cache
        return {
            "flops": cost.flops, "bytes": cost.peak, "bytes_by_category": cost.by_category,
            "cache_bytes": cache.size if cache else 0, "fill_flops": self.fill_flops,
        }  # fmt: skip

    def step(self, checkpointing: bool) -> float:
        """Seconds of one step."""
        self.model.gradient_checkpointing = checkpointing
        cuda = self.draw.x.is_cuda
        clock = time.perf_counter if cuda else time.process_time
        gc.collect()
        if cuda:
            torch.cuda.synchronize()
        start = clock()
        self.passes()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
        return clock() - start

    def weight_gradients(self) -> int:
        """FLOPs of the weight gradients of all frozen blocks' linear layers, were they trained."""
        total = 0

        def count(layer: nn.Module, args: Any, output: Any) -> None:
            nonlocal total
            assert isinstance(layer, nn.Linear)
            total += 2 * args[0].numel() * layer.out_features

        frozen = [b for b in discover_blocks(self.model, "blocks.*") if b.name not in self.active]
        layers = [module for block in frozen for module in block.module.modules() if isinstance(module, nn.Linear)]
        hooks = [layer.register_forward_hook(count) for layer in layers]
        with torch.no_grad():
            self.task.predict(self.draw)
        for hook in hooks:
            hook.remove()
        return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("depth", 28), ("m", 7), ("width", 192), ("heads", 3), ("pixels", 256), ("batch", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "engine-step.json")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    side = settings.pixels // FACTOR

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(settings.device)

    x, eps = random(settings.batch, 1, CHANNELS, side, side), random(settings.batch, 1, CHANNELS, side, side)
    condition = {
        "reference": random(settings.batch, CHANNELS, side, side),
        "pose": random(settings.batch, 1, 3, settings.pixels, settings.pixels).sigmoid(),
    }
    draw = Draw(x, random(settings.batch).sigmoid(), eps, condition)
    arms = {name: Arm(name, settings, draw) for name in ARMS}
    keys = [(name, checkpointing) for name in ARMS for checkpointing in (False, True)]
    found = {key: arms[key[0]].measure(key[1]) for key in keys}
    seconds: dict[tuple[str, bool], list[float]] = {key: [] for key in keys}
    for _ in range(settings.rounds + 1):  # the first warms up
        for name, checkpointing in keys:
            seconds[name, checkpointing].append(arms[name].step(checkpointing))
    full = found["full", False]
    base = statistics.median(seconds["full", False][1:])
    rows = []
    for name, checkpointing in keys:
        own, times = found[name, checkpointing], seconds[name, checkpointing][1:]
        middle = statistics.median(times)
        row = {
            "arm": name, "checkpointing": checkpointing, **own, "seconds": middle,
            "seconds_least_most": [min(times), max(times)], "n": len(times),
            "fewer_flops": full["flops"] / own["flops"], "less_time": base / middle,
            "peak_of_full": own["bytes"] / full["bytes"],
            "peak_of_full_with_cache": (own["bytes"] + own["cache_bytes"]) / full["bytes"],
        }  # fmt: skip
        rows.append(row)
        print(
            f"{name:10} {'checkpointed' if checkpointing else 'plain':12} {own['flops']:.4e} FLOPs "
            f"({row['fewer_flops']:.2f}x fewer), {middle:.3f} s ({row['less_time']:.2f}x less), "
            f"{own['bytes'] / 2**20:.1f} MiB ({row['peak_of_full']:.3f})"
        )
    bound = full["flops"] - arms["scattered"].weight_gradients()
    about = describe_run(replace(Config(), device=settings.device), torch.device(settings.device), " ".join(sys.argv))
    record = {
        "command": "python " + " ".join(sys.argv),
        "settings": {k: v for k, v in vars(settings).items() if k != "out"},
        "clock": "wall, synchronised" if draw.x.is_cuda else "process CPU time, one thread",
        "rows": rows,
        "scattered_flops_over_bound": found["scattered", False]["flops"] / bound,
        **{key: about[key] for key in ("commit", "versions", "device", "capability")},
    }
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    settings.out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"scattered FLOPs over the formula's bound: {record['scattered_flops_over_bound']:.4f}; wrote {settings.out}")


if __name__ == "__main__":
    main()
