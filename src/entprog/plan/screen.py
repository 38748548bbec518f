"""A plan as a table of text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from entprog.plan.estimate import RANK
from entprog.plan.rows import PhasePlan, Plan, Row
from entprog.report import formats

HEADS = (
    "stage", "m", "order", "lowest", "trained", "weights", "gradients", "states", "activations", "peak", "fits",
    "FLOPs/step", "s/step", "in all",
)  # fmt: skip

PROCESS = (
    "stage", "m", "order", "batch", "weights", "gradients", "states", "activations", "gathered", "peak", "fits",
)  # fmt: skip
TRAFFIC = {"all_gather": "all-gather", "reduce_scatter": "reduce-scatter", "all_reduce": "all-reduce"}
"""What the columns of one process among several are called; those of traffic without any are left out."""

NAMES = {"full": "full", "full-saving": "full, recompute, 8-bit", "lora": f"LoRA rank {RANK}"}
"""What the comparisons are called."""


def text(plan: Plan) -> str:
    """All phases, one table each, with what the figures mean above and what fits below."""
    device = plan.hardware
    known = "measured on this device" if plan.calibrated else "estimate, not calibrated"
    lines = [
        f"{plan.model}, {formats.count(plan.parameters)} parameters, on {device.title}: {formats.size(device.memory)}, "
        f"{formats.size(device.reserve)} of it in reserve; forward in {plan.precision.replace('no', 'fp32')}",
        f"seconds: {known}; peak: forward, backward and update, without the driver's own memory",
    ]
    lines += [f"note: {each}" for each in plan.notes]
    for phase in plan.phases:
        lines += ["", *_phase(phase, plan)]
    return "\n".join(lines)


def _phase(phase: PhasePlan, plan: Plan) -> Iterator[str]:
    shape = phase.settings
    yield (
        f"phase {phase.name}: {shape.steps:,} steps, {shape.resolution} px, {shape.frames} "
        f"frame{'s' * (shape.frames > 1)}, batch {shape.batch}, {len(phase.blocks)} blocks"
    )
    yield from _table([HEADS, *(_cells(row, phase) for row in phase.rows)])
    if plan.processes is not None:
        yield from _processes(phase, plan.processes)
    full = next(row for row in phase.rows if row.kind == "full")
    low, high = phase.seconds
    yield (
        f"in all {_range(formats.seconds(low), formats.seconds(high))}, "
        f"{_range(formats.flops(phase.flops[0]), formats.flops(phase.flops[1]))}; "
        f"full fine-tuning {formats.seconds(full.seconds * full.steps)}, {formats.flops(full.flops * full.steps)}"
    )
    if phase.largest:
        yield f"on this device: {sentence(phase)}"
    if phase.ranking is not None:
        fits = "" if phase.ranking <= plan.hardware.usable else ", which does NOT fit: lower ranking.samples"
        yield f"ranking its blocks first: at most {formats.size(phase.ranking)}{fits}"


def _table(cells: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        left, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join([row[0].ljust(len(left)), *rest]).rstrip()


def _processes(phase: PhasePlan, spread: Mapping[str, Any]) -> Iterator[str]:
    """What each of several processes takes: a table of the same rows."""
    found = [(row, row.process) for row in phase.rows if row.process is not None]
    gpus, copies = spread["gpus"], spread["replicate"]
    how = "the whole network on each"
    if spread["shard"]:
        how = f"sharded by block over {gpus // copies}" + f", {copies} copies" * (copies > 1)
    yield f"each of {gpus} processes, {how}; traffic: bytes that it sends, and receives, a step"
    used = [name for name in TRAFFIC if any(process.traffic[name] for _, process in found)]
    cells = [(*PROCESS, *(f"{TRAFFIC[name]}/step" for name in used))]
    for row, process in found:
        categories = ("weights", "gradients", "optimizer", "activations", "gathered")
        cells.append((
            NAMES.get(row.kind) or stages(row.stages) + size(row, phase), str(row.m), row.order or "any",
            str(process.batch), *(formats.size(process.bytes.get(name, 0)) for name in categories),
            formats.size(process.peak), "yes" if process.fits else "NO",
            *(formats.size(process.traffic[name]) for name in used),
        ))  # fmt: skip
    yield from _table(cells)


def _cells(row: Row, phase: PhasePlan) -> tuple[str, ...]:
    stage = NAMES.get(row.kind) or stages(row.stages) + size(row, phase)
    parts = [formats.size(row.bytes.get(name, 0)) for name in ("weights", "gradients", "optimizer", "activations")]
    return (
        stage, str(row.m), row.order or "any", str(row.lowest), formats.count(row.trained), *parts,
        formats.size(row.peak), "yes" if row.fits else "NO", formats.flops(row.flops), formats.seconds(row.seconds),
        formats.seconds(row.seconds * row.steps),
    )  # fmt: skip


def size(row: Row, phase: PhasePlan) -> str:
    """What of a stage's shape is not the phase's own, in brackets."""
    own, shape = phase.settings, row.shape
    parts = [f"{shape.size} px"] * (shape.sides != own.sides)
    parts += [f"{shape.frames} frame{'s' * (shape.frames > 1)}"] * (shape.frames != own.frames)
    parts += [f"batch {shape.batch}"] * (shape.batch != own.batch)
    parts += [f"{shape.tokens:.3g} of tokens"] * (shape.tokens < 1)
    return f" ({', '.join(parts)})" * bool(parts)


def stages(numbers: Sequence[int]) -> str:
    """Numbers of stages in few words: "1-3"."""
    if len(numbers) > 1 and numbers[-1] - numbers[0] + 1 == len(numbers):
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))


def sentence(phase: PhasePlan) -> str:
    """What of a phase fits at most."""
    parts = []
    if counts := [each for each in phase.largest if each.what == "m"]:
        words = [f"{each.value or 'none'}" + (f" ({each.order})" if each.order else "") for each in counts]
        parts.append(f"{' or '.join(words)} of {len(phase.blocks)} blocks")
    for each in phase.largest:
        if each.what == "m":
            continue
        unit = "frames" if each.what == "frames" else "px"
        value = f"{each.value}x{each.width}" if each.width else each.value
        amount = f"up to {value} {unit}" if each.value else f"no number of {unit}"
        which = f"m = {each.m}" + (f" ({each.order})" if each.order else "")
        parts.append(f"{amount}{' or more' * each.limit} with {which}")
    return "; ".join(parts)


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
