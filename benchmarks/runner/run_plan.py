"""Which runs a suite needs next, from the records that exist: a pure function of suite and records.

base    the weights that all arms start from, where the suite makes its own
pilot   one short run an arm: what its steps cost
tune    the sweep of its learning rate, with the steps that a budget allows by the pilot's costs
final   every seed at every budget, with the rate and the costs of the sweep's best run
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import inf, log
from statistics import mean
from typing import Any

from benchmarks.runner.address import address
from benchmarks.runner.phase_cost import PhaseCost, costs
from benchmarks.runner.rate_sweep import Sweep, rounded, sweep
from benchmarks.runner.run_record import Record
from benchmarks.runner.suite import Suite
from entprog import plugins
from entprog.config.schema import Config, DataConfig

EQUAL_STEPS = "steps"
"""The budget of a run that takes the recipe's steps, or a share of them, whatever they cost it."""

Budget = float | str

KINDS = ("pilot", "tune", "final")
"""Kinds of runs in the order in which they are made."""


@dataclass(frozen=True)
class PlannedRun:
    """One run.

    Attributes:
        factor: of the recipe's learning rates.
        exam: the data set whose held-out people its weights are examined on; None for no exam.
        quality: whether that exam samples videos, too.
        weight: its approximate cost, in runs of the reference.
        base: SHA-256 of the weights that it starts from; "" where the configuration names them.
    """

    kind: str
    arm: str
    seed: int
    factor: float
    steps: Mapping[str, int]
    config: Config
    exam: DataConfig | None
    address: str
    weight: float
    base: str = ""
    quality: bool = False


