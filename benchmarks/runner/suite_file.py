"""Reads a suite from TOML and reports everything that is wrong with it at once."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from benchmarks.runner.suite import LIMITS, Arm, Exam, Settings, Suite, Tuning
from benchmarks.runner.suite_checks import problems_between_keys, problems_of_arms
from entprog.config import reference
from entprog.config.load import ConfigError, parsed
from entprog.toml.trees import laid_over
from entprog.toml.values import converted, outside, shown

SUITES = Path(__file__).parent.parent / "suites"


def read_suite(name: str) -> Suite:
    """Read a shipped suite by its name, or a TOML file by its path, and check all of it.

    Raises:
        ConfigError: a line for each thing that is wrong.
    """
    path = Path(name)
    return suite_of(_tree(name), path.stem, name)


def _tree(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """A suite as TOML has it, laid over the one that it is like."""
    if name in above:
        raise ConfigError([f"{above[-1]}: like = {name!r}: leads back to itself"])
    if "/" in name or "\\" in name or name.endswith(".toml"):
        tree = parsed(Path(name))
    elif name in suites():
        tree = parsed(SUITES / f"{name}.toml")
    else:
        near = get_close_matches(name, suites(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError([f"suite {name!r}: none of {', '.join(suites())}, nor a TOML file{hint}"])
    like = tree.pop("like", "")
    if not isinstance(like, str):
        raise ConfigError([f"{name}: like = {shown(like)}: expected a suite's name or path"])
    if not like:
        return tree
    below = _tree(like, (*above, name))
    if "longer" in tree:  # replaced as a whole: this suite may lack arms of the other
        below.pop("longer", None)
    return laid_over(below, tree)


def suites() -> list[str]:
    """The suites in benchmarks/suites."""
    found = [entry.name.removesuffix(".toml") for entry in SUITES.iterdir() if entry.name.endswith(".toml")]
    return sorted(name for name in found if name != "arms")


def library() -> dict[str, Any]:
    """The arms of benchmarks/suites/arms.toml, as TOML has them."""
    path = SUITES / "arms.toml"
    return parsed(path) if path.is_file() else {}


def suite_of(tree: dict[str, Any], name: str, shown_as: str = "") -> Suite:
    """The suite in a tree of plain values; messages begin with `shown_as`.

    Raises:
        ConfigError: a line for each thing that is wrong.
    """
    reader = _Reader(shown_as or name)
    settings = reader.table(Settings, {k: v for k, v in tree.items() if k not in _TABLES}, "")
    tuning, exam = (reader.table(kind, tree.get(key, {}), key) for key, kind in (("tuning", Tuning), ("exam", Exam)))
    recipe = tree.get("recipe", {})
    arms = _arms(reader, {**library(), **_tables(reader, tree.get("define", {}), "define")}, recipe)
    base = _tables(reader, tree.get("base", {}), "base")
    suite = Suite(name, settings, tuning, exam, recipe, arms, base)
    reader.problems += [f"{reader.name}: {line}" for line in problems_between_keys(suite)]
    if not reader.problems:  # an arm can only be resolved over a recipe that is sound
        reader.problems += problems_of_arms(suite)
    if reader.problems:
        raise ConfigError(list(dict.fromkeys(reader.problems)))
    return suite


_TABLES = ("tuning", "exam", "recipe", "define", "base")


class _Reader:
    """Converts tables, collecting what is wrong."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[str] = []

    def table(self, kind: type[Any], tree: Any, dotted: str) -> Any:
        if not isinstance(tree, dict):
            self.problems.append(f"{self.name}: {dotted} = {shown(tree)}: expected a table, [{dotted}]")
            return kind()
        kinds, values = reference.hints(kind), {}
        known = [*kinds, *(() if dotted else _TABLES)]
        for key, value in tree.items():
            place = f"{dotted}.{key}" if dotted else key
            if key not in kinds:
                near = get_close_matches(key, known, 1)
                self.problems.append(f"{self.name}: {place}: unknown key{f'; did you mean {near[0]}?' if near else ''}")
                continue
            try:
                values[key] = converted(value, kinds[key])
            except TypeError as error:
                self.problems.append(f"{self.name}: {place} = {shown(value)}: {error}")
                continue
            if beyond := outside(values[key], LIMITS.get(place) or reference.limit(place)):
                self.problems.append(f"{self.name}: {place} = {shown(value)}: {beyond}")
                del values[key]
        return kind(**values)


def _tables(reader: _Reader, tree: Any, dotted: str) -> dict[str, Any]:
    if isinstance(tree, dict):
        return tree
    reader.problems.append(f"{reader.name}: {dotted} = {shown(tree)}: expected tables, such as [{dotted}.NAME]")
    return {}


def _arms(reader: _Reader, trees: Mapping[str, Any], recipe: Any) -> dict[str, Arm]:
    phases = recipe.get("phases") if isinstance(recipe, dict) else None
    phases = phases if isinstance(phases, dict) else {}
    found = {}
    for name, tree in trees.items():
        if not isinstance(tree, dict):
            reader.problems.append(f"{reader.name}: define.{name} = {shown(tree)}: expected a table, [define.{name}]")
            continue
        over = {key: value for key, value in tree.items() if key not in ("lr_factor", "about", "shares")}
        every = dict(over.get("phases", {})) if isinstance(over.get("phases", {}), dict) else {}
        if "*" in every:  # for each phase of the recipe
            common = every.pop("*")
            over["phases"] = {phase: laid_over(common, every.get(phase, {})) for phase in phases} | {
                phase: values for phase, values in every.items() if phase not in phases
            }
        if strange := [phase for phase in every if phase not in phases]:
            # The library's settings of a phase that this recipe lacks have no effect.
            over["phases"] = {phase: values for phase, values in over["phases"].items() if phase not in strange}
        factor, about = tree.get("lr_factor", 1.0), tree.get("about", "")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
            place = f"{reader.name}: define.{name}.lr_factor = {shown(factor)}"
            reader.problems.append(f"{place}: expected a number above 0")
            factor = 1.0
        shares = tree.get("shares", {})
        if shares and not _are_shares(shares):
            place = f"{reader.name}: define.{name}.shares = {shown(shares)}"
            reader.problems.append(f"{place}: expected a part of the budget for each phase, above 0 and 1 in all")
            shares = {}
        known = shares.keys() >= phases.keys()  # shares for other phases than the recipe's have no effect
        found[name] = Arm(name, over, float(factor), str(about), shares if known else {})
    return found


def _are_shares(given: Any) -> bool:
    return (
        isinstance(given, dict)
        and all(type(share) in (int, float) and share > 0 for share in given.values())
        and abs(sum(given.values()) - 1.0) < 1e-6
    )
