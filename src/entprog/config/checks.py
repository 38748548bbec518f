"""Keys that are right each by itself and wrong together, and settings that change nothing.

What a plugin can judge better, it says itself: a task by `problems`, `missing` and `without_effect`, a method by
`problems` and `without_effect`, a metric by `at_least`, any plugin by `packages` (see `plugins.declared`).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from entprog import plugins
from entprog.config.presets import PRESETS, moved, value_of
from entprog.config.reference import KEYS, PLUGINS, Key
from entprog.config.schema import PUBLISHED, Config, PhaseConfig
from entprog.profiling.units import parse_bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, in words that follow the first of the `keys` that it comes from."""

    keys: tuple[str, ...]
    text: str


def problems(config: Config, *, files: bool = True) -> Iterator[Finding]:
    """Everything that keeps this configuration from running.

    Args:
        files: data, weights and packages must be there, too.
    """
    yield from _run(config)
    wrong = {place: list(_plugin(config, place, key, name)) for place, key, name in chosen(config)}
    for findings in wrong.values():
        yield from findings
    if not (wrong["method"] or (plugins.ranked(config.method) and wrong["schedule.name"])):
        yield from plugins.declared("method", config.method, "problems", _nothing)(config)
        if not wrong["task"]:
            yield from plugins.declared("task", config.task, "problems", _nothing)(config)
    yield from _metrics(config)
    yield from _loop(config)
    if not wrong["train.optimizer"]:
        yield from plugins.declared("optimizer", config.train.optimizer, "problems", _nothing)(config)
    if files:
        if not wrong["task"]:
            yield from plugins.declared("task", config.task, "missing", _nothing)(config)
        yield from packages(config)


def packages(config: Config, kinds: Iterable[str] = tuple(plugins.FOLDERS)) -> Iterator[Finding]:
    """Packages that the chosen plugins, or values of keys, need and that are not installed."""
    needs = [
        (key.name, name, plugins.declared(key.plugin, name, "packages", {}))
        for key, name in sound(config)
        if key.plugin in kinds and (key.plugin != "metric" or config.evaluate.clips)
    ]
    values = [(key, value_of(config, key.name)) for key in KEYS.values() if key.packages]
    needs += [(key.name, one, key.packages.get(one, {})) for key, value in values for one in _each(value)]
    for key, value, needed in needs:
        if absent := plugins.not_installed(needed):
            yield Finding((key,), f' = "{value}": {absent}')


TRACKERS = ("tensorboard", "trackio", "wandb")
"""What `train.report_to` may name beside "none"."""


def tracker_names(report_to: str) -> tuple[str, ...]:
    """The trackers of `train.report_to`, such as "tensorboard, wandb"; nothing for "none".

    Raises:
        ValueError: an unknown name, one that is given twice, or "none" with others.
    """
    names = _each(report_to)
    if names == ("none",):
        return ()
    for name in names:
        if name == "none":
            raise ValueError('"none" stands alone; leave it out')
        if name not in TRACKERS:
            near = get_close_matches(name, TRACKERS, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f'expected "none", or some of {", ".join(TRACKERS)}, separated by commas{hint}')
        if names.count(name) > 1:
            raise ValueError(f"{name} is given twice; name it once")
    return names


def _each(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(","))


def running(config: Config) -> dict[str, PhaseConfig]:
    """The phases that have steps, in order."""
    return {name: phase for name, phase in config.phases.items() if phase.steps > 0}


def chosen(config: Config) -> Iterator[tuple[str, Key, str]]:
    """Every plugin that the configuration names, a score and a schedule also where nothing is ranked.

    Each as the place of its name (in a list "KEY[i]"), its key, and its name.
    """
    for key in PLUGINS:
        value = value_of(config, key.name)
        if isinstance(value, str):
            yield key.name, key, value
        else:
            yield from ((f"{key.name}[{i}]", key, name) for i, name in enumerate(value))


def sound(config: Config) -> list[tuple[Key, str]]:
    """The chosen plugins that exist and whose options are right."""
    return [(key, name) for place, key, name in chosen(config) if not any(_plugin(config, place, key, name))]


def _nothing(*_: Any) -> Iterator[Finding]:
    return iter(())


def _run(config: Config) -> Iterator[Finding]:
    if not config.output_dir.strip():
        yield Finding(("output_dir",), ' = "": name a folder for the run')
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        yield Finding(("device",), f' = {config.device!r}: expected "auto", "cpu", "cuda" or "cuda:N"')
    if not running(config):
        yield Finding(("phases",), ": no phase has steps; give at least one phase with steps above 0")


