"""Settings that change nothing as the rest is set: mostly a misunderstanding."""

from collections.abc import Iterator
from difflib import get_close_matches

from entprog import plugins
from entprog.config.checks import Finding, running
from entprog.config.schema import PUBLISHED, Config, PhaseConfig

RENDERED = (
    "domain",
    "subjects",
    "clips_per_subject",
    "holdout",
    "frames",
    "sizes",
    "seed",
    "workers",
    "cache",
)
"""Keys of [data] that say what to render."""


ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay")
"""Keys of [train] that not every optimizer reads."""


def without_effect(config: Config, given: set[str], typed: set[str]) -> Iterator[Finding]:
    """Settings that change nothing; `given` holds the dotted keys that the user wrote, `typed` those as options."""
    train = config.train
    if train.validation_clips and not any(phase.pose for phase in running(config).values()):
        yield Finding(
            ("train.validation_clips",),
            f" = {train.validation_clips}: no effect, as no phase has pose = true: nothing can be animated",
        )
    if train.lr_warmup_steps and train.lr_scheduler == "constant":
        yield Finding(
            ("train.lr_warmup_steps", "train.lr_scheduler"),
            f' = {train.lr_warmup_steps}: no effect with lr_scheduler = "constant"; choose "constant_with_warmup"',
        )
    reads = plugins.find("optimizer", train.optimizer).reads
    idle = [key for key in ADAM if f"train.{key}" in given and key not in reads]
    if idle:
        yield Finding(
            (f"train.{idle[0]}", "train.optimizer"),
            f'{_and_others(idle)}: no effect with optimizer = "{train.optimizer}"',
        )
    if train.optimizer_in_backward and not train.gradient_checkpointing:
        yield Finding(
            ("train.optimizer_in_backward", "train.gradient_checkpointing"),
            " = true: saves next to no memory without gradient_checkpointing: activations stand at the peak then",
        )
    if train.reference_cache != "off" and not any(_cached(phase, config) for phase in running(config).values()):
        yield Finding(
            ("train.reference_cache", "freeze.inputs_every"),
            f' = "{train.reference_cache}": next to no effect: no phase leaves the start of the reference pass '
            "frozen; set freeze.inputs_every = 0, or train temporal blocks only",
        )
    if config.freeze.inputs_every != 1 and not config.freeze.outside:
        yield Finding(
            ("freeze.inputs_every", "freeze.outside"),
            f" = {config.freeze.inputs_every}: no effect, as freeze.outside = false: nothing there trains",
        )
    if config.data.path and (idle := [key for key in RENDERED if f"data.{key}" in given]):
        yield Finding(
            (f"data.{idle[0]}",),
            f"{_and_others(idle)}: no effect, as data.path = {config.data.path!r} replaces rendered people",
        )
    for name in config.phases:
        if name not in PUBLISHED and (near := get_close_matches(name, PUBLISHED, 1, 0.75)):
            yield Finding((f"phases.{name}",), f": starts from general values; did you mean phases.{near[0]}?")
    for name, phase in running(config).items():
        if phase.echo == 1 and phase.echo_window != PhaseConfig().echo_window and f"phases.{name}.echo_window" in given:
            yield Finding(
                (f"phases.{name}.echo_window", f"phases.{name}.echo"),
                f" = {phase.echo_window}: no effect, as echo = 1: no sample trains a second time",
            )
        if phase.echo > 1 and f"phases.{name}.echo" in given and not _begins_frozen(phase, config):
            yield Finding(
                (f"phases.{name}.echo", "method"),
                f" = {phase.echo}: repeats samples and saves nothing, as the start of the network trains in this phase",
            )
    echoing = any(phase.echo > 1 for phase in running(config).values())
    if train.echo_cache == "disk" and "train.echo_cache" in given and not echoing:
        yield Finding(("train.echo_cache",), ' = "disk": no effect, as no phase has an echo above 1')
    if config.model.reference == "none" and "model.reference_gradient" in given:
        yield Finding(("model.reference_gradient",), ': no effect, as model.reference = "none"')
    # Somebody who types --method full compares with what the recipe does otherwise: no word about its keys.
    idle = sorted(
        key
        for key in given
        if ((key == "preset" and config.preset == "paper") or key.split(".")[0] in ("ranking", "schedule"))
        and key not in ("freeze.storage", "freeze.outside")  # these go for any method
        and (key in typed) == ("method" in typed)
    )
    if idle and not plugins.ranked(config.method):
        yield Finding((idle[0],), f'{_and_others(idle)}: no effect, as method = "{config.method}" has no order')


def _cached(phase: PhaseConfig, config: Config) -> bool:
    """Whether a phase leaves something of the reference pass frozen from step to step."""
    return config.model.reference != "none" and _begins_frozen(phase, config)


def _begins_frozen(phase: PhaseConfig, config: Config) -> bool:
    """Whether the start of the network stays frozen from step to step."""
    inputs = bool(config.freeze.inputs_every)
    if not plugins.ranked(config.method):
        inputs = plugins.load("method", config.method, **config.method_options).inputs == "always"
    if phase.outside and config.freeze.outside and inputs:
        return False
    return phase.blocks == "temporal" or config.method != "full"


def _and_others(keys: list[str]) -> str:
    """What follows the first key in a sentence about all of them."""
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""
