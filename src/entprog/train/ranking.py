"""Score a phase's blocks, write their order and costs, and charge the work to the run."""

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, optim

from entprog import plugins
from entprog.config.schema import Config, RankingConfig, TrainConfig
from entprog.core.blocks import Block, Blocks, discover_blocks
from entprog.core.depth import block_costs
from entprog.core.outside import used_outside
from entprog.core.processes import decided, first, numbers, sharing
from entprog.core.select import PassCosts, select_blocks
from entprog.core.types import Draw, Predictor, Ranking, Scores
from entprog.files import write_atomically
from entprog.profiling.meter import Meter
from entprog.profiling.step_costs import Measured, measure_costs
from entprog.profiling.units import written_bytes
from entprog.savings.in_backward import optimizer_plugin
from entprog.tasks.base import Task
from entprog.train.diagnostics import Watch
from entprog.train.phase import PhaseSetup
from entprog.train.say import say
from entprog.train.state import Session


def rank_blocks(task: Predictor, blocks: Blocks, draws: list[Draw], config: RankingConfig) -> tuple[Scores, Ranking]:
    """Score `blocks` on `draws` by the configured plugin; several processes share the draws."""
    with sharing():
        scores = plugins.load("score", config.score, **config.options).score(task, blocks, draws)
    return scores, scores.ranking()


def ranking_table(task: Predictor, blocks: Blocks, draw: Draw, scores: Scores, config: RankingConfig) -> dict[str, Any]:
    """The content of scores.json: order, values, errors, and what each block costs to train."""
    outside_uses = used_outside(task.model, blocks, lambda: task.predict(draw))
    return {
        "score": config.score,
        "options": config.options,
        "samples": scores.samples,
        "order": list(scores.ranking().names),
        "values": dict(scores.values),
        "stderr": dict(scores.stderr),
        "cost": block_costs(task, blocks, draw),
        "warnings": [*scores.notes, *(f"used outside its block, too: {name}" for name in outside_uses)],
    }


def weighed(config: Config, device: torch.device) -> str:
    """The cost that choices divide gains by: "flops" or "seconds"."""
    if config.train.cost_unit != "auto":
        return config.train.cost_unit
    return "flops" if device.type == "cpu" else "seconds"


def add_costs(table: dict[str, Any], task: Task, setup: PhaseSetup, config: Config) -> Measured:
    """Measure what each block costs as the lowest active one into `table`."""
    cost = table["cost"]
    order = sorted(cost, key=lambda name: cost[name]["lowest_depth"])
    exact = config.ranking.select == "per_second" and weighed(config, task.device) == "flops"
    inside = {id(p) for block in setup.blocks for p in block.parameters()}
    measured = measure_costs(
        task, setup.blocks, order, setup.probe[0], setup.settings.batch, outside=setup.outside, exact=exact,
        inputs=setup.inputs, every=config.freeze.inputs_every, states=_states(config.train, inside),
    )  # fmt: skip
    for name in order:
        cost[name].update(measured.of(name))
    return measured


def _states(config: TrainConfig, inside: Collection[int]) -> Callable[[Tensor], int]:
    plugin = optimizer_plugin(config)
    return lambda parameter: int(plugin.state_bytes(parameter, "block" if id(parameter) in inside else "outside"))


def selected(table: dict[str, Any], ranking: Ranking, config: Config, device: torch.device) -> Ranking:
    """The ranking with the top m of `ranking.select`; `table` is the content of scores.json."""
    select = config.ranking.select
    if select == "importance":
        return ranking
    kind = "bytes" if select == "per_byte" else weighed(config, device)
    cost = table["cost"]
    order = sorted(cost, key=lambda name: cost[name]["lowest_depth"])
    alone, added = ({name: cost[name][f"{what}_{kind}"] for name in order} for what in ("step", "added"))
    return select_blocks(ranking, table["values"], PassCosts(tuple(order), alone, added))


@dataclass(frozen=True)
class Scored:
    """The scoring of a phase's blocks.

    Attributes:
        table: the content of scores.json.
        ranking: by importance.
        needed: size of the gradient by block, which the ranking is compared with.
        live: bytes by category at the peak, if that was in scoring; empty if it was in timing steps.
    """

    table: dict[str, Any]
    ranking: Ranking
    needed: Mapping[str, float]
    live: Mapping[str, int]


