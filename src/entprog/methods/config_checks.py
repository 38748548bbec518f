"""What methods and their schedules ask of a configuration: steps for their stages and searches, and for an echo.

Finding this out builds no model and needs no torch of its own.
"""

from collections.abc import Iterator
from typing import Any

from entprog import plugins
from entprog.config.checks import Finding, running
from entprog.config.schema import Config, PhaseConfig


def problems(config: Config) -> Iterator[Finding]:
    """Phases with too few steps for the stages and searches of the method or its schedule."""
    source, options = sizes_from(config)
    for name, phase in running(config).items():
        steps = (f"phases.{name}.steps", "schedule" if options == "schedule.options" else options)
        stages = source.stages
        if stages > phase.steps:
            what, remedy = f"{options}", "give shorter lists"
            if options == "schedule.options":
                what, remedy = f'schedule "{config.schedule.name}"', "lower schedule.options.stages"
            yield Finding(steps, f" = {phase.steps}: fewer than the {stages} stages of {what}; {remedy} or raise steps")
        elif options == "schedule.options" and source.estimator != "none":
            yield from _search(name, phase, config, source, steps)


def _search(name: str, phase: PhaseConfig, config: Config, schedule: Any, steps: tuple[str, ...]) -> Iterator[Finding]:
    length = phase.steps // schedule.stages
    if phase.echo > 1:
        yield Finding(
            (f"phases.{name}.echo", "schedule.name"),
            f" = {phase.echo}: schedule {config.schedule.name!r} searches, and candidates must not see the same "
            "samples; leave echo at 1, or choose a schedule that does not search",
        )
    elif schedule.search_steps >= length:
        yield Finding(
            steps,
            f" = {phase.steps}: each of {schedule.stages} stages has {length} steps, its search alone takes "
            f"schedule.options.search_steps = {schedule.search_steps}; lower one of these or raise steps",
        )


def without_effect(config: Config, given: set[str]) -> Iterator[Finding]:
    """Keys about searches, resting inputs and echoes that change nothing; `given` holds those that the user wrote."""
    if config.train.watch != "mean" and "train.watch" in given and not _searches(config):
        yield Finding(("train.watch", "method"), f' = "{config.train.watch}": no effect, as nothing is searched')
    if config.freeze.inputs_every != 1 and not config.freeze.outside:
        yield Finding(
            ("freeze.inputs_every", "freeze.outside"),
            f" = {config.freeze.inputs_every}: no effect, as freeze.outside = false: nothing there trains",
        )
    banded = getattr(plugins.load("method", config.method, **config.method_options), "noise_edges", ())
    for name, phase in running(config).items():
        if phase.echo > 1 and banded:
            other = (
                "set method_options.echo instead"
                if config.method == "bands"
                else "leave echo at 1, or noise_edges empty"
            )
            yield Finding(
                (f"phases.{name}.echo", "method_options.noise_edges"),
                f" = {phase.echo}: samples come again in another band, with other noise, which saves nothing; {other}",
            )
        if phase.echo == 1 and phase.echo_window != PhaseConfig().echo_window and f"phases.{name}.echo_window" in given:
            yield Finding(
                (f"phases.{name}.echo_window", f"phases.{name}.echo"),
                f" = {phase.echo_window}: no effect, as echo = 1: no sample trains a second time",
            )
        if phase.echo > 1 and f"phases.{name}.echo" in given and not begins_frozen(phase, config):
            yield Finding(
                (f"phases.{name}.echo", "method"),
                f" = {phase.echo}: repeats samples and saves nothing, as the start of the network trains in this phase",
            )
    echoing = any(phase.echo > 1 for phase in running(config).values())
    if config.train.echo_cache == "disk" and "train.echo_cache" in given and not echoing:
        yield Finding(("train.echo_cache",), ' = "disk": no effect, as no phase has an echo above 1')


def sizes_from(config: Config) -> tuple[Any, str]:
    """What may give a phase other sizes than its own, a schedule or a method, and the key of its options."""
    if plugins.ranked(config.method):
        return plugins.load("schedule", config.schedule.name, **config.schedule.options), "schedule.options"
    return plugins.load("method", config.method, **config.method_options), "method_options"


def _searches(config: Config) -> bool:
    """Whether candidates are compared by their held-out loss."""
    source, options = sizes_from(config)
    ranked = options == "schedule.options"
    return bool(source.estimator != "none" if ranked else plugins.declared("method", config.method, "searching", False))


def inputs_rest(config: Config, *, always: bool = False) -> bool:
    """Whether input-side parameters rest at some steps of a phase that trains them, or at all steps (`always`)."""
    if plugins.ranked(config.method):
        return config.freeze.inputs_every == 0
    method = plugins.load("method", config.method, **config.method_options)
    return bool(method.inputs == "never" if always else method.inputs != "always")


def begins_frozen(phase: PhaseConfig, config: Config) -> bool:
    """Whether the start of the network stays frozen from step to step."""
    if phase.outside and config.freeze.outside and not inputs_rest(config):
        return False
    return phase.blocks == "temporal" or not plugins.declared("method", config.method, "every_block", False)
