"""Score a phase's blocks, write down the order with its costs, and charge the work to the run."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from entprog import plugins
from entprog.config import RankingConfig
from entprog.core.blocks import Blocks
from entprog.core.depth import block_costs
from entprog.core.outside import used_outside
from entprog.core.types import Draw, Ranking, Scores, Task
from entprog.data.shards import write_atomically
from entprog.plan.meter import Meter
from entprog.train.state import Session
from entprog.train.watch import Watch


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


def read_scores(path: Path) -> Ranking:
    """The order that an earlier sitting found."""
    return Ranking(tuple(json.loads(path.read_text(encoding="utf-8"))["order"]))


def rank_phase(
    session: Session, folder: Path, blocks: Blocks, probe: list[Draw], watch: Watch, *, resumed: bool
) -> Ranking | None:
    """The phase's ranking, charged to the run; read back from scores.json when the phase is resumed."""
    config = session.config
    if config.method == "full":
        return None
    path = folder / "scores.json"
    if resumed:
        return read_scores(path)
    started = time.perf_counter()
    with Meter() as meter:  # the table of costs and the watch's gradient are part of what ranking costs
        scores, ranking = rank_blocks(session.task, blocks, probe, config.ranking)
        table = ranking_table(session.task, blocks, probe[0], scores, config.ranking)
        needed = plugins.load("score", "gradient", norm="l1").score(session.task, blocks, probe[:1])
    watch.order(scores.values, needed.values)
    seconds = time.perf_counter() - started
    session.totals.seconds_scoring += seconds
    session.totals.flops_scoring += meter.flops
    content = {**table, "samples": scores.samples, "seconds": seconds, "flops": meter.flops}
    write_atomically(path, json.dumps(content, indent=2) + "\n")
    session.log.event("rank", {"order": list(ranking.names), "seconds": seconds, "flops": meter.flops})
    tqdm.write(f"{folder.name}: " + " > ".join(ranking.names[:6]) + (" > ..." if len(blocks) > 6 else ""))
    return ranking


def reranker(session: Session, blocks: Blocks, probe: list[Draw]) -> Callable[[], Ranking] | None:
    """Ranks the same blocks anew on the same draws, charged to the run; None unless `ranking.again`."""
    if not session.config.ranking.again:
        return None

    def again() -> Ranking:
        started = time.perf_counter()
        with Meter() as meter:
            _, ranking = rank_blocks(session.task, blocks, probe, session.config.ranking)
        session.totals.seconds_scoring += time.perf_counter() - started
        session.totals.flops_scoring += meter.flops
        session.log.event("rank", {"order": list(ranking.names), "flops": meter.flops})
        return ranking

    return again
