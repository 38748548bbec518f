"""Score a phase's blocks, write down the order with its costs, and charge the work to the run."""

import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, optim
from tqdm import tqdm

from entprog import plugins
from entprog.config.schema import Config, RankingConfig, TrainConfig
from entprog.core.blocks import Blocks, discover_blocks
from entprog.core.depth import block_costs
from entprog.core.outside import used_outside
from entprog.core.select import PassCosts, select_blocks
from entprog.core.truncation import input_parameters
from entprog.core.types import Draw, Ranking, Scores, Task
from entprog.data.shards import write_atomically
from entprog.profiling.meter import Meter
from entprog.profiling.step_costs import Measured, measure_costs
from entprog.profiling.units import written_bytes
from entprog.savings.in_backward import optimizer_plugin
from entprog.tasks.human_video.task import HumanVideo
from entprog.train.diagnostics import Watch
from entprog.train.state import Session


def rank_blocks(task: Task, blocks: Blocks, draws: list[Draw], config: RankingConfig) -> tuple[Scores, Ranking]:
    """Score `blocks` on `draws` by the configured plugin."""
    scores = plugins.load("score", config.score, **config.options).score(task, blocks, draws)
    return scores, scores.ranking()


def ranking_table(task: Task, blocks: Blocks, draw: Draw, scores: Scores, config: RankingConfig) -> dict[str, Any]:
    """What scores.json says of a ranking: order, values, errors, and what each block costs to train."""
    strayed = used_outside(task.model, blocks, lambda: task.predict(draw))
    return {
        "score": config.score,
        "options": config.options,
        "samples": scores.samples,
        "order": list(scores.ranking().names),
        "values": dict(scores.values),
        "stderr": dict(scores.stderr),
        "cost": block_costs(task, blocks, draw),
        "warnings": [*scores.notes, *(f"used outside its block, too: {name}" for name in strayed)],
    }


def weighed(config: Config, device: torch.device) -> str:
    """What choices weigh gain against: "flops" or "seconds"."""
    if config.train.cost_unit != "auto":
        return config.train.cost_unit
    return "flops" if device.type == "cpu" else "seconds"


def rare_inputs(config: Config, method: Any, task: HumanVideo, draw: Draw, outside: bool) -> tuple[str, ...]:
    """Names of what stands before the blocks, where it does not train at every step."""
    ranked = plugins.ranked(config.method)
    apart = config.freeze.inputs_every != 1 if ranked else getattr(method, "inputs", "always") != "always"
    if not apart or not outside:
        return ()
    return input_parameters(task.model, discover_blocks(task.model), lambda: task.predict(draw))


def never_trained(config: Config, method: Any) -> bool:
    """Whether what `rare_inputs` names does not train at any step."""
    if plugins.ranked(config.method):
        return config.freeze.inputs_every == 0
    return bool(getattr(method, "inputs", "always") == "never")


def add_costs(
    table: dict[str, Any], task: Task, blocks: Blocks, draw: Draw, config: Config, *, batch: int, outside: bool,
    inputs: Collection[str] = (),
) -> Measured:  # fmt: skip
    """Measure what each block costs as the lowest active one into `table`; `inputs` as `rare_inputs` gives them."""
    cost = table["cost"]
    order = sorted(cost, key=lambda name: cost[name]["lowest_depth"])
    exact = config.ranking.select == "per_second" and weighed(config, draw.x.device) == "flops"
    inside = {id(p) for block in blocks for p in block.parameters()}
    measured = measure_costs(
        task, blocks, order, draw, batch, outside=outside, exact=exact, inputs=inputs,
        every=config.freeze.inputs_every, states=_states(config.train, inside),
    )  # fmt: skip
    for name in order:
        cost[name].update(measured.of(name))
    return measured


def _states(config: TrainConfig, inside: Collection[int]) -> Callable[[Tensor], int]:
    plugin = optimizer_plugin(config)
    return lambda parameter: int(plugin.state_bytes(parameter, "block" if id(parameter) in inside else "outside"))


