"""Reads a recipe into a checked `Config`, telling everything that is wrong with it at once."""

import re
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path
from typing import Any

import tomli_w

from entprog.config import checks, reference, unused
from entprog.config.schema import CLIPS, IMAGES, PRESETS, PUBLISHED, Config, PhaseConfig
from entprog.config.trees import laid_over, leaves, value_at, without
from entprog.config.values import Typed, converted, literal, outside, shown

RESUMABLE = (
    "output_dir",
    "label",
    "data.workers",
    "data.cache",
    "train.checkpointing_steps",
    "train.checkpoints_total_limit",
    "train.validation_steps",
    "train.validation_clips",
    "train.report_to",
    "sample",
    "evaluate",
)
"""What may differ when a run is resumed: keys, and tables with all their keys, that no weight depends on."""

OPTIONS_OF = {
    "method": "method_options", "ranking.score": "ranking.options", "schedule.name": "schedule.options",
    "train.optimizer": "train.optimizer_options", "task": "task_options",
}  # fmt: skip
"""Key that names a plugin -> the table of its options."""

LARGEST = 1_000_000
"""Bytes of a recipe; something larger is another file, given by mistake."""


class ConfigError(ValueError):
    """A configuration can't be used; `problems` holds one line for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


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
    name = "" if path is None else str(path)
    return config_of(tree, name, overrides, resolved=resolved, planned=planned)


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
    reader = Reader(name)
    pairs = list(overrides.items()) if isinstance(overrides, Mapping) else list(overrides)
    config = reader.config(reader.with_overrides(tree, pairs))
    for finding in checks.problems(config, files=not resolved and not planned):
        # A value that was not understood was left at its default: nothing follows from that.
        if not any(_related(key, bad) for key in finding.keys for bad in reader.bad):
            reader.problem(finding.keys[0], finding.text, bad=False)
    if reader.problems:
        raise ConfigError(reader.problems)
    if not resolved and not quiet:
        for finding in unused.without_effect(config, reader.given, reader.typed):
            warnings.warn(reader.told(finding.keys[0], finding.text), ConfigWarning, stacklevel=3)
    return config


def write_config(config: Config) -> str:
    """TOML with every key, that `read_config` reads back to an equal configuration."""
    return tomli_w.dumps(_plain(asdict(config)))


def differences(a: Config, b: Config, ignore: Sequence[str] = ()) -> list[str]:
    """One line for each dotted key that differs: "train.seed: 0 -> 1".

    `ignore` names keys, or tables with all their keys, that may differ (`RESUMABLE` on resume). The order of
    phases and the options of plugins count.
    """
    before, after = dict(leaves(_plain(asdict(a)))), dict(leaves(_plain(asdict(b))))
    if set(a.phases) == set(b.phases):
        before["phases"], after["phases"] = list(a.phases), list(b.phases)
    lines = []
    for key in dict.fromkeys([*before, *after]):
        ignored = any(f"{key}.".startswith(f"{prefix}.") for prefix in ignore)
        # repr tells 1 from true and 1.0, which an option of a plugin may not take for the same.
        if repr(before.get(key)) != repr(after.get(key)) and not ignored:
            lines.append(f"{key}: {_written(before, key)} -> {_written(after, key)}")
    return lines


class Reader:
    """Turns a tree of plain values into a `Config`, collecting problems instead of stopping at the first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[str] = []
        self.bad: set[str] = set()
        self.given: set[str] = set()
        self.typed: set[str] = set()
        self.phases: list[str] = list(PUBLISHED)

    def told(self, dotted: str, text: str) -> str:
        """One line: where the key was written, the key, what about it."""
        if any(f"{key}.".startswith(f"{dotted}.") for key in self.typed):
            return f"--{dotted}{text}"
        return f"{self.name}: {dotted}{text}" if self.name else f"{dotted}{text}"

    def problem(self, dotted: str, text: str, *, bad: bool = True) -> None:
        self.problems.append(self.told(dotted, text))
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
            self.typed.add(key)
            self.given.add(key)
            if path[0] == "phases" and len(path) > 1 and path[1] not in self.phases:
                near = get_close_matches(path[1], self.phases, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.problem(key, f": the recipe has no such phase, it runs {', '.join(self.phases)}{hint}")
                continue
            branch: Any = Typed(value)
            for part in reversed(path):
                branch = {part: branch}
            if blocked := _blocked(laid_over(tree, over), path):
                self.problem(key, f": {blocked} is no table")
                continue
            over = laid_over(over, branch)
        kept = without_others_options(tree, over)
        self.given -= {key for key, _ in leaves(tree)} - {key for key, _ in leaves(kept)} - self.typed
        tree = laid_over(kept, over)
        method, preset = (literal(v) if isinstance(v, Typed) else v for v in map(tree.get, ("method", "preset")))
        if isinstance(method, str) and "method" in PRESETS.get(method, {}):  # short for the preset of that name
            replaced = "method" in self.typed and "preset" not in self.typed  # as other methods' options are
            if preset not in (None, "", method) and not replaced:
                self.problem("method", f" = {shown(method)}: brings a preset of its own; leave out preset = {preset!r}")
            preset = method
            tree = {**tree, "method": PRESETS[method]["method"], "preset": preset}
        under = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
        under = _without_strange_options(under, tree)
        if "method_options" in under:
            under = {**under, "phases": _under_phases(str(preset), tree.get("phases"))}
        return laid_over(under, tree)

    def config(self, tree: dict[str, Any]) -> Config:
        """The configuration, with the default for each value that was refused."""
        phases = tree.get("phases", {})
        values = self._values(Config, {key: value for key, value in tree.items() if key != "phases"}, "")
        if not isinstance(phases, dict):
            self.problem("phases", f" = {shown(phases)}: expected tables, such as [phases.pose]")
            return Config(**values)
        read = {}
        for name, table in phases.items():
            dotted = f"phases.{name}"
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                self.problem(dotted, ": a phase names a folder; use letters, digits, - and _")
            elif not isinstance(table, dict):
                self.problem(dotted, f" = {shown(table)}: expected a table, such as [phases.pose]")
            else:
                start = PUBLISHED.get(name, PhaseConfig())
                read[name] = replace(start, **self._values(PhaseConfig, table, dotted))
        return Config(**values, phases=read)

    def _values(self, table: type[Any], tree: dict[str, Any], dotted: str) -> dict[str, Any]:
        kinds = reference.hints(table)
        values = {}
        for key, value in tree.items():
            name = f"{dotted}.{key}" if dotted else key
            kind = kinds.get(key)
            if kind is None:
                near = reference.nearest(name, self.phases)
                self.problem(name, f": unknown key; did you mean {' or '.join(near)}?" if near else ": unknown key")
            elif reference.is_table(kind):
                if isinstance(value, dict):
                    values[key] = kind(**self._values(kind, value, name))
                else:
                    self.problem(name, f" = {shown(value)}: expected a table, [{name}]")
            else:
                try:
                    values[key] = converted(value, kind)
                except TypeError as error:
                    self.problem(name, f" = {shown(value)}: {error}")
                    continue
                if beyond := outside(values[key], reference.limit(name)):
                    self.problem(name, f" = {shown(value)}: {beyond}")
                    del values[key]
        return values


def parsed(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: there is no file, or no TOML in it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except IsADirectoryError:
        inside = path / "config.toml"
        hint = f"; did you mean {inside}?" if inside.is_file() else ", not a recipe; give a TOML file"
        raise ConfigError([f"{path}: is a folder{hint}"]) from None
    except FileNotFoundError:
        beside = [entry.name for entry in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, 1, 0.5)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError([f"{path}: no such file{hint}"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from error
    if len(data) > LARGEST:
        raise ConfigError([f"{path}: larger than {LARGEST} bytes, so hardly a recipe; give a TOML file"])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {error.start}"
        raise ConfigError([f"{path}: not UTF-8 text ({where}); a recipe is a TOML file in UTF-8"]) from None
    if "\0" in text:
        raise ConfigError([f"{path}: a binary file; a recipe is a TOML file in UTF-8"])
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError([f"{path}: nested too deeply"]) from None
    except ValueError as error:
        message, _, place = str(error).rpartition(" (at ")
        told = f"{place.rstrip(')')}: {message}" if message else str(error)
        raise ConfigError([f"{path}: {told}"]) from None


def _path(dotted: str) -> list[str]:
    """The parts of a dotted key; dashes count as underscores, except in the name of a phase."""
    parts = dotted.strip().split(".")
    named = 1 if parts[0] == "phases" else None
    return [part if i == named else part.replace("-", "_") for i, part in enumerate(parts)]


def _related(a: str, b: str) -> bool:
    """Whether two dotted keys are the same, or one a table that holds the other."""
    return f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")


def _blocked(tree: dict[str, Any], path: list[str]) -> str | None:
    """The key on the way to `path` that holds a value instead of a table."""
    for depth, part in enumerate(path[:-1], 1):
        tree = tree.get(part, {})
        if not isinstance(tree, dict):
            return ".".join(path[:depth])
    return None


def without_others_options(tree: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The tree of a recipe, less the options of each plugin in whose place `over` names another."""
    for named, options in OPTIONS_OF.items():
        now, before = value_at(over, named), value_at(tree, named)
        now = literal(now) if isinstance(now, Typed) else now
        if now not in (None, attrgetter(named)(Config()) if before is None else before):
            tree = without(tree, options)
    return tree


def _under_phases(preset: str, phases: Any) -> dict[str, Any]:
    """A preset's values to put under those of a recipe's phases, by whether these train on single frames; in order."""
    under = {}
    for name, table in phases.items() if isinstance(phases, dict) else ():
        start = PUBLISHED.get(name, PhaseConfig())
        frames = table.get("frames", start.frames) if isinstance(table, dict) else start.frames
        single = (literal(frames) if isinstance(frames, Typed) else frames) == 1
        under[name] = (IMAGES if single else CLIPS).get(preset, {})
    return under


def _without_strange_options(preset: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """The preset, less the options of a plugin in whose place the recipe has named another."""
    kept = {}
    for name, table in preset.items():
        if not isinstance(table, dict):
            kept[name] = table
        elif name == "method_options":
            method = tree.get("method", preset["method"])
            if (literal(method) if isinstance(method, Typed) else method) == preset["method"]:
                kept[name] = table
        else:
            own = tree.get(name, {})
            which = next(key for key in table if key != "options")
            other = isinstance(own, dict) and str(own.get(which, table[which])) != table[which]
            kept[name] = {key: value for key, value in table.items() if key != "options" or not other}
            if isinstance(own, dict) and str(own.get("optimizer", table.get("optimizer"))) != table.get("optimizer"):
                kept[name].pop("optimizer_options", None)
    return kept


def _written(leaves: dict[str, Any], key: str) -> str:
    return shown(leaves[key]) if key in leaves else "(not set)"


def _plain(value: Any) -> Any:
    """Tuples as lists, as TOML has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
