"""`entprog rank RECIPE`: score the blocks of each phase and show the order, without training."""

from typing import Any

from tqdm import tqdm

from entprog.config.schema import Config
from entprog.core.types import Ranking
from entprog.tasks.finished_run import build_task
from entprog.train.phase import PhaseSetup, running
from entprog.train.ranking import score_phase


def rank(config: Config, *, phase: str | None = None) -> None:
    """Print the ranking of one phase, or of all, as `entprog train` records it in scores.json.

    Raises:
        ValueError: no such phase, or a wrong setting.
    """
    if phase is not None and phase not in config.phases:
        raise ValueError(f"phase = {phase!r}: the recipe has {', '.join(config.phases)}")
    task = build_task(config)
    task.check(config)
    for number, (name, _) in enumerate(running(config)):
        if phase not in (None, name):
            continue
        setup = PhaseSetup.build(task, config, number, name)
        scored = score_phase(task, setup, config)
        samples = scored.table["samples"]
        tqdm.write(f"\nphase {name}: {config.ranking.score}, {samples} samples\n{_text(scored.table, scored.ranking)}")


def _text(table: dict[str, Any], ranking: Ranking) -> str:
    """One line for each block, with the cost of a step that trains it alone."""
    lines = [
        f"{'':>68}    a step whose lowest active block it is",
        f"{'rank':>4}  {'block':<22} {'importance':>11}  {'error':>8}  {'depth':>5}  {'parameters':>11}"
        f"  {'GFLOP':>9}  {'ms':>8}  {'MiB':>8}",
    ]
    for place, name in enumerate(ranking.names, 1):
        cost = table["cost"][name]
        lines.append(
            f"{place:>4}  {name:<22} {table['values'][name]:>11.4g}  {table['stderr'].get(name, 0.0):>8.2g}  "
            f"{cost['lowest_depth']:>5}  {cost['parameters']:>11,}  {cost['step_flops'] / 1e9:>9.4g}  "
            f"{cost['step_seconds'] * 1e3:>8.4g}  {cost['step_bytes'] / 2**20:>8.4g}"
        )
    return "\n".join(lines)
