"""What is wrong with a suite: between its keys, with what final numbers need, and with its arms over its recipe."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from math import inf
from typing import Any

from benchmarks.runner.suite import CLIPS, Suite
from entprog.config.load import ConfigError
from entprog.profiling.units import parse_bytes

SEEDS = 3
"""Final numbers need at least so many seeds."""

DECAYING = ("linear", "cosine", "polynomial")
"""Schedules of the learning rate that end low: every arm has one."""


def problems_between_keys(suite: Suite) -> Iterator[str]:
    """What is wrong between keys."""
    settings, tuning, exam = suite.settings, suite.tuning, suite.exam
    for name in dict.fromkeys((*settings.arms, settings.reference)):
        if name not in suite.arms:
            near = get_close_matches(name, suite.arms, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(suite.arms) or 'none'}"
            yield f"arms: no arm {name!r}{hint}"
    for name in settings.chain:
        if name not in settings.arms:
            yield f"chain: {name!r} must be one of arms"
    if not settings.arms:
        yield "arms: name at least one"
    elif settings.reference not in settings.arms:
        yield f"reference = {settings.reference!r}: must be one of arms, as all are compared with it"
    for key in ("arms", "seeds", "budgets", "rates", "chain"):
        values = getattr(settings, key)
        if len(set(values)) < len(values):
            yield f"{key} = {list(values)}: has a value twice"
    if not tuning.seeds or len(set(tuning.seeds)) < len(tuning.seeds):
        yield f"tuning.seeds = {list(tuning.seeds)}: give at least one, none of them twice"
    if list(settings.rates) != sorted(settings.rates) or not settings.rates:
        yield f"rates = {list(settings.rates)}: give factors in ascending order"
    if not settings.budgets and not settings.equal_steps:
        yield "budgets = []: nothing to run; give budgets, or equal_steps = 1.0"
    for name, budgets in settings.longer.items():
        if name not in settings.arms:
            yield f"longer.{name}: must be one of arms"
        elif not _are_longer(budgets, settings.budgets):
            yield f"longer.{name} = {budgets}: expected a list of numbers above 0 that budgets does not have"
    for cap in settings.caps:
        try:
            parse_bytes(cap)
        except ValueError as error:
            yield f"caps: {error}"
    if not isinstance(suite.recipe, dict) or not isinstance(suite.recipe.get("phases"), dict):
        yield "recipe: needs phases, such as [recipe.phases.pose]"
        return
    phases = suite.recipe["phases"]
    if any(not isinstance(phase, dict) or type(phase.get("steps")) is not int for phase in phases.values()):
        yield "recipe.phases: give each phase its steps, an integer"
    elif not any(phase["steps"] > 0 for phase in phases.values()):
        yield "recipe.phases: no phase has any steps"
    if suite.base and recipe_value(suite, "model", "init", "base") != "scratch":
        yield 'recipe.model.init: must be "scratch" where [base] makes the weights that all start from'
    if suite.base and not isinstance(suite.base.get("phases"), dict):
        yield "base: needs phases, such as [base.phases.video]"
    yield from _protocol(suite)
    if settings.people_by_seed and recipe_value(suite, "data", "path", ""):
        yield "people_by_seed = true: a folder has one set of people; leave it out where recipe.data.path is given"
    if not recipe_value(suite, "data", "path", ""):
        seen = {
            "recipe.data": recipe_value(suite, "data", "seed", 0), "tuning.data": tuning.data.get("seed"),
            "tuning.exam": tuning.exam.get("seed"), "exam.data": exam.data.get("seed"),
        }  # fmt: skip
        sets = list(seen.values())
        sets += [suite.people(seed)["seed"] for seed in settings.seeds[1:] if suite.people(seed)]
        more = [suite.people(seed, tuning=True) for seed in tuning.seeds[1:]]
        sets += [people["seed"] for people in more if people]
        if len(set(sets)) < len(sets):
            listed = ", ".join(f"{key}.seed = {value}" for key, value in seen.items())
            listed += " (people_by_seed: 100 more for each further seed)" if settings.people_by_seed else ""
            yield f"{listed}: four sets of people that must differ, so that every number comes from unseen people"


def _are_longer(given: Any, budgets: Sequence[float]) -> bool:
    return isinstance(given, list) and all(
        type(budget) in (int, float) and 0 < budget < inf and budget not in budgets for budget in given
    )


def _protocol(suite: Suite) -> Iterator[str]:
    """What final numbers need; a smoke test may do without."""
    settings, recipe = suite.settings, suite.recipe
    precision = recipe_value(suite, "train", "mixed_precision", "auto")
    for key, value in (("device", recipe.get("device", "auto")), ("train.mixed_precision", precision)):
        if value == "auto":
            yield f'recipe.{key} = "auto": name it, so that a record means the same on every machine'
    if settings.smoke:
        return
    if len(settings.seeds) < SEEDS:
        yield f"seeds = {list(settings.seeds)}: final numbers need at least {SEEDS} (or smoke = true)"
    if len(settings.rates) < 3:
        yield f"rates = {list(settings.rates)}: a sweep begins with at least 3 (or smoke = true)"
    if suite.exam.clips < CLIPS:
        yield f"exam.clips = {suite.exam.clips}: final numbers need at least {CLIPS} (or smoke = true)"
    scheduler = recipe_value(suite, "train", "lr_scheduler", "constant")
    if scheduler not in DECAYING:
        listed = ", ".join(DECAYING)
        yield f"recipe.train.lr_scheduler = {scheduler!r}: every arm's rate must decay: choose from {listed}"
    clips = recipe_value(suite, "evaluate", "clips", 16)
    if isinstance(clips, int) and 0 < clips < CLIPS:
        yield f"recipe.evaluate.clips = {clips}: quality is measured on at least {CLIPS} clips, or with 0 not at all"


def problems_of_arms(suite: Suite) -> list[str]:
    """What is wrong with the recipe once an arm is laid over it, for each arm, and with the people of the exams."""
    found: list[str] = []
    if suite.base:
        try:
            suite.base_config()
        except ConfigError as error:
            found += error.problems
    for name in suite.settings.arms:
        for tuning in (False, True):
            try:
                suite.config(name, tuning=tuning)
            except ConfigError as error:
                found += error.problems
    for tuning in (False, True):
        try:
            data = suite.exam_data(tuning=tuning)
        except ConfigError as error:
            found += error.problems
            continue
        held = data.holdout * data.clips_per_subject
        if not data.path and held < suite.exam.clips:
            key = "tuning.exam" if tuning else "exam.data"
            found.append(
                f"{suite.name}: {key}: {data.holdout} held-out people, {data.clips_per_subject} clips each, are {held} "
                f"clips; exam.clips = {suite.exam.clips} need more (holdout)"
            )
    return found


def recipe_value(suite: Suite, table: str, key: str, default: Any) -> Any:
    """A key of one of the recipe's tables; `default` where the recipe leaves it out."""
    values = suite.recipe.get(table, {})
    return values.get(key, default) if isinstance(values, dict) else default
