"""FLOPs and bytes of a training step: closed form = meter = torch's counter, and what freezing saves in XL.

    python -m benchmarks.studies.step_flops                  # all records, about two minutes
    python -m benchmarks.studies.step_flops --sets 5 --no-xl # the smallest

Writes benchmarks/results/step-flops.jsonl, a line for each family of active sets (how many were compared and
whether all were equal), and one for each case of the XL model, simulated: nothing of it is allocated.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import nullcontext
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, optim
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from entprog.codecs.pca import FACTOR
from entprog.core.blocks import discover_blocks
from entprog.core.freeze import param_groups
from entprog.nets.dit import SIZES, DiTConfig, VideoDiT
from entprog.profiling.meter import Meter
from entprog.tasks.human_video.flops_formula import OUTSIDE, Sizes, block_names, step_flops

RECORD = Path(__file__).parent.parent / "results" / "step-flops.jsonl"
HEADS = ("head", "head_modulation")


def train_only(model: VideoDiT, active: Collection[str], outside: bool | Collection[str]) -> None:
    wanted = {*active, *((OUTSIDE if outside else ()) if isinstance(outside, bool) else outside)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name.startswith(each + ".") for each in wanted))
    assert any(parameter.requires_grad for parameter in model.parameters()), "nothing trains"


def loss(model: VideoDiT, sizes: Sizes, reference: str, pose: bool) -> Tensor:
    c = model.config
    x = torch.randn(sizes.batch, sizes.frames, c.channels, sizes.height, sizes.width)
    side = 8 * sizes.height // c.patch
    maps = torch.rand(sizes.batch, sizes.frames, 3, side, side) if pose else None
    tokens = sizes.height * sizes.width // c.patch**2
    states = [torch.randn(sizes.batch, tokens, c.width) for _ in range(c.depth)] if reference == "given" else None
    image = None if reference == "none" else torch.randn_like(x[:, 0])
    return (model(x, torch.rand(sizes.batch), image, maps, states) - x).pow(2).mean()


def set_switches(model: VideoDiT, options: dict[str, Any]) -> None:
    model.gradient_checkpointing = bool(options.get("checkpointing", False))
    model.reference_gradient = options.get("reference_gradient", True)
    model.temporal_off = options.get("temporal_off", False)


def equal(model: VideoDiT, sizes: Sizes, active: Collection[str], torchs: bool, **options: Any) -> bool:
    """Whether formula and meter (and torch's counter, where attention is written out) say the same."""
    train_only(model, active, options.get("outside", False))
    set_switches(model, options)
    with FlopCounterMode(display=False) if torchs else nullcontext() as counter, Meter() as meter:
        loss(model, sizes, options.get("reference", "run"), options.get("pose", True)).backward()
    model.zero_grad(set_to_none=True)
    expected = step_flops(model.config, sizes, active, **{"outside": False, **options})
    same = meter.by_pass == expected and (counter is None or counter.get_total_flops() == expected.total)
    if not same:
        print("DIFFERENT", active, options, meter.by_pass, expected, file=sys.stderr)
    return same


def compared(family: str, sets: Iterable[Collection[str]], same: Callable[[Collection[str]], bool]) -> dict[str, Any]:
    results = [same(active) for active in sets]
    print(f"{family}: {sum(results)} of {len(results)} equal", file=sys.stderr)
    return {"family": family, "compared": len(results), "equal": sum(results)}


def families(sets: int) -> Iterator[dict[str, Any]]:
    """Small models over all subsets, and 28 narrow blocks over suffixes, single blocks and random sets."""
    for depth, every in ((4, 0), (5, 0), (6, 0), (3, 1)):
        model = VideoDiT(DiTConfig(depth=depth, width=8, heads=2, channels=4, temporal_every=every, pose="blocks"))
        names = block_names(model.config)
        subsets = list(chain.from_iterable(combinations(names, k) for k in range(1, len(names) + 1)))
        for checkpointing in (False, True):
            for outside in (False, True):
                options = {"checkpointing": checkpointing, "outside": outside}
                yield {
                    **compared(
                        f"all subsets of {len(names)} blocks", subsets[:sets] if sets < 20 else subsets,
                        lambda a: equal(model, Sizes(1, 2, 4, 4), a, True, **options),  # noqa: B023
                    ),
                    **options,
                }  # fmt: skip
    model = VideoDiT(DiTConfig(depth=28, width=16, heads=2, channels=4, temporal_every=2, pose="blocks"))
    names = block_names(model.config)
    shuffle = random.Random(0)
    groups = {
        "suffixes": [names[-m:] for m in range(1, len(names) + 1)],
        "single blocks": [(name,) for name in names],
        "random sets": [shuffle.sample(names, shuffle.randint(1, len(names))) for _ in range(sets)],
    }
    for label, group in groups.items():
        for options in (
            {"checkpointing": False},
            {"checkpointing": True},
            {"checkpointing": True, "reference_gradient": False},
            {"checkpointing": False, "reference": "given", "outside": HEADS},
        ):
            yield {
                **compared(
                    f"{label} of 28 spatial and 14 temporal blocks", group[:sets] if sets < 20 else group,
                    lambda a: equal(model, Sizes(1, 2, 4, 4), a, True, **options),  # noqa: B023
                ),
                **options,
            }  # fmt: skip


def xl_cases(config: DiTConfig) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """Seven of 28 spatial blocks (and in a clip the temporal blocks between them), against all of them."""
    names = block_names(config)
    suffix = names[names.index("blocks.21") :]
    scattered = [f"blocks.{i}" for i in range(1, 28, 4)]
    return {
        "full, gradient through the reference": (names, {"outside": True}),
        "full, the same with checkpointing": (names, {"outside": True, "checkpointing": True}),
        "full, reference without gradient": (names, {"outside": True, "reference_gradient": False}),
        "suffix m=7, inputs train": (suffix, {"outside": True}),
        "suffix m=7": (suffix, {"outside": HEADS}),
        "suffix m=7, reference without gradient": (suffix, {"outside": HEADS, "reference_gradient": False}),
        "suffix m=7, reference given": (suffix, {"outside": HEADS, "reference": "given"}),
        "suffix m=7, reference given, checkpointing": (
            suffix, {"outside": HEADS, "reference": "given", "checkpointing": True},
        ),
        "scattered m=7": (scattered, {"outside": HEADS}),
        "scattered m=7, reference given": (scattered, {"outside": HEADS, "reference": "given"}),
    }  # fmt: skip


def simulated(config: DiTConfig, sizes: Sizes, active: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """FLOPs and bytes of a whole AdamW step in float32, simulated."""
    with FakeTensorMode():
        model = VideoDiT(config)
        train_only(model, active, options["outside"])
        set_switches(model, options)
        blocks = discover_blocks(model)
        optimizer = optim.AdamW(param_groups(model, blocks), fused=True)
        with Meter(model, optimizer, blocks=blocks) as meter:
            loss(model, sizes, options.get("reference", "run"), True).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            loss(model, sizes, options.get("reference", "run"), True).backward()
    formula = step_flops(config, sizes, active, **options)
    written = step_flops(config, sizes, active, attention="math", **options)
    return {
        "flops": meter.flops, "forward": meter.by_pass.forward, "backward": meter.by_pass.backward,
        "recompute": meter.by_pass.recompute, "formula_equals_meter": formula == meter.by_pass,
        "formula_equals_torch_with_math_attention": written.total == counter.get_total_flops(),
        "bytes_peak": meter.peak, "bytes_by_category": meter.at_peak,
    }  # fmt: skip


def xl(frames: int, batch: int) -> Iterator[dict[str, Any]]:
    config = DiTConfig(**SIZES["xl"], pose="blocks")
    sizes = Sizes(batch, frames, 256 // FACTOR, 256 // FACTOR)
    full: dict[str, Any] = {}
    for name, (active, options) in xl_cases(config).items():
        row = simulated(config, sizes, active, options)
        full = full or row
        yield {
            "case": name, "model": "xl", "resolution": 256, "frames": frames, "batch": batch, **row,
            "flops_saved": round(full["flops"] / row["flops"], 3),
            "peak_of_full": round(row["bytes_peak"] / full["bytes_peak"], 3),
        }  # fmt: skip
        print(f"{name}, {frames} frames: {full['flops'] / row['flops']:.2f}x fewer FLOPs", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200, help="random active sets; below 20 cuts every family to it")
    parser.add_argument("--xl", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=RECORD)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    about = {"command": " ".join(["python", *sys.argv]), "torch": torch.__version__}
    rows = chain(families(arguments.sets), *([xl(1, 4), xl(10, 1)] if arguments.xl else []))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", encoding="utf-8") as file:
        for row in chain([about], rows):
            file.write(json.dumps(row) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