def selected(table: dict[str, Any], ranking: Ranking, config: Config, device: torch.device) -> Ranking:
    """The ranking as `ranking.select` wants its top m; `table` is what scores.json says of the phase's blocks."""
    select = config.ranking.select
    if select == "importance":
        return ranking
    kind = "bytes" if select == "per_byte" else weighed(config, device)
    cost = table["cost"]
    order = sorted(cost, key=lambda name: cost[name]["lowest_depth"])
    alone, added = ({name: cost[name][f"{what}_{kind}"] for name in order} for what in ("step", "added"))
    return select_blocks(ranking, table["values"], PassCosts(tuple(order), alone, added))


def rank_phase(
    session: Session, folder: Path, blocks: Blocks, probe: list[Draw], watch: Watch, *, batch: int, outside: bool,
    inputs: Collection[str], resumed: bool,
) -> Ranking | None:  # fmt: skip
    """The phase's ranking, charged to the run; read back from scores.json when the phase is resumed."""
    config = session.config
    if not plugins.ranked(config.method):
        return None
    path = folder / "scores.json"
    if resumed:
        table = json.loads(path.read_text(encoding="utf-8"))
        return selected(table, Ranking(tuple(table["order"])), config, session.task.device)
    started = time.perf_counter()
    with _metered(session) as meter:  # the table of costs and the watch's gradient are part of what ranking costs
        scores, ranking = rank_blocks(session.task, blocks, probe, config.ranking)
        table = ranking_table(session.task, blocks, probe[0], scores, config.ranking)
        needed = plugins.load("score", "gradient", norm="l1").score(session.task, blocks, probe[:1])
    # Beside the meter, not inside: it would slow the passes that are timed.
    measured = add_costs(table, session.task, blocks, probe[0], config, batch=batch, outside=outside, inputs=inputs)
    watch.order(scores.values, needed.values)
    seconds, flops = time.perf_counter() - started, meter.flops + measured.spent
    peak = max(meter.peak, measured.peak + session.ema.size)
    _charge(session, seconds, flops, peak)
    content = {**table, "samples": scores.samples, "seconds": seconds, "flops": flops, "bytes_peak": peak}
    write_atomically(path, json.dumps(content, indent=2) + "\n")
    about = {"order": list(ranking.names), "seconds": seconds, "flops": flops, "bytes_peak": peak}
    session.log.event("rank", {**about, "bytes_live": meter.at_peak} if peak == meter.peak else about)
    order = " > ".join(ranking.names[:6]) + (" > ..." if len(blocks) > 6 else "")
    tqdm.write(f"{folder.name}: {order} (ranked in {written_bytes(peak)} at most)")
    return selected(content, ranking, config, session.task.device)


def reranker(
    session: Session, folder: Path, blocks: Blocks, probe: list[Draw], optimizer: optim.Optimizer
) -> Callable[[], Ranking] | None:
    """Ranks the same blocks anew on the same draws, charged to the run; None unless `ranking.again`.

    What blocks cost stays as `rank_phase` measured it. The states of `optimizer` lie in memory meanwhile.
    """
    if not session.config.ranking.again:
        return None

    def again() -> Ranking:
        started = time.perf_counter()
        with _metered(session, optimizer) as meter:
            scores, ranking = rank_blocks(session.task, blocks, probe, session.config.ranking)
        _charge(session, time.perf_counter() - started, meter.flops, meter.peak)
        session.log.event("rank", {"order": list(ranking.names), "flops": meter.flops, "bytes_peak": meter.peak})
        table = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        return selected({**table, "values": dict(scores.values)}, ranking, session.config, session.task.device)

    return again


def _metered(session: Session, optimizer: optim.Optimizer | None = None) -> Meter:
    return Meter(session.task.model, optimizer, held=session.ema.weights.values())


def _charge(session: Session, seconds: float, flops: float, peak: int) -> None:
    totals = session.totals
    totals.seconds_scoring += seconds
    totals.flops_scoring += flops
    totals.bytes_peak_scoring = max(totals.bytes_peak_scoring, peak)
    totals.bytes_peak = max(totals.bytes_peak, peak)
