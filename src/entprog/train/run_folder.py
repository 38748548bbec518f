"""The run folder: made once, never overwritten, resumed only with the configuration that made it."""

import json
import sys
from pathlib import Path
from typing import Any

from entprog import plugins
from entprog.config.load import RESUMABLE, differences, read_config, write_config
from entprog.config.schema import Config
from entprog.core.probe import check_shared
from entprog.core.types import Ranking, Shape
from entprog.files import write_atomically
from entprog.tasks.base import Task
from entprog.train.checkpoint import find_checkpoint, load_checkpoint
from entprog.train.log import RunLog, now, write_status


def open_folder(run: Path, config: Config, resume: str | None) -> dict[str, Any] | None:
    """Make the folder, or check that a checkpoint in it may be resumed with this configuration."""
    if resume is None:
        if run.exists():
            raise ValueError(
                f"output_dir = {str(run)!r}: exists; choose another, or go on with --resume-from-checkpoint latest"
            )
        run.mkdir(parents=True)
        write_atomically(run / "config.toml", write_config(config))
        return None
    if not (run / "config.toml").is_file():
        raise ValueError(f"output_dir = {str(run)!r}: no run to resume there; train without --resume-from-checkpoint")
    changed = differences(read_config(run / "config.toml", resolved=True), config, RESUMABLE)
    if changed:
        raise ValueError(
            "the configuration differs from the run's own; resume with the old values:\n" + "\n".join(changed)
        )
    return load_checkpoint(find_checkpoint(run, resume))


def kept(run: Path, saved: dict[str, Any] | None) -> dict[str, Any]:
    """A resumed run keeps the time of its first start."""
    if saved is None or not (run / "run.json").is_file():
        return {}
    return {"started": json.loads((run / "run.json").read_text(encoding="utf-8"))["started"]}


def check_blocks(config: Config, task: Task) -> None:
    """Refuse, before any work, patterns that match nothing and schedules that ask for more blocks than there are.

    Raises:
        ValueError: naming the pattern or the option.
    """
    for phase in config.phases.values():
        if not phase.steps:
            continue
        blocks = task.blocks(phase, config.ranking.pattern)
        if not plugins.ranked(config.method):
            continue
        schedule = plugins.load("schedule", config.schedule.name, **config.schedule.options)
        any_order, shape = Ranking(tuple(blocks.names)), Shape(phase.resolution, phase.frames, phase.batch)
        for stage in range(schedule.stages):
            candidates = schedule.candidates(stage, any_order, shape, None)
            check_shared(schedule, len(candidates))


def try_to_note_end(run: Path, log: RunLog, kind: str, reason: str) -> None:
    """Note why a run ended; a full disk must not hide the first error."""
    try:
        log.event("stop", {"reason": reason})
        write_status(run, {"status": kind, "reason": reason, "finished": now()})
    except OSError as error:
        print(f"entprog: could not note that in {run}: {error}", file=sys.stderr)
