"""Every table of a suite that its records are enough for, in the order of the page."""

from benchmarks.tables.analysis import Analysis, Table
from benchmarks.tables.glance import summary
from benchmarks.tables.noise_bands import noise_bands
from benchmarks.tables.result_tables import capped, chained, choosers, results, sweeps
from benchmarks.tables.speedup import both_ways, speedup


def all_tables(analysis: Analysis) -> list[Table]:
    """All arms at a glance, by noise band and speed-up, where the reference has run; then each budget and question."""
    budgets, settings = analysis.budgets, analysis.suite.settings
    found: list[Table | None] = [summary(analysis), noise_bands(analysis), speedup(analysis)]
    found += [results(analysis, budget) for budget in budgets]
    found += [chained(analysis, budget) for budget in budgets]
    found += [capped(analysis, cap) for cap in settings.caps]
    found += [both_ways(analysis), sweeps(analysis), choosers(analysis)]
    return [table for table in found if table is not None and table.rows]
