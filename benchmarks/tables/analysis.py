"""A suite with its records by arm and budget, and the tables that are made of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.runner.run_plan import EQUAL_STEPS, Budget, Plan
from benchmarks.runner.run_record import Record
from benchmarks.runner.suite import Suite
from benchmarks.tables import comparison
from benchmarks.tables.comparison import Group

MISSING = "-"
"""A cell of which nothing is known."""


@dataclass(frozen=True)
class Table:
    """Text in cells; `best` marks (row, column) pairs, `notes` follow below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()


@dataclass
class Analysis:
    """A suite with its records, by arm and budget.

    Attributes:
        seconds: calibrated seconds of a run; None where nothing was calibrated.
    """

    suite: Suite
    plan: Plan
    records: Mapping[str, Record]
    seconds: Callable[[Record], float] | None = None
    groups: dict[tuple[str, Budget], Group] = field(init=False)

    def __post_init__(self) -> None:
        self.groups = comparison.groups(self.plan, self.records)

    @property
    def budgets(self) -> list[Budget]:
        """Budgets of which any run is there, equal steps last."""
        costs = {budget for arm in self.suite.settings.arms for budget in self.suite.budgets(arm)}
        wanted: list[Budget] = [*sorted(costs), EQUAL_STEPS]
        return [budget for budget in wanted if any(key[1] == budget for key in self.groups)]

    @property
    def at_a_glance(self) -> list[Budget]:
        """The budgets of the first tables: equal steps only where the suite has no budget for all arms."""
        costs: list[Budget] = [budget for budget in self.budgets if budget != EQUAL_STEPS]
        return self.budgets if not self.suite.settings.budgets else costs

    def at(self, budget: Budget) -> list[Group]:
        """The arms at a budget, in the suite's order."""
        return [
            self.groups[arm, budget]
            for arm in self.suite.settings.arms
            if (arm, budget) in self.groups and self.groups[arm, budget].records
        ]

    def reference(self, budget: Budget) -> Group | None:
        """The arm that all are compared with, where it is there."""
        found = self.groups.get((self.suite.settings.reference, budget))
        return found if found is not None and found.records else None


def markdown(table: Table) -> str:
    """A table for a Markdown page, notes below."""
    lines = ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    for i, row in enumerate(table.rows):
        cells = [f"**{cell}**" if (i, j) in table.best else cell for j, cell in enumerate(row)]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"### {table.title}", "", *lines, "", *notes])


def named(budget: Budget) -> str:
    """A budget in words."""
    return "equal steps" if isinstance(budget, str) else f"{budget:g}x"