@dataclass
class Plan:
    """The runs of a suite: made, to make now, and expected.

    Attributes:
        finals: the run of each (arm, budget, seed), as far as known; several may be one.
        sweeps: the state of each (arm, tuning budget).
        missing: runs to make now, in order; those that depend on their results come with the next plan.
        notes: what can't be run, and why.
        done, ahead: sums of weights; `ahead` is an estimate.
    """

    runs: dict[str, PlannedRun] = field(default_factory=dict)
    finals: dict[tuple[str, Budget, int], PlannedRun] = field(default_factory=dict)
    sweeps: dict[tuple[str, float], Sweep] = field(default_factory=dict)
    missing: list[PlannedRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    done: float = 0.0
    ahead: float = 0.0


def plan(
    suite: Suite, records: Mapping[str, Record], *, arms: Collection[str] = (), seeds: Collection[int] = ()
) -> Plan:
    """The runs of a suite, or of some of its arms and seeds.

    Runs alternate between arms: pilots, then the sweeps rate by rate, then the finals seed by seed.
    """
    return _Planner(suite, records, tuple(arms or suite.settings.arms), tuple(seeds or suite.settings.seeds)).plan()


@dataclass
class _Planner:
    suite: Suite
    records: Mapping[str, Record]
    arms: Sequence[str]
    seeds: Sequence[int]
    found: Plan = field(default_factory=Plan)

    def plan(self) -> Plan:
        settings = self.suite.settings
        if self.suite.base and self.made.address not in self.records:
            self.found.runs[self.made.address] = self.made
            self.found.missing = [self.made]
            self.found.ahead = self.made.weight + self.whole * len(self.arms)
            return self.found
        order = [arm for arm in settings.arms if arm in self.arms or arm == settings.reference]
        pilots = {arm: self.pilot(arm) for arm in order}
        expected = 0.0
        if pilots[settings.reference].address in self.records:
            for arm in order:
                if arm in self.arms and pilots[arm].address in self.records:
                    expected += self.arm(arm, pilots[arm])
                elif arm in self.arms:
                    expected += self.whole
        else:
            expected = self.whole * len(self.arms)
        runs = list(self.found.runs.values())
        self.found.missing = [run for run in self.in_turns(runs) if run.address not in self.records]
        self.found.done = sum(run.weight for run in runs if run.address in self.records)
        self.found.ahead = sum(run.weight for run in self.found.missing) + expected
        return self.found

    def in_turns(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """Round robin over the arms: the first run of each, then the second, and so on, whatever is there already.

        Finals at equal steps come after all that are at equal cost.
        """
        by_cost = {run.address for (_, budget, _), run in self.found.finals.items() if budget != EQUAL_STEPS}
        counts: dict[tuple[str, int, str], int] = {}
        keyed = []
        for run in runs:
            group = (run.kind, run.seed, run.arm)
            counts[group] = counts.get(group, -1) + 1
            place = self.suite.settings.arms.index(run.arm)
            last = run.kind == "final" and run.address not in by_cost
            keyed.append(((KINDS.index(run.kind), last, run.seed, counts[group], place), run))
        return [run for _, run in sorted(keyed, key=lambda pair: pair[0])]

    @cached_property
    def made(self) -> PlannedRun:
        """The run that makes the weights which all arms start from."""
        config = self.suite.base_config()
        steps = {name: phase.steps for name, phase in config.phases.items()}
        return PlannedRun("base", "base", config.train.seed, 1.0, steps, config, None, address(config, {}), 1.0)

    @property
    def whole(self) -> float:
        """The cost of an arm without a pilot: its sweeps and its finals."""
        settings, tuning = self.suite.settings, self.suite.tuning
        sweeps = sum(tuning.budgets) * len(settings.rates) * len(tuning.seeds) if len(settings.rates) > 1 else 0.0
        return sweeps + (sum(settings.budgets) + settings.equal_steps) * len(self.seeds)

    def pilot(self, arm: str) -> PlannedRun:
        suite = self.suite
        config = suite.config(arm)
        steps = {
            name: max(least_steps(config, name), round(suite.tuning.pilot * count))
            for name, count in suite.steps.items()
        }
        # The lowest rate of the sweep: what a step costs is known from any, and this one diverges last.
        factor = rounded(suite.arms[arm].lr_factor * suite.settings.rates[0])
        return self.run("pilot", arm, suite.tuning.seeds[0], factor, steps, suite.tuning.pilot)

    def arm(self, arm: str, pilot: PlannedRun) -> float:
        """Add the sweeps of an arm and, once they are over, its finals; returns the expected cost of later runs."""
        settings, tuning = self.suite.settings, self.suite.tuning
        known = self.costs_of(pilot)
        if known is None:
            self.found.notes.append(f"{arm}: its pilot diverged at {pilot.factor:g} times the recipe's rates; left out")
            return 0.0
        best: dict[float, tuple[float, Mapping[str, PhaseCost]] | None] = {}  # None: still swept
        ahead = 0.0
        for budget, steps in self.tuned_at(arm, known) if len(settings.rates) > 1 else ():
            runs: dict[float, list[PlannedRun]] = {}
            centre = self.suite.arms[arm].lr_factor
            losses: dict[float, float] = {}
            while True:
                state = sweep(settings.rates, losses, tuning.widen)
                for rate in state.tried:
                    if rate not in runs:
                        factor = rounded(centre * rate)
                        runs[rate] = [self.run("tune", arm, seed, factor, steps, budget) for seed in tuning.seeds]
                new = {
                    rate: mean(exam_loss(self.records[run.address]) for run in runs[rate])
                    for rate in state.missing
                    if all(run.address in self.records for run in runs[rate])
                }
                if not new:
                    break
                losses |= new
            self.found.sweeps[arm, budget] = state
            if state.best is None:
                ahead, best[budget] = ahead + 0.5 * budget * len(tuning.seeds), None  # it may have to be widened
                continue
            won = runs[state.best][0]
            measured = self.costs_of(won)
            if measured is None:
                self.found.notes.append(f"{arm}: diverged at every rate that was tried; left out")
                return 0.0
            best[budget] = won.factor, measured
        if len(settings.rates) == 1:
            best[1.0] = rounded(self.suite.arms[arm].lr_factor * settings.rates[0]), known
        return ahead + self.finals(arm, best) if best else 0.0

    def tuned_at(self, arm: str, known: Mapping[str, PhaseCost]) -> list[tuple[float, dict[str, int]]]:
        """The budgets at which an arm's rates are swept, with their steps: the sweep's, and its longer ones.

        An arm that can run at none of the sweep's is tuned at the least of the finals' budgets at which it can, too.
        """
        swept, longer = self.suite.tuning.budgets, self.suite.settings.longer.get(arm, [])
        tried = dict.fromkeys((*swept, *sorted(self.suite.budgets(arm))))
        able = {budget: steps for budget in tried if (steps := self.steps_for(arm, known, budget)) is not None}
        least = () if any(budget in able for budget in swept) else tuple(able)[:1]
        return [(budget, steps) for budget, steps in able.items() if budget in (*swept, *least, *longer)]

    def finals(self, arm: str, best: Mapping[float, tuple[float, Mapping[str, PhaseCost]] | None]) -> float:
        """Add the finals whose sweep is over; returns the expected cost of the others."""
        settings, ahead = self.suite.settings, 0.0
        most = max(settings.budgets, default=1.0)
        for seed in self.seeds:
            for budget in (*self.suite.budgets(arm), *((EQUAL_STEPS,) if settings.equal_steps else ())):
                size = settings.equal_steps if isinstance(budget, str) else budget
                nearest = best[min(best, key=lambda tuned: abs(log(tuned / size)))]
                if nearest is None:
                    ahead += size
                    continue
                factor, known = nearest
                steps: Mapping[str, int] | None = self.equal_steps
                if not isinstance(budget, str):
                    steps = self.steps_for(arm, known, budget)
                elif self.suite.arms[arm].shares:  # its steps are what it chooses
                    continue
                if steps is not None:
                    quality = not settings.budgets or steps == self.steps_for(arm, known, most)
                    self.found.finals[arm, budget, seed] = self.run(
                        "final", arm, seed, factor, steps, size, quality=quality
                    )
        return ahead

    @property
    def equal_steps(self) -> dict[str, int]:
        """The steps of runs at equal steps."""
        return {name: round(self.suite.settings.equal_steps * count) for name, count in self.suite.steps.items()}

    @cached_property
    def unit(self) -> dict[str, PhaseCost]:
        """What the reference's phases cost, from its pilot."""
        known = self.costs_of(self.pilot(self.suite.settings.reference))
        if known is None:
            raise ValueError(f"{self.suite.name}: the reference's pilot diverged; lower the recipe's learning rates")
        return known

    def steps_for(self, arm: str, known: Mapping[str, PhaseCost], budget: float) -> dict[str, int] | None:
        """Steps by phase that cost what the reference's cost, `budget` times the recipe's; None where too few do.

        Phase by phase, or in all where the arm has shares.
        """
        found = {}
        shares = self.suite.arms[arm].shares
        whole = sum(self.unit[name].total(round(budget * count)) for name, count in self.suite.steps.items())
        for name, count in self.suite.steps.items():
            reference = round(budget * count)
            found[name] = reference
            if arm != self.suite.settings.reference:
                spent = shares[name] * whole if shares else self.unit[name].total(reference)
                found[name] = known[name].steps(spent)
        config = self.suite.config(arm)
        if short := [name for name, steps in found.items() if steps < least_steps(config, name)]:
            note = f"{arm}: {budget:g} x the reference's cost allows too few steps in {', '.join(short)}; left out"
            if note not in self.found.notes:
                self.found.notes.append(note)
            return None
        return found

    def costs_of(self, run: PlannedRun) -> dict[str, PhaseCost] | None:
        record = self.records[run.address]
        known = costs(record)
        return known if record["status"] == "finished" and known.keys() >= self.suite.steps.keys() else None

    def run(
        self, kind: str, arm: str, seed: int, factor: float, steps: Mapping[str, int], weight: float, *,
        quality: bool = False,
    ) -> PlannedRun:  # fmt: skip
        base = str(self.records[self.made.address]["weights"]) if self.suite.base else ""
        key = (kind, arm, seed, factor, tuple(steps.items()), weight, base, quality)
        if key not in self.suite.known:
            self.suite.known[key] = self.new_run(kind, arm, seed, factor, steps, weight, base, quality)
        made: PlannedRun = self.suite.known[key]
        return self.found.runs.setdefault(made.address, made)

    def new_run(
        self, kind: str, arm: str, seed: int, factor: float, steps: Mapping[str, int], weight: float, base: str,
        quality: bool,
    ) -> PlannedRun:  # fmt: skip
        suite, tuning = self.suite, kind != "final"
        config = suite.config(arm, steps=steps, factor=factor, seed=seed, tuning=tuning)
        exam = None if kind == "pilot" else suite.exam_data(tuning=tuning)
        about = {} if exam is None else exam_settings(suite, exam, quality=quality)
        named = address(config, about, base)
        return PlannedRun(kind, arm, seed, factor, dict(steps), config, exam, named, weight, base, quality)


def exam_settings(suite: Suite, data: DataConfig, *, quality: bool) -> dict[str, Any]:
    """Everything that an exam's numbers depend on."""
    found: dict[str, Any] = {"data": asdict(data), "clips": suite.exam.clips, "repeats": suite.exam.repeats}
    for key in ("workers", "cache"):
        del found["data"][key]
    evaluate = suite.recipe.get("evaluate", {})
    if quality and evaluate.get("clips", 1):
        found |= {"evaluate": dict(evaluate), "sample": dict(suite.recipe.get("sample", {}))}
    return found


def exam_loss(record: Record) -> float:
    """What a run is judged by; infinite for one that diverged."""
    return float(record["exam"]["loss"]) if record["status"] == "finished" else inf


def least_steps(config: Config, phase: str) -> int:
    """The fewest steps that a phase can have: two for each stage, besides its search, and one that echoes."""
    settings = config.phases[phase]
    least = max(4, settings.echo_window + 1) if settings.echo > 1 else 4
    if not plugins.ranked(config.method):
        return least
    schedule = plugins.load("schedule", config.schedule.name, **config.schedule.options)
    searched = schedule.search_steps if schedule.estimator != "none" else 0
    return int(max(least, schedule.stages * (searched + 2)))
