"""The loop over a suite's runs: make the next one, add its record, until none is missing or the time is over."""

import os
import shutil
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.runner.address import NUMERICS, weights
from benchmarks.runner.exam import examine, with_quality
from benchmarks.runner.results_file import add_record, add_reference, only_runner, read_records, results_file
from benchmarks.runner.run_plan import PlannedRun, plan
from benchmarks.runner.run_record import Record, of_run
from benchmarks.runner.start_weights import base_weights, final_weights, finish, started_from
from benchmarks.runner.suite import Suite
from entprog.train.log import now
from entprog.train.loop import NotFinite
from entprog.train.state import terminable


def run_suite(
    suite: Suite,
    results: Path,
    runs: Path,
    *,
    arms: Collection[str] = (),
    seeds: Collection[int] = (),
    minutes: float = 0.0,
    command: str = "",
) -> bool:
    """Make the runs that the suite's file in the folder `results` lacks; returns whether none is left.

    Args:
        runs: folder of the suite's run folders; a run that was stopped goes on bit for bit (on a CPU). Of a finished
            one only text and samples stay.
        arms, seeds: only these (a run that needs the reference's pilot makes it).
        minutes: stop after so long, in the middle of a run if need be; 0 for no limit.
        command: what to write into the records.

    Raises:
        Busy: another process runs this suite.
        ValueError: some runs could not be made, for reasons that the user can mend; all others were.
        SystemExit, KeyboardInterrupt: stopped from outside, with a checkpoint saved.
    """
    up = threading.Event()
    try:
        with only_runner(suite.name, results, runs), _deadline(minutes, up):
            failed = _until_none_is_missing(suite, results_file(results, suite.name), runs, arms, seeds, command)
    except SystemExit:
        if not up.is_set():
            raise
        tqdm.write(f"{suite.name}: {minutes:g} minutes are over; the same command continues")
        return False
    if failed:
        raise ValueError("\n".join(failed))
    return True


def _until_none_is_missing(
    suite: Suite, file: Path, runs: Path, arms: Collection[str], seeds: Collection[int], command: str
) -> list[str]:
    """The loop; returns what kept runs from being made."""
    failed: dict[str, str] = {}
    shown: set[str] = set()
    records = read_records(file)
    for name, record in records.items():  # a call that was stopped may have left some
        tidy(runs / name, record)
    planned = plan(suite, records, arms=arms, seeds=seeds)
    text = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} runs [{elapsed}<{remaining}]{postfix}"
    with tqdm(desc=suite.name, total=planned.done + planned.ahead, initial=planned.done, bar_format=text) as bar:
        while True:
            for note in planned.notes:
                if note not in shown:
                    tqdm.write(f"{suite.name}: {note}")
                    shown.add(note)
            left = [run for run in planned.missing if run.address not in failed]
            if not left:
                return list(failed.values())
            run = left[0]
            bar.set_postfix_str(f"{run.kind} {run.arm} seed {run.seed} rate x{run.factor:g}")
            taken = add_reference(file, run.address)
            if taken is None:
                try:
                    made = make(suite, run, runs / run.address, command)
                except ValueError as error:
                    failed[run.address] = f"{suite.name}: {run.kind} {run.arm}, seed {run.seed}: {error}"
                    tqdm.write(failed[run.address])
                    continue
                taken = add_record(file, made)
                tidy(runs / run.address, taken)
            records[run.address] = taken
            planned = plan(suite, records, arms=arms, seeds=seeds)
            bar.total = planned.done + planned.ahead
            bar.update(planned.done - bar.n)


def make(suite: Suite, planned: PlannedRun, run: Path, command: str) -> Record:
    """Train and examine one run, or what is left to do of it.

    Raises:
        ValueError: its settings do not work.
    """
    base = base_weights(suite, run.parent, recorded=planned.base, command=command) if planned.kind != "base" else None
    config = started_from(replace(planned.config, output_dir=str(run)), base)
    exam: dict[str, Any] | None = None
    status = "finished"
    try:
        finish(config, command)
    except NotFinite as error:
        if planned.kind == "base":
            raise
        status = "diverged"
        tqdm.write(f"{suite.name}: {planned.arm} at {planned.factor:g} times the rates: {error}")
    if planned.exam is not None and status == "finished":
        full = with_quality(config, dict(suite.recipe))
        with terminable():
            exam = examine(
                run, full, planned.exam, clips=suite.exam.clips, repeats=suite.exam.repeats,
                quality=planned.quality and full.evaluate.clips > 0,
            )  # fmt: skip
    head = {
        "address": planned.address, "suite": suite.name, "kind": planned.kind, "arm": planned.arm, "seed": planned.seed,
        "factor": planned.factor, "steps": dict(planned.steps), "status": status, "made": now(), "numerics": NUMERICS,
        "base": weights(config.model.size, config.model.init), "config": asdict(planned.config),
        "weights": weights("", str(final_weights(run))) if planned.kind == "base" else None,
        "exam_data": asdict(planned.exam) if planned.exam is not None else None,
    }  # fmt: skip
    return of_run(run, head, exam)


def tidy(run: Path, record: Record) -> None:
    """Delete what takes space in a run whose record is written: checkpoints, draws, weights but those of a base."""
    for folder in (*run.glob("checkpoint-*"), *run.glob(".checkpoint-*"), run / "tensorboard"):
        shutil.rmtree(folder, ignore_errors=True)
    for file in run.rglob("*.safetensors"):
        if record["kind"] != "base" or file.parent.name != "final":
            file.unlink()
    for folder in run.glob("samples/*/*/"):  # single frames; the clips stay
        shutil.rmtree(folder)


@contextmanager
def _deadline(minutes: float, up: threading.Event) -> Iterator[None]:
    """Ends this process' work by SIGTERM after so many minutes, as training saves a checkpoint then.

    `up` is set when it was the time limit that ended it, which can be as early as inside this function.
    """
    if not minutes:
        yield
        return

    def stop() -> None:
        up.set()
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(60 * minutes, stop)
    timer.daemon = True
    with terminable():  # between two runs, too
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
