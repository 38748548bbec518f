"""The exam's loss by noise band: what one mean over all noise hides."""

import math

from benchmarks.tables import comparison
from benchmarks.tables.analysis import MISSING, Analysis, Table, named
from benchmarks.tables.comparison import BANDS, Group
from benchmarks.tables.protocol import protocol_lines
from entprog.core.bands import band_edges
from entprog.report import formats

TITLE = "Loss by noise band"


def noise_bands(analysis: Analysis) -> Table | None:
    """Every arm at every budget, best mean loss first; None without a run."""
    rows = []
    for budget in analysis.at_a_glance:
        groups = [group for group in analysis.at(budget) if group.records]
        for group in sorted(groups, key=lambda group: group.mean(comparison.loss_of)):
            rows.append((
                group.arm, named(budget), formats.flops(group.mean(comparison.flops_of)),
                f"{group.mean(comparison.loss_of):.4f}", *by_band(group),
            ))  # fmt: skip
    if not rows:
        return None
    columns = ("arm", "budget", "FLOPs", "mean loss", *(f"tau {band}" for band in band_names()))
    notes = (
        "tau is the noise level, from 0 (clean) to 1 (pure noise): texture is decided where it is low, layout and pose "
        "where it is high; values are means over seeds",
    )
    return Table(TITLE, columns, tuple(rows), (*notes, *protocol_lines(analysis.suite)))


def by_band(group: Group) -> list[str]:
    """The mean loss of an arm's runs in each band."""
    values = [group.mean(comparison.band_loss(band)) for band in range(BANDS)]
    return [MISSING if math.isnan(value) else f"{value:.4f}" for value in values]


def band_names() -> list[str]:
    """Such as "0-.2", by rising noise."""
    return ["-".join(f"{edge:g}".replace("0.", ".") for edge in edges) for edges in band_edges(BANDS)]
