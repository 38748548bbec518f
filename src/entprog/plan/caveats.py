"""What of a configuration a plan leaves out or takes for a bound: a line each, so that silence means it is in."""

from collections.abc import Iterator

from entprog.methods.base import MethodPlugin
from entprog.plan.estimate import Planner

METHODS = ("full", "progressive", "lora", "mixed")
"""Methods whose steps a plan knows, beside those that say beforehand what each step trains (`workloads`)."""


def notes(planner: Planner) -> Iterator[str]:
    """One line for each setting that changes a real run by more than the figures say."""
    config, on_cpu = planner.config, planner.hardware.name == "cpu"
    train = config.train
    if config.method not in METHODS and type(planner.method).workloads is MethodPlugin.workloads:
        known = "progressive" if planner.ranked else "full"
        yield f'method = "{config.method}": is planned as "{known}"; what it does otherwise is not known here'
    if train.optimizer != "adamw":
        yield (
            f'train.optimizer = "{train.optimizer}": its states are exact; its update is timed as that of AdamW, and '
            "what it takes for itself while it runs is left out"
        )
    yield from _cache(planner)
    if config.freeze.storage != "full":
        yield from _storage(config.freeze.storage, on_cpu)
    if train.memory_budget:
        yield (
            f'train.memory_budget = "{train.memory_budget}": not applied; rows are the stages as the recipe has them, '
            "training cuts and recomputes what does not fit"
        )
    if train.compile != "off":
        yield f'train.compile = "{train.compile}": seconds and bytes are those of blocks that are not compiled'


def _cache(planner: Planner) -> Iterator[str]:
    train = planner.config.train
    if train.reference_cache == "off":
        return
    said = f'train.reference_cache = "{train.reference_cache}": '
    cases = {name: planner.case(settings) for name, settings in planner.config.phases.items() if settings.steps}
    cached = [name for name, case in cases.items() if case.references]
    if not cached:
        yield f"{said}saves nothing here, as what stands before the blocks trains in every phase (or is no reference)"
        return
    where = ", with what is kept among the activations" if train.reference_cache == "device" else ""
    yield (
        f"{said}steps of {' and '.join(cached)} are those with their references known{where}; each reference's first "
        "pass comes besides, and only a run that meets them again saves"
    )


def _storage(kind: str, on_cpu: bool) -> Iterator[str]:
    said = f'freeze.storage = "{kind}": '
    if on_cpu:
        yield f"{said}weights are those that a device would hold; on a CPU the originals lie in the same memory besides"
    elif kind == "offload":
        yield f"{said}fetching weights from the host's memory is not timed"
