"""Files prepared one by one, in this process or in several; whatever happens to one file ends in its row."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from entprog.prepare.matching import FAILED, Job, dropped_row
from entprog.prepare.memory import keep_freed_memory
from entprog.prepare.parts import FULL, NotWritten, keep_clip
from entprog.prepare.store import Row
from entprog.prepare.video import VideoError

__all__ = ["Work", "prepare_jobs"]

Keep = Callable[[str, Mapping[str, Tensor]], None]
GUARD = "workers: a process could not be started; call prepare from a script inside if __name__ == '__main__', or use 1"
LONGEST = 200
"""Characters of an error's message in a reason."""


class Work(Protocol):
    """How one file is prepared; sent to each process once."""

    @property
    def settings(self) -> Row:
        """Those of the data set."""
        ...

    def open(self) -> Callable[[Path, str, Keep], Row]:
        """Load the networks; the function prepares one file under a name, and gives its clips to keep."""
        ...


def prepare_jobs(jobs: Sequence[Job], work: Work, parts: Path, workers: int) -> Iterator[tuple[Job, Row]]:
    """Each job's row, as they are done; the clips lie in `parts`.

    The rows and clips are the same for any number of workers: each file is prepared by one thread. A file whose process
    ends is tried once more, after all others.

    Raises:
        OSError: the data set's folder can't be written.
        RuntimeError: no process could be started.
    """
    if workers < 2 or len(jobs) < 2:
        yield from _here(jobs, work, parts)
    else:
        yield from _in_processes(jobs, work, parts, min(workers, len(jobs)))


def _here(jobs: Sequence[Job], work: Work, parts: Path) -> Iterator[tuple[Job, Row]]:
    threads, prepare = torch.get_num_threads(), None
    keep_freed_memory()
    for job in jobs:
        torch.set_num_threads(1)
        try:
            prepare = prepare or work.open()
            row = prepare_one(job, prepare, work.settings, parts)
        finally:
            torch.set_num_threads(threads)
        yield job, row


def prepare_one(job: Job, prepare: Callable[[Path, str, Keep], Row], settings: Row, parts: Path) -> Row:
    """The row of one file, whatever its content leads to.

    Raises:
        NotWritten, OSError: the data set's folder can't be written, or a disk is full.
    """
    content, kept = job.content, Counter[str]()

    def keep(clip: str, tensors: Mapping[str, Tensor]) -> None:
        # numbered here: what another process has left of this file, or still writes, is replaced and not added to
        keep_clip(parts, clip, tensors, kept[clip])
        kept[clip] += 1

    try:
        row = prepare(content.file, job.name, keep)
    except VideoError as error:
        return dropped_row(content, job.name, f"unreadable: {error.reason}", settings)
    except (NotWritten, torch.OutOfMemoryError):
        raise
    except MemoryError:  # which other files would meet, too
        raise
    except Exception as error:  # whatever the content of a file leads to, the other files go on
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        said = " ".join(str(error).split())[:LONGEST] or "no message"
        return dropped_row(content, job.name, f"{FAILED}: {type(error).__name__}: {said}", settings)
    return {**row, "source": content.source, **content.about}


class _Worker:
    """One process: it is sent a job, and sends back the row, or the error that ends the whole run."""

    def __init__(self, work: Work, parts: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, parts, _levels()), daemon=True)
        self.job: Job | None = None
        self.ready = False
        self.process.start()
        theirs.close()
        self.pipe.send(work)

    def send(self, job: Job) -> None:
        """Begin with a file."""
        self.job = job
        self.pipe.send(job)

    def stop(self) -> None:
        """End the process, in the middle of a file if need be."""
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _in_processes(jobs: Sequence[Job], work: Work, parts: Path, count: int) -> Iterator[tuple[Job, Row]]:
    waiting, workers, again = list(reversed(jobs)), list[_Worker](), set[str]()
    try:
        workers += [_Worker(work, parts) for _ in range(count)]
        while workers:
            wait([worker.pipe for worker in workers])
            for worker in list(workers):
                try:
                    if not worker.pipe.poll():
                        continue
                    said = worker.pipe.recv()
                except (EOFError, OSError):
                    said = None
                if isinstance(said, BaseException):
                    raise said
                job, worker.job = worker.job, None
                if said is None:  # the process is gone
                    workers.remove(worker)
                    worker.stop()
                    if job is None:
                        raise RuntimeError(GUARD)
                    if job.name in again:
                        yield job, dropped_row(job.content, job.name, _death(worker.process.exitcode), work.settings)
                    else:  # perhaps not for this file's sake
                        again.add(job.name)
                        waiting.insert(0, job)
                    if waiting:
                        workers.append(_Worker(work, parts))
                    continue
                if job is not None:
                    yield job, said
                if waiting:
                    worker.send(waiting.pop())
                else:
                    workers.remove(worker)
                    worker.stop()
    finally:
        for worker in workers:
            worker.stop()


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        more = "; too little memory?" if -code == signal.SIGKILL else ""
        return f"{FAILED}: its process was ended by {name}{more}"
    return f"{FAILED}: its process ended with code {code}"


def _levels() -> dict[str, int]:
    """The levels of all loggers, which a new process would not know."""
    loggers = logging.root.manager.loggerDict.items()
    return {name: logger.level for name, logger in loggers if isinstance(logger, logging.Logger) and logger.level}


def _serve(pipe: Connection, parts: Path, levels: Mapping[str, int]) -> None:
    """What a process does: "ready", then a row for each job, until its parent is gone."""
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        work: Work = pipe.recv()  # which imports libraries, whose loggers are set by now
        prepare = work.open()
        pipe.send("ready")
        while True:
            pipe.send(prepare_one(pipe.recv(), prepare, work.settings, parts))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        pipe.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def sigterm_stops() -> Iterator[None]:
    """SIGTERM ends the run like Ctrl-C, with exit code 143, so that its processes end too."""

    def leave(number: int, frame: Any) -> None:
        print("entprog: stopped by SIGTERM; run the same command again to go on", file=sys.stderr)
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
