"""A suite of the benchmark, read and checked: what it asks, its arms, and the configuration of each of its runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from entprog.config.load import ConfigError, Reader, config_of
from entprog.config.presets import without_others_options
from entprog.config.schema import Config, DataConfig
from entprog.toml.trees import laid_over

CLIPS = 64
"""Final numbers need at least so many held-out clips."""


@dataclass(frozen=True)
class Tuning:
    """[tuning] how each arm's learning rate is found.

    Attributes:
        seeds: of the runs that it takes; a rate is judged by its mean over them, a step's cost
            is that of the first.
        data: over the recipe's [data]: other people than the final runs train on.
        exam: over the recipe's [data]: the held-out people on whom rates are judged.
        budgets: multiples of the reference's cost at which rates are swept, besides an arm's own longer ones; a final
            run takes the nearest one's. An arm that gets too few steps from each is tuned at the smallest of the
            suite's budgets that gives enough.
        widen: how often a sweep may go on beyond each of its ends.
        pilot: share of the recipe's steps that a first run takes, to know what an arm's steps cost.
    """

    seeds: tuple[int, ...] = (1000,)
    data: dict[str, Any] = field(default_factory=lambda: {"seed": 1})
    exam: dict[str, Any] = field(default_factory=lambda: {"seed": 2})
    budgets: tuple[float, ...] = (1.0,)
    widen: int = 4
    pilot: float = 0.1


@dataclass(frozen=True)
class Exam:
    """[exam] the held-out people that final numbers are measured on; nothing else uses them.

    Attributes:
        data: over the recipe's [data].
        clips: held-out clips of the loss.
        repeats: draws of each (other frames, times and noise); errors are over clips.
    """

    data: dict[str, Any] = field(default_factory=lambda: {"seed": 3})
    clips: int = CLIPS
    repeats: int = 1


@dataclass(frozen=True)
class Settings:
    """The settings of a suite beside its recipe and its arms.

    Attributes:
        about: the question, in a line.
        arms: names from the library (benchmarks/suites/arms.toml) or from the suite's own [define.NAME].
        reference: the arm that all are compared with; its cost is the unit of budgets.
        seeds: of final runs.
        people_by_seed: each seed trains on people of its own: data.seed rises by 100 a seed, in tuning likewise.
            Errors over seeds then hold for other videos, too, not for these few alone.
        budgets: costs, as multiples of what the reference takes for the recipe's steps; videos are sampled at
            the largest.
        longer: further budgets of single arms, such as {full = [2.0]}: for the cost at which others reach its loss.
        equal_steps: each arm also runs for so many times the recipe's steps, whatever they cost it, 0 for not at all;
            these runs come last.
        rates: factors of each arm's own centre (`lr_factor` times the recipe's rates) that its sweep begins with.
        caps: memory that an arm may take, such as "100MiB": a table for each.
        chain: arms that differ by one change each, from the reference to the best: a table of what each brings.
        readings: readings of the holdout while a run trains, for the curve.
        smoke: a test that everything runs: few seeds, clips and rates are no error, and no number means anything.
    """

    about: str = ""
    arms: tuple[str, ...] = ()
    reference: str = "full"
    seeds: tuple[int, ...] = (0, 1, 2)
    people_by_seed: bool = False
    budgets: tuple[float, ...] = (1.0,)
    longer: dict[str, Any] = field(default_factory=dict)
    equal_steps: float = 1.0
    rates: tuple[float, ...] = (0.33, 1.0, 3.0)
    caps: tuple[str, ...] = ()
    chain: tuple[str, ...] = ()
    readings: int = 8
    smoke: bool = False


LIMITS = {
    "seeds": "[0, 4294967295]",
    "budgets": "(0, inf)",
    "equal_steps": "[0, inf)",
    "rates": "(0, inf)",
    "readings": "[0, inf)",
    "tuning.seeds": "[0, 4294967295]",
    "tuning.budgets": "(0, inf)",
    "tuning.widen": "[0, 20]",
    "tuning.pilot": "(0, 1]",
    "exam.clips": "[2, inf)",
    "exam.repeats": "[1, inf)",
}
"""The numbers that each key takes, as intervals."""


@dataclass(frozen=True)
class Arm:
    """What one arm lays over the recipe: a table of arms.toml, or [define.NAME] of a suite.

    Attributes:
        lr_factor: the centre of its sweep, as a multiple of the recipe's learning rates.
        shares: by phase, which part of a budget it gets; empty for as much as the reference spends there.
    """

    name: str
    tree: Mapping[str, Any] = field(default_factory=dict)
    lr_factor: float = 1.0
    about: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """A suite that has been read and checked.

    Attributes:
        base: [base], a recipe that is trained once, before all else, for the weights that every arm starts from; over
            [recipe] but for its phases and its evaluation. Empty where the recipe's model.init names them.
        known: what was resolved before, as a plan asks for the same runs again and again.
    """

    name: str
    settings: Settings
    tuning: Tuning
    exam: Exam
    recipe: Mapping[str, Any]
    arms: Mapping[str, Arm]
    base: Mapping[str, Any] = field(default_factory=dict)
    known: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def steps(self) -> dict[str, int]:
        """The recipe's steps by phase, those that have any."""
        return {name: phase["steps"] for name, phase in self.recipe["phases"].items() if phase["steps"] > 0}

    def budgets(self, arm: str) -> tuple[float, ...]:
        """The costs at which an arm runs."""
        return (*self.settings.budgets, *self.settings.longer.get(arm, ()))

    def config(
        self, arm: str, *, steps: Mapping[str, int] | None = None, factor: float = 1.0, seed: int = 0,
        tuning: bool = False, planned: bool = True,
    ) -> Config:  # fmt: skip
        """A run of an arm.

        Args:
            steps: by phase; the recipe's where left out.
            factor: of all the learning rates, as multiples of the recipe's.
            tuning: on the people that rates are tuned on.
            planned: files and packages that the run needs may be missing.

        Raises:
            ConfigError: the arm's settings do not go with the recipe's.
        """
        steps = self.steps if steps is None else dict(steps)
        key = (arm, tuple(steps.items()), factor, seed, tuning, planned)
        if key not in self.known:
            self.known[key] = self._resolved(arm, steps, factor, seed, tuning, planned)
        return self.known[key]  # type: ignore[no-any-return]

    def _resolved(
        self, arm: str, steps: Mapping[str, int], factor: float, seed: int, tuning: bool, planned: bool
    ) -> Config:
        over = dict(self.arms[arm].tree)
        tree = laid_over(without_others_options(dict(self.recipe), over), over)
        phases = {name: dict(values) for name, values in tree["phases"].items()}
        for name, values in phases.items():
            values["steps"] = steps.get(name, 0)
        total = sum(steps.values())
        readings = self.settings.readings
        tree = laid_over(tree, {
            "label": arm,
            "phases": phases,
            "evaluate": {"clips": 0},  # the exam is on other people
            "train": {
                "seed": seed,
                "validation_steps": max(1, total // readings) if readings else 0,
                "validation_clips": 0,
                "checkpoints_total_limit": 1,
            },
            "data": {**(self.tuning.data if tuning else {}), **self.people(seed, tuning=tuning)},
        })  # fmt: skip
        config = config_of(tree, f"{self.name}: arm {arm}", planned=planned, quiet=True)
        scaled = {
            name: replace(phase, learning_rate=float(f"{phase.learning_rate * factor:.6g}"))
            for name, phase in config.phases.items()
        }
        return replace(config, phases=scaled)

    def people(self, seed: int, *, tuning: bool = False) -> dict[str, int]:
        """What a seed lays over [data], for people of its own to train on."""
        seeds = self.tuning.seeds if tuning else self.settings.seeds
        if not self.settings.people_by_seed or seed not in seeds:
            return {}
        first = laid_over(self.recipe.get("data", {}), self.tuning.data if tuning else {}).get("seed", 0)
        return {"seed": first + 100 * seeds.index(seed)} if type(first) is int else {}

    def base_config(self) -> Config:
        """The run that makes the weights which all arms start from.

        Raises:
            ConfigError: its settings are wrong.
        """
        apart = {key: value for key, value in self.recipe.items() if key not in ("phases", "evaluate")}
        tree = laid_over(apart, {"method": "full", "label": "base", "evaluate": {"clips": 0}})
        return config_of(laid_over(tree, self.base), f"{self.name}: base", planned=True, quiet=True)

    def exam_data(self, *, tuning: bool = False) -> DataConfig:
        """Whose held-out people a run is examined on.

        Raises:
            ConfigError: its settings are wrong.
        """
        data = laid_over(self.recipe.get("data", {}), self.tuning.exam if tuning else self.exam.data)
        reader = Reader(self.name)
        config = reader.config({"data": data})
        if reader.problems:
            raise ConfigError(reader.problems)
        return config.data
