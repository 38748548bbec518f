"""`entprog rank RECIPE`: score the blocks of each phase and show the order, without training."""

from typing import Any

from tqdm import tqdm

from entprog import plugins
from entprog.config.schema import Config
from entprog.core.types import Ranking, Shape
from entprog.data.clips import Clips
from entprog.data.source import open_data
from entprog.tasks.human_video.build import build_task
from entprog.train.draws import fixed_draws, phase_blocks
from entprog.train.ranking import add_costs, rank_blocks, ranking_table, rare_inputs


def rank(config: Config, *, phase: str | None = None) -> None:
    """Print the ranking of one phase, or of all.

    Raises:
        ValueError: no such phase, or a wrong setting.
    """
    if phase is not None and phase not in config.phases:
        raise ValueError(f"phase = {phase!r}: the recipe has {', '.join(config.phases)}")
    shards, task = open_data(config.data), build_task(config)
    for number, (name, settings) in enumerate(config.phases.items()):
        if phase not in (None, name) or settings.steps == 0:
            continue
        blocks = phase_blocks(task, config, settings)
        task.pose = settings.pose
        task.model.temporal_off = settings.blocks == "spatial"
        seed = config.train.seed * 1000 + number
        shape = Shape(settings.resolution, settings.frames, settings.batch)
        clips = Clips(shards, "train", seed=seed, frames=settings.frames)
        most = config.ranking.draw_size(settings.batch)
        draws = fixed_draws(task, clips, shape, config.ranking.samples, seed + 500, most=most)
        scores, ranking = rank_blocks(task, blocks, draws, config.ranking)
        table = ranking_table(task, blocks, draws[0], scores, config.ranking)
        outside = settings.outside and config.freeze.outside
        plugin = plugins.load("method", config.method, **config.method_options)
        inputs = rare_inputs(config, plugin, task, draws[0], outside)
        add_costs(table, task, blocks, draws[0], config, batch=settings.batch, outside=outside, inputs=inputs)
        tqdm.write(f"\nphase {name}: {config.ranking.score}, {scores.samples} samples\n{_text(table, ranking)}")


def _text(table: dict[str, Any], ranking: Ranking) -> str:
    """One line a block, with what a step costs that trains it alone: the backward ends at the lowest active block."""
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
