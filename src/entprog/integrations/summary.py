"""What an attached method will train, and what it saves and does not save, in plain sentences."""

from collections.abc import Iterator, Sequence

from entprog.core.types import MethodContext, Workload
from entprog.integrations.choices import Choices
from entprog.integrations.prefix_cache import KnownBatches

__all__ = ["summary"]


def summary(choices: Choices, context: MethodContext, known: KnownBatches | None = None) -> str:
    """One line for each part of the run in which the same blocks train, and what that costs."""
    total = len(context.blocks)
    lines = [f"entprog: method {choices.method!r}, {total} blocks, {context.total_steps} steps"]
    if choices.ranked:
        lines[0] += f", score {choices.score!r}, schedule {choices.schedule!r}"
    fullest, every = 0, []
    for start, end, workload, count in _parts(choices, context):
        where = f"steps {start}-{end - 1}" if end - start > 1 else f"step {start}"
        if count > 1:
            lines.append(f"  {where}: a search chooses among {count} workloads")
            continue
        reached = _reached(choices, context, workload)
        fullest = max(fullest, reached)
        every += [where] if len(workload.active) == total else []
        kind = "with adapters" if choices.method == "lora" else "train"
        lines.append(f"  {where}: {len(workload.active)} of {total} blocks {kind}, backward through {reached}")
    if fullest == total:
        lines.append(f"  not saved: {_not_saved(choices, every)}")
    if known is not None:
        lines.append(f"  prefix cache: {_prefixes(choices, context, known)}")
    return "\n".join(lines)


def _parts(choices: Choices, context: MethodContext) -> Iterator[tuple[int, int, Workload, int]]:
    """(first step, step after the last, workload, how many candidates there are)."""
    if not choices.ranked or context.schedule is None or context.ranking is None:
        start = 0
        for workload, steps in choices.plugin.workloads(context.blocks.names, None, context.total_steps, context.seed):
            yield start, start + steps, workload, 1
            start += steps
        return
    stages = context.schedule.stages
    for stage in range(stages):
        first, end = (-(-k * context.total_steps // stages) for k in (stage, stage + 1))
        candidates = context.schedule.candidates(stage, context.ranking, None, None)
        yield first, end, candidates[0], len(set(candidates))


def _reached(choices: Choices, context: MethodContext, workload: Workload) -> int:
    """How many blocks the backward goes through: down to the lowest that trains, or to the input-side parameters."""
    rest = context.inputs and (context.inputs_every != 1 if choices.ranked else not workload.inputs)
    if not rest or choices.method == "mixed":
        return len(context.blocks)
    names = context.blocks.names
    return len(names) - min(names.index(name) for name in workload.active)


def _prefixes(choices: Choices, context: MethodContext, known: KnownBatches) -> str:
    """What is kept of how many batches, and in which steps."""
    names, used = context.blocks.names, []
    for start, end, workload, _ in _parts(choices, context):
        resting = not known.inputs_train or (context.inputs_every != 1 if choices.ranked else not workload.inputs)
        if choices.method not in ("mixed", "full") and resting and names[0] not in workload.active:
            used.append(f"{start}-{end - 1}" if end - start > 1 else f"{start}")
    if not used:
        if choices.method in ("mixed", "full") or (choices.ranked and context.inputs_every != 1):
            reason = "the first block or an adapter in it trains in each; leave prefix_cache out"
        elif choices.ranked and known.inputs_train:
            reason = "input-side parameters train in each; give inputs_every=0, or leave prefix_cache out"
        else:
            reason = "the first block or an input-side parameter trains in each; leave prefix_cache out"
        return f"used in no step: {reason}"
    every = context.inputs_every
    rest = f"; dropped at every {every}th, where input-side parameters train" if choices.ranked and every > 1 else ""
    kept = f"up to {known.keep} batches of {known.nbytes / 1e6:.3g} MB (as large as probe[0]) on {known.device}"
    return f"{kept}; blocks below the lowest active one run once a batch in steps {', '.join(used)}{rest}"


def _not_saved(choices: Choices, every: Sequence[str]) -> str:
    """Why some steps cost as much as those of full fine-tuning, and what would change it.

    Args:
        every: where every block trains.
    """
    if choices.method == "full":
        return "every step costs what full fine-tuning costs; gradient_checkpointing=True saves activations"
    if choices.method == "lora":
        return (
            "activations, since the backward goes through every block; method_options={'m': 0.34, 'inputs': 'never'} "
            "ends it at the last third (preset='entprog')"
        )
    if choices.method == "mixed":
        return "activations, since every block has an adapter; method='progressive' ends the backward earlier"
    remedy = (
        "inputs_every=0 ends the backward at the lowest active block, schedule='fixed' with schedule_options={'m': "
        "(0.34,)} keeps every stage small, and preset='entprog' is the cheapest"
    )
    if every:
        return (
            f"memory where every block trains ({', '.join(every)}): it is that of full fine-tuning, so the peak of the "
            f"run is no lower; {remedy}"
        )
    return (
        "most activations, since the backward goes through every block: frozen layers keep all but the inputs of their "
        f"weights; {remedy}"
    )
