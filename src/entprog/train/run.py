"""`entprog train RECIPE`: one run from configuration to report."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from entprog.config.schema import Config
from entprog.core.processes import first, several
from entprog.evaluate.evaluation import evaluate_task
from entprog.files import save_weights, write_atomically
from entprog.report import write_report
from entprog.savings.adapters import plain_state_dict
from entprog.savings.memory_plan import check_budget
from entprog.savings.weight_precision import load_exactly
from entprog.tasks.base import Task
from entprog.tasks.data_record import check_same_data, write_data_record
from entprog.tasks.finished_run import build_task
from entprog.train.checkpoint import load_checkpoint
from entprog.train.engine import engine
from entprog.train.launch import (
    check_processes,
    check_same,
    leave_group,
    lost_process,
    process_group,
    resumed,
    together,
)
from entprog.train.log import RunLog, describe_run, now, write_status
from entprog.train.loop import NotFinite
from entprog.train.phase import running
from entprog.train.phase_run import run_one_phase
from entprog.train.run_folder import (
    check_blocks,
    kept,
    note_data_path,
    open_folder,
    try_to_note_end,
)
from entprog.train.say import SilentLog, say
from entprog.train.sharded_run import before_sharding, make_whole, shard_task
from entprog.train.state import EMA, Session, StopSignal, Totals, terminable


@terminable()
def train(
    config: Config, *, resume_from_checkpoint: str | None = None, command: str = "",
    after_step: Callable[[], None] | None = None,
) -> Path:  # fmt: skip
    """Train as configured and return the run folder.

    Args:
        config: the whole run; `config.output_dir` must not exist unless resuming.
        resume_from_checkpoint: "latest" or a checkpoint folder; the run continues bit for bit on a CPU.
        command: what the user typed, kept in run.json.
        after_step: called after each step, outside the timed part; then no progress bar is shown.

    Raises:
        ValueError: a wrong setting, a folder that exists, a checkpoint that does not fit, or a loss that is not
            finite.
        OSError: the disk is full.
        SystemExit: 128 + n after signal n, with a checkpoint saved.
    """
    # 1. The run folder, before any work: never overwritten, complete from the start, and held by one run.
    run = Path(config.output_dir)
    with process_group(config) as own:
        check_processes(config)
        with open_folder(run, config, resumed(run, resume_from_checkpoint)) as saved:
            return _train(own, run, saved, command, after_step)


def _train(
    config: Config, run: Path, saved: dict[str, Any] | None, command: str, after_step: Callable[[], None] | None
) -> Path:
    # 2. Seeds and threads.
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.train.seed)

    # 3. Data and task; a sharded network is built whole on the CPU and divided before anything else knows it.
    sharding = config.distributed.shard and several()
    inputs: dict[int, tuple[str, ...]] = {}
    try:
        task = together(lambda: _build(before_sharding(config) if sharding else config))
        together(lambda: _same_data(config, run, task, saved))
        if sharding:
            inputs = together(lambda: shard_task(task, config))
    except BaseException:
        if saved is None and first():
            shutil.rmtree(run, ignore_errors=True)
        raise
    if first():
        write_status(run, {**describe_run(config, task.device, command or " ".join(sys.argv)), **kept(run, saved)})
    log = RunLog(run, config.train.report_to) if first() else SilentLog(run)
    session = Session(config, run, task, log, EMA(task.model, config.train.ema_decay))
    session.after_step, session.inputs = after_step, inputs
    session.data = (task.data_record() or {}).get("fingerprint")
    try:
        if saved is not None:
            place = Path(saved["path"])
            saved = together(lambda: load_checkpoint(place, task.model))
            _restore(session, saved)
        with engine(session):
            _phases(session, saved)
        # 9. Evaluate, report, status.
        _finish(session)
    except SystemExit as stopped:
        if int(stopped.code or 0) < 128:  # another process has said why
            raise
        reason = f"signal {int(stopped.code or 0) - 128}; go on with --resume-from-checkpoint latest"
        log.event("stop", {"reason": reason})
        if first():
            write_status(run, {"status": "interrupted", "reason": reason, "finished": now()})
            print(f"entprog: stopped at step {session.step} by {reason}", file=sys.stderr)
        raise
    except NotFinite as error:
        try_to_note_end(run, log, "failed", str(error))
        if first():
            raise
        raise SystemExit(2) from None  # the loss is that of all processes: the first one says so
    except BaseException as error:
        kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        lost = lost_process(error)
        reason = lost or str(error) or type(error).__name__
        try_to_note_end(run, log, kind, reason)
        if lost:
            raise RuntimeError(lost) from error
        raise
    finally:
        log.close()
    return run


def _build(config: Config) -> Task:
    task = build_task(config)
    task.check(config)
    check_blocks(config, task)
    check_budget(config, task)
    return task


def _same_data(config: Config, run: Path, task: Task, saved: dict[str, Any] | None) -> None:
    """The run's own data, in every process."""
    record = (task.data_record() or {}).get("fingerprint")
    check_same("data.path", record, "the data sets differ; give every process the same folder")
    if saved is not None:
        check_same_data(run, task, saved)
    if not first():
        return
    if saved is None:
        write_data_record(run, task)
    else:
        note_data_path(run, config)


