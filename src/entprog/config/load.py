"""Reads a recipe into a checked `Config`, or says everything that is wrong with it at once."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import TypeAdapter, ValidationError

from entprog.config import checks, presets
from entprog.config.presets import PRESETS, without_others_options
from entprog.config.reference import TABLES, key_at, nearest
from entprog.config.schema import PUBLISHED, Config, PhaseConfig
from entprog.toml.parsing import ConfigError, parsed
from entprog.toml.trees import at, blocked, holds, laid_over, leaves, value_at, without
from entprog.toml.values import from_command_line, literal, outside, refusal, shown

__all__ = ["ConfigError", "ConfigWarning", "Reader", "config_of", "parsed", "read_config", "updated", "write_config"]

Table = TypeVar("Table", bound=Any)


class ConfigWarning(UserWarning):
    """A setting has no effect."""


def read_config(
    path: str | Path | None,
    overrides: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    *,
    resolved: bool = False,
    planned: bool = False,
) -> Config:
    """Read a recipe (None: all defaults), lay `overrides` over it, and check everything.

    From the bottom up: the defaults, the preset (`method = "entprog"` is short for that of its name), the recipe, the
    overrides. Options belong to the plugin beside which they were written: a preset gives none to a score or
    schedule that it did not name, and where an override names another method, score or schedule, the recipe's options
    of the old one go. Phases run in the recipe's order; a recipe without any runs the published three. An override is a
    dotted key with its value as TOML; text needs no quotes.

    Args:
        path: a TOML file, UTF-8 with or without a byte order mark.
        overrides: dotted key -> value; of the same key the last wins.
        resolved: the file is a finished run's config.toml: no warnings, and files that only training needs
            need not be there.
        planned: the run is only planned: neither data nor weights need to be there.

    Raises:
        ConfigError: anything is wrong.
    """
    tree = {} if path is None else parsed(Path(path))
    return config_of(tree, str(path or ""), overrides, resolved=resolved, planned=planned)


def config_of(
    tree: dict[str, Any],
    name: str = "",
    overrides: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    *,
    resolved: bool = False,
    planned: bool = False,
    quiet: bool = False,
) -> Config:
    """`read_config` of a recipe that was read already; `name` is where it came from, for the messages.

    Args:
        quiet: no warnings.
    """
    tree = presets.modernised(tree) if resolved else tree
    reader = Reader(name)
    pairs = list(overrides.items()) if isinstance(overrides, Mapping) else list(overrides)
    config = reader.config(reader.with_overrides(tree, pairs))
    for finding in checks.problems(config, files=not resolved and not planned):
        # A value that was not understood was left at its default: nothing follows from that.
        if not any(holds(key, bad) or holds(bad, key) for key in finding.keys for bad in reader.bad):
            reader.problem(finding.keys[0], finding.text, bad=False)
    if reader.problems:
        raise ConfigError(reader.problems)
    if not resolved and not quiet:
        for finding in checks.without_effect(config, reader.given, set(reader.typed)):
            warnings.warn(reader.line(finding.keys[0], finding.text), ConfigWarning, stacklevel=3)
    return config


def write_config(config: Config) -> str:
    """TOML with every key, that `read_config` reads back to an equal configuration."""
    return tomli_w.dumps(asdict(config))


def updated(table: Table, name: str, values: Mapping[str, Any]) -> Table:
    """A table of a configuration, called `name` in recipes, with other values; None leaves a value as it is.

    Raises:
        ConfigError: a value is wrong, in the words of `read_config`.
    """
    given = {key: value for key, value in values.items() if value is not None}
    reader = Reader("")
    reader.config({name: given})
    if reader.problems:
        raise ConfigError(reader.problems)
    return replace(table, **given)


class Reader:
    """Turns a tree of plain values into a `Config`, collecting problems instead of stopping at the first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[str] = []
        self.bad: set[str] = set()
        self.given: set[str] = set()
        self.typed: dict[str, str] = {}
        self.phases: list[str] = list(PUBLISHED)

    def line(self, dotted: str, text: str) -> str:
        """One line: where the key was written, the key, what about it."""
        if any(holds(dotted, key) for key in self.typed):
            return f"--{dotted}{text}"
        return f"{self.name}: {dotted}{text}" if self.name else f"{dotted}{text}"

    def problem(self, dotted: str, text: str, *, bad: bool = True) -> None:
        self.problems.append(self.line(dotted, text))
        if bad:
            self.bad.add(dotted)

    def with_overrides(self, tree: dict[str, Any], overrides: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The tree with the preset under it and the overrides over it."""
        self.given = {key for key, _ in leaves(tree)}
        phases = tree.get("phases")
        if isinstance(phases, dict) and phases:
            self.phases = list(phases)
        elif phases is None or phases == {}:
            tree = {**tree, "phases": {name: {} for name in PUBLISHED}}
        over: dict[str, Any] = {}
        for dotted, value in overrides:
            path = _path(dotted)
            key = ".".join(path)
            self.typed[key] = value
            self.given.add(key)
            if path[0] == "phases" and len(path) > 1 and path[1] not in self.phases:
                near = get_close_matches(path[1], self.phases, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.problem(key, f": the recipe has no such phase, it runs {', '.join(self.phases)}{hint}")
                continue
            if above := blocked(laid_over(tree, over), path):
                self.problem(key, f": {above} is no table")
                continue
            known = key_at(key)
            over = laid_over(over, at(path, from_command_line(value, known.kind if known else None)))
        kept = without_others_options(tree, over)
        self.given -= {key for key, _ in leaves(tree)} - {key for key, _ in leaves(kept)} - self.typed.keys()
        tree = laid_over(kept, over)
        method, preset = tree.get("method"), tree.get("preset")
        if isinstance(method, str) and "method" in PRESETS.get(method, {}):  # short for the preset of that name
            replaced = "method" in self.typed and "preset" not in self.typed  # as other methods' options are
            if preset not in (None, "", method) and not replaced:
                self.problem("method", f" = {shown(method)}: brings a preset of its own; leave out preset = {preset!r}")
            preset = method
            tree = {**tree, "method": PRESETS[method]["method"], "preset": preset}
        tree = laid_over(presets.under(preset, tree), tree) if isinstance(preset, str) else tree
        return laid_over(presets.of_task(tree), tree)

    def config(self, tree: dict[str, Any]) -> Config:
        """The configuration, with the default for each value that was refused."""
        for old, new in presets.RENAMED.items():
            if value_at(tree, old) is not None:
                self.problem(old, f": is {new} now{presets.ALSO.get(old, '')}")
                tree = without(tree, old)
        values, phases = tree, tree.get("phases")
        if isinstance(phases, dict):
            starts = {name: asdict(PUBLISHED.get(name, PhaseConfig())) for name in phases}
            values = laid_over({"phases": starts}, tree)
        while True:
            try:
                return _CONFIG.validate_python(values)
            except ValidationError as error:
                wrong = {_key(found["loc"]): found["type"] for found in error.errors(include_url=False)}
            written = [key for key, _ in leaves(tree)]
            place = {path: next(i for i, key in enumerate(written) if holds(".".join(path), key)) for path in wrong}
            for path in sorted(wrong, key=lambda path: (path[0] == "phases", place[path])):
                self.problem(".".join(path), self._refused(path, wrong[path], value_at(values, path)))
                values = without(values, path)

    def _refused(self, path: tuple[str, ...], error: str, value: Any) -> str:
        """What to say of a value that pydantic refused."""
        dotted = ".".join(path)
        if error == "unexpected_keyword_argument":
            near = nearest(dotted, self.phases)
            return f": unknown key; did you mean {' or '.join(near)}?" if near else ": unknown key"
        if error == "string_pattern_mismatch":
            return ": a phase names a folder; use letters, digits, - and _"
        said, key = f" = {shown(literal(self.typed[dotted]) if dotted in self.typed else value)}: ", key_at(dotted)
        if key is None:
            wanted = "tables, such as [phases.pose]" if dotted == "phases" else "a table, such as [phases.pose]"
            return f"{said}expected {f'a table, [{dotted}]' if dotted in TABLES else wanted}"
        beyond = outside(value, key.interval) if error.startswith(("greater_than", "less_than", "finite")) else None
        return said + (beyond or refusal(value, key.kind))


_CONFIG = TypeAdapter(Config)


def _key(place: Iterable[int | str]) -> tuple[str, ...]:
    """The parts of the key at which pydantic found something, without the place in a list."""
    return tuple(str(part) for part in takewhile(lambda part: isinstance(part, str) and part != "[key]", place))


def _path(dotted: str) -> list[str]:
    """The parts of a dotted key; dashes count as underscores, except in the name of a phase."""
    parts = dotted.strip().split(".")
    named = 1 if parts[0] == "phases" else None
    return [part if i == named else part.replace("-", "_") for i, part in enumerate(parts)]
