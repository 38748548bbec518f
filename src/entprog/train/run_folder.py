"""The run folder: made once, never overwritten, resumed only with the configuration that made it."""

import json
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from entprog import plugins
from entprog.config.load import read_config, write_config
from entprog.config.schema import Config
from entprog.core.probe import check_shared
from entprog.core.processes import decided, first
from entprog.core.types import Ranking, Shape
from entprog.files import write_atomically
from entprog.locks import folder_lock
from entprog.tasks.base import Task
from entprog.tasks.data_record import read_data_record
from entprog.toml.trees import holds, leaves
from entprog.toml.values import shown
from entprog.train.checkpoint import find_checkpoint, read_state
from entprog.train.launch import together
from entprog.train.log import RunLog, now, write_status

RESUMABLE = (
    "output_dir", "label", "data.workers", "data.cache", "train.checkpointing_steps", "train.checkpoints_total_limit",
    "train.validation_steps", "train.validation_clips", "train.report_to", "distributed", "sample", "evaluate",
)  # fmt: skip
"""What may differ when a run is resumed: keys, and tables with all their keys, that no weight depends on."""


@contextmanager
def open_folder(run: Path, config: Config, resume: str | None) -> Iterator[dict[str, Any] | None]:
    """Make the folder, or check that a checkpoint in it may be resumed with this configuration; held until the end.

    Of several processes the first does so, and all read the checkpoint.

    Raises:
        ValueError: the folder exists, another process trains there, or the checkpoint does not fit.
    """
    with ExitStack() as held:
        opened = together(lambda: held.enter_context(_opened(run, config, resume)) if first() else None)
        path = decided(opened)
        yield None if path is None else together(lambda: read_state(path))


@contextmanager
def _opened(run: Path, config: Config, resume: str | None) -> Iterator[Path | None]:
    if resume is None:
        try:
            run.mkdir(parents=True)
        except FileExistsError:
            raise ValueError(
                f"output_dir = {str(run)!r}: exists; choose another, or go on with --resume-from-checkpoint latest"
            ) from None
    elif not (run / "config.toml").is_file():
        raise ValueError(f"output_dir = {str(run)!r}: no run to resume there; train without --resume-from-checkpoint")
    with folder_lock(run):
        if resume is None:
            write_atomically(run / "config.toml", write_config(config))
            yield None
        else:
            yield _checkpoint(run, config, resume)


def _checkpoint(run: Path, config: Config, resume: str) -> Path:
    # Where the data set is recorded by its content, its folder may be another one.
    ignore = (*RESUMABLE, "data.path") if read_data_record(run) else RESUMABLE
    changed = differences(read_config(run / "config.toml", resolved=True), config, ignore)
    if changed:
        raise ValueError(
            "the configuration differs from the run's own; resume with the old values:\n" + "\n".join(changed)
        )
    return find_checkpoint(run, resume)


def note_data_path(run: Path, config: Config) -> None:
    """Keep where the data set of a resumed run is now, for its evaluation."""
    before = read_config(run / "config.toml", resolved=True)
    if before.data.path != config.data.path:
        moved = replace(before, data=replace(before.data, path=config.data.path))
        write_atomically(run / "config.toml", write_config(moved))


def differences(a: Config, b: Config, ignore: Sequence[str] = ()) -> list[str]:
    """One line for each dotted key that differs: "train.seed: 0 -> 1".

    `ignore` names keys, or tables with all their keys, that may differ (`RESUMABLE` on resume). The order of
    phases and the options of plugins count.
    """
    before, after = (dict(leaves(tomllib.loads(write_config(config)))) for config in (a, b))
    if set(a.phases) == set(b.phases):
        before["phases"], after["phases"] = list(a.phases), list(b.phases)
    lines = []
    for key in dict.fromkeys([*before, *after]):
        ignored = any(holds(table, key) for table in ignore)
        # repr tells 1 from true and 1.0, which an option of a plugin may not take for the same.
        if repr(before.get(key)) != repr(after.get(key)) and not ignored:
            lines.append(f"{key}: {_written(before, key)} -> {_written(after, key)}")
    return lines


def _written(leaves: dict[str, Any], key: str) -> str:
    return shown(leaves[key]) if key in leaves else "(not set)"


def kept(run: Path, saved: dict[str, Any] | None) -> dict[str, Any]:
    """A resumed run keeps the time of its first start."""
    if saved is None or not (run / "run.json").is_file():
        return {}
    return {"started": json.loads((run / "run.json").read_text(encoding="utf-8"))["started"]}


def check_blocks(config: Config, task: Task) -> None:
    """Refuse, before any work, what the task can't do.

    That is patterns that match nothing, schedules that ask for more blocks than there are, and noise bands in a task
    whose draws know none.

    Raises:
        ValueError: naming the pattern or the option.
    """
    edges = getattr(plugins.load("method", config.method, **config.method_options), "noise_edges", ())
    if edges and not task.bands:
        raise ValueError(
            f'method_options.noise_edges = {list(edges)}: the draws of task "{config.task}" do not follow Shape.band; '
            'give the task bands = True once its draw does, or choose a method without noise bands, such as "full"'
        )
    for phase in config.phases.values():
        if not phase.steps:
            continue
        blocks = task.blocks(phase, config.ranking.pattern)
        if not plugins.ranked(config.method):
            continue
        schedule = plugins.load("schedule", config.schedule.name, **config.schedule.options)
        any_order, shape = Ranking(tuple(blocks.names)), Shape.of(phase.sides, phase.frames, phase.batch)
        for stage in range(schedule.stages):
            candidates = schedule.candidates(stage, any_order, shape, None)
            check_shared(schedule, len(candidates))


def try_to_note_end(run: Path, log: RunLog, kind: str, reason: str) -> None:
    """Note why a run ended; a full disk must not hide the first error."""
    try:
        log.event("stop", {"reason": reason})
        if first():
            write_status(run, {"status": kind, "reason": reason, "finished": now()})
    except OSError as error:
        print(f"entprog: could not note that in {run}: {error}", file=sys.stderr)