def _phases(session: Session, saved: dict[str, Any] | None) -> None:
    """4. to 8. for each phase in turn; phases before the checkpoint's are skipped."""
    phases = running(session.config)
    total = sum(phase.steps for _, phase in phases)
    first = saved["phase_number"] if saved else 0
    stop = session.stop = StopSignal()
    with stop.watching(), _bar(session, total) as bar:
        for number, (name, _) in enumerate(phases):
            if number < first:
                continue
            of_phase = saved if saved is not None and number == first and not saved["between"] else None
            run_one_phase(session, number, name, of_phase, bar)
            due = stop.gather()
            if due is not None and number + 1 < len(phases):
                raise SystemExit(128 + due)


def _bar(session: Session, total: int) -> tqdm:
    quiet = session.after_step is not None or not first()
    return tqdm(total=total, initial=session.step, desc="Steps", unit="step", disable=quiet)


def _restore(session: Session, saved: dict[str, Any]) -> None:
    load_exactly(session.task.model, saved["model"])
    device = session.task.device
    session.ema.weights = {n: v.to(device) for n, v in saved["averages"]["weights"].items()}
    session.ema.updates = saved["averages"]["updates"]
    session.totals = Totals(**saved["totals"])
    session.holdout_loss, session.holdout_bands = saved["holdout_loss"], saved["holdout_bands"]
    session.step = session.log.step = saved["step"]
    torch.set_rng_state(saved["random"])
    session.log.resume(saved["step"], saved["elapsed"])
    session.log.event("resume", {"from": saved["step"]})


def _finish(session: Session) -> None:
    config, run = session.config, session.run
    session.task.close_cache()
    if config.distributed.shard and several():
        make_whole(session)
    alone = first()
    leave_group()
    if not alone:
        return
    task, model = session.task, session.task.model
    final = run / "final"
    final.mkdir(exist_ok=True)
    task.save(final)
    if session.ema.weights:
        save_weights({**plain_state_dict(model), **session.ema.weights}, final / "ema.safetensors")
    totals = session.totals.summary(session.holdout_loss, session.holdout_bands)
    write_atomically(run / "totals.json", json.dumps(totals, indent=2) + "\n")
    task.leave()
    kind = "ema" if session.ema.weights else "model"
    if config.evaluate.clips:
        with session.ema.applied(model):
            evaluate_task(task, config, run, weights=kind)
    session.log.event("finish", totals)
    write_status(run, {"status": "finished", "finished": now()})
    page = write_report([run])
    say(f"{run}: holdout loss {session.holdout_in_words} over noise bands; report in {page}")