def score_phase(task: Task, setup: PhaseSetup, config: Config, held: Collection[Tensor] = ()) -> Scored:
    """Score a phase's blocks and measure what they cost to train; the cost of doing so is in the table, too.

    Args:
        held: tensors of the run that are in memory meanwhile, such as EMA weights.
    """
    started = time.perf_counter()
    # Costs and the gradient's size are part of what ranking costs.
    with Meter(task.model, None, held=held, repeated=_repeated(task, setup, config)) as meter:
        scores, ranking = rank_blocks(task, setup.blocks, setup.probe, config.ranking)
        table = ranking_table(task, setup.blocks, setup.probe[0], scores, config.ranking)
        with sharing():
            needed = plugins.load("score", "gradient", norm="l1").score(task, setup.blocks, setup.probe[:1])
    # Outside the meter, which would slow the timed passes.
    measured = add_costs(table, task, setup, config)
    flops, peak = _of_all(meter.flops + measured.spent, max(meter.peak, measured.peak + _bytes(held)))
    about = {"seconds": time.perf_counter() - started, "flops": flops, "bytes_peak": peak}
    live = meter.at_peak if peak == meter.peak else {}
    return Scored({**table, "samples": scores.samples, **about}, ranking, needed.values, live)


def rank_phase(session: Session, setup: PhaseSetup, folder: Path, watch: Watch, *, resumed: bool) -> Ranking | None:
    """The phase's ranking, charged to the run; read back from scores.json when the phase is resumed."""
    config, path = session.config, folder / "scores.json"
    if not setup.plugin.ranked:
        return None
    if resumed:
        table = json.loads(path.read_text(encoding="utf-8"))
        return selected(table, Ranking(tuple(table["order"])), config, session.task.device)
    scored = decided(score_phase(session.task, setup, config, list(session.ema.weights.values())))
    table = scored.table
    watch.order(table["values"], scored.needed)
    _charge(session, table["seconds"], table["flops"], table["bytes_peak"])
    if first():
        write_atomically(path, json.dumps(table, indent=2) + "\n")
    about = {key: table[key] for key in ("order", "seconds", "flops", "bytes_peak")}
    session.log.event("rank", {**about, "bytes_live": scored.live} if scored.live else about)
    names = scored.ranking.names
    order = " > ".join(names[:6]) + (" > ..." if len(names) > 6 else "")
    say(f"{folder.name}: {order} (ranked in {written_bytes(table['bytes_peak'])} at most)")
    return selected(table, scored.ranking, config, session.task.device)


def reranker(
    session: Session, setup: PhaseSetup, folder: Path, optimizer: optim.Optimizer
) -> Callable[[], Ranking] | None:
    """Ranks the same blocks again on the same draws, charged to the run; None unless `ranking.again`.

    Block costs stay as `rank_phase` measured them. The states of `optimizer` are in memory meanwhile.
    """
    if not session.config.ranking.again:
        return None

    def again() -> Ranking:
        started = time.perf_counter()
        held, repeated = session.ema.weights.values(), _repeated(session.task, setup, session.config)
        with Meter(session.task.model, optimizer, held=held, repeated=repeated) as meter:
            scores, ranking = decided(rank_blocks(session.task, setup.blocks, setup.probe, session.config.ranking))
        flops, peak = _of_all(meter.flops, meter.peak)
        _charge(session, time.perf_counter() - started, flops, peak)
        session.log.event("rank", {"order": list(ranking.names), "flops": flops, "bytes_peak": peak})
        table = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        return selected({**table, "values": dict(scores.values)}, ranking, session.config, session.task.device)

    return again


def _repeated(task: Task, setup: PhaseSetup, config: Config) -> Collection[Block]:
    """Blocks whose calls the meter may take from an earlier one; outside it, compiled blocks would run compiled."""
    if config.train.compile != "off":
        return ()
    return {id(block.module): block for block in (*discover_blocks(task.model), *setup.blocks)}.values()


def _of_all(flops: float, peak: int) -> tuple[float, int]:
    """FLOPs of all processes, and the largest peak of one."""
    rows = numbers([flops, peak])
    return sum(each for each, _ in rows), int(max(each for _, each in rows))


def _bytes(tensors: Collection[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _charge(session: Session, seconds: float, flops: float, peak: int) -> None:
    totals = session.totals
    totals.seconds_scoring += seconds
    totals.flops_scoring += flops
    totals.bytes_peak_scoring = max(totals.bytes_peak_scoring, peak)
    totals.bytes_peak = max(totals.bytes_peak, peak)