def _plugin(config: Config, place: str, key: Key, name: str) -> Iterator[Finding]:
    kind = key.plugin
    if now := moved(kind, name):
        yield Finding((place,), f" = {name!r}: is {now!r} now, and comes with the repository only")
        return
    try:
        found = plugins.find(kind, name)
    except (ValueError, ImportError) as error:
        short = get_close_matches(name, PRESETS if kind == "method" else (), 1)  # of a preset, which is no plugin
        yield Finding((place,), f" = {name!r}: {f'did you mean {short[0]!r}? ' if short else ''}{error}")
        return
    if lacking := plugins.lacking(kind, found):
        yield Finding((place,), f" = {name!r}: no {kind}, as {found.__name__} has no {', '.join(lacking)}")
        return
    table, options = key.options, value_of(config, key.options) if key.options else {}
    if place != key.name:  # one of a list, each with a table of its own
        table, options = f"{key.options}.{name}", options.get(name, {})
    for text in plugins.problems(kind, name, options):
        yield Finding((table or place, place), f": {text}")


def _metrics(config: Config) -> Iterator[Finding]:
    for name in config.evaluate.metric_options:
        if ":" not in name and name not in (known := plugins.names("metric")):
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(known)}"
            yield Finding((f"evaluate.metric_options.{name}",), f": no such metric{hint}")
    for metric in (name for key, name in sound(config) if key.plugin == "metric"):
        for name, count in plugins.declared("metric", metric, "at_least", {}).items():
            given = value_of(config, f"evaluate.{name}")
            if 0 < given < count:
                yield Finding(
                    (f"evaluate.{name}", "evaluate.metrics"),
                    f' = {given}: evaluate.metrics = "{metric}" needs at least {count} {name}; '
                    "raise it, or leave the metric out",
                )


def _loop(config: Config) -> Iterator[Finding]:
    train, phases = config.train, running(config)
    if phases and train.lr_scheduler != "constant":
        shortest = min(phases, key=lambda name: phases[name].steps)
        if train.lr_warmup_steps > phases[shortest].steps:
            yield Finding(
                ("train.lr_warmup_steps", f"phases.{shortest}.steps"),
                f" = {train.lr_warmup_steps}: longer than the phase {shortest}, "
                f"phases.{shortest}.steps = {phases[shortest].steps}",
            )
    try:
        parse_bytes(train.memory_budget)
    except ValueError as error:
        yield Finding(("train.memory_budget",), f" = {error}")
    try:
        tracker_names(train.report_to)
    except ValueError as error:
        yield Finding(("train.report_to",), f' = "{train.report_to}": {error}')
    if train.mixed_precision == "fp16" and config.device == "cpu":
        yield Finding(
            ("train.mixed_precision", "device"),
            ' = "fp16": only on a CUDA device, and device = "cpu"; choose "bf16" or "no"',
        )
    if config.freeze.storage != "full" and train.compile != "off":
        yield Finding(
            ("freeze.storage", "train.compile"),
            f' = "{config.freeze.storage}": not together with train.compile = "{train.compile}", as weights '
            'that come and go cannot be compiled; choose "full" or "off"',
        )
    if config.sample.weights == "ema" and train.ema_decay == 0:
        yield Finding(
            ("sample.weights", "train.ema_decay"), ' = "ema": no averaged weights are kept, as train.ema_decay = 0'
        )


def without_effect(config: Config, given: set[str], typed: set[str]) -> Iterator[Finding]:
    """Settings that change nothing; `given` holds the dotted keys that the user wrote, `typed` those as options."""
    train = config.train
    if train.lr_warmup_steps and train.lr_scheduler == "constant":
        yield Finding(
            ("train.lr_warmup_steps", "train.lr_scheduler"),
            f' = {train.lr_warmup_steps}: no effect with lr_scheduler = "constant"; choose "constant_with_warmup"',
        )
    for name in config.evaluate.metric_options:
        if name not in config.evaluate.metrics:
            key = f"evaluate.metric_options.{name}"
            yield Finding((key, "evaluate.metrics"), f": no effect, as evaluate.metrics does not name {name}")
    yield from plugins.declared("optimizer", train.optimizer, "without_effect", _nothing)(config, given)
    yield from plugins.declared("task", config.task, "without_effect", _nothing)(config, given)
    for name in config.phases:
        if name not in PUBLISHED and (near := get_close_matches(name, PUBLISHED, 1, 0.75)):
            yield Finding((f"phases.{name}",), f": starts from general values; did you mean phases.{near[0]}?")
    yield from plugins.declared("method", config.method, "without_effect", _nothing)(config, given)
    # Somebody who types --method full compares with what the recipe does otherwise: no word about its keys.
    idle = sorted(
        key
        for key in given
        if ((key == "preset" and config.preset == "paper") or key.split(".")[0] in ("ranking", "schedule"))
        and (key in typed) == ("method" in typed)
    )
    if idle and not plugins.ranked(config.method):
        yield Finding((idle[0],), f'{and_others(idle)}: no effect, as method = "{config.method}" has no order')


def and_others(keys: list[str]) -> str:
    """What follows the first key in a sentence about all of them."""
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""
