"""The middle of `prepare`, for both formats: which files are to be done, doing them, and what is left out."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from entprog.locks import folder_lock
from entprog.prepare.content import read_contents
from entprog.prepare.inputs import Listing
from entprog.prepare.matching import SAME, match
from entprog.prepare.ranks import Follower, Leader, Ranks
from entprog.prepare.store import Row, Store, check_folder
from entprog.prepare.work import Work, prepare_jobs, sigterm_stops

__all__ = ["PrepareResult", "counted_lines", "follow", "hold", "prepare_files", "result_of", "workers_of"]


@dataclass(frozen=True)
class PrepareResult:
    """The data set after a run: files, clips, and why files were dropped; `skipped` were done in an earlier run.

    `windows` of format 2. `left_out` counts what else the inputs hold, by what it is.
    """

    out: Path
    kept: int
    dropped: int
    skipped: int
    clips: int
    frames: int
    reasons: dict[str, int]
    windows: int = 0
    left_out: dict[str, int] | None = None


def workers_of(workers: int | None, device: str = "cpu") -> int:
    """How many processes: as asked, else the cores that this process may use, shared among the ranks of a machine.

    On another device than the CPU one, as each would hold the networks there.
    """
    if workers is not None:
        return workers
    if device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, cores // (int(local) if local.isdigit() and int(local) else 1))


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """The lock of the data set's folder, made where it is not there; another prepare is waited for, and named.

    Raises:
        ValueError: `out` is a file, or a folder of something else.
    """
    check_folder(out)
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with sigterm_stops(), folder_lock(out, wait=lambda said: tqdm.write(f"entprog: {said}")):
            yield
    finally:
        if made and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def prepare_files(
    store: Store, listing: Listing, work: Work, *, workers: int, progress: bool,
    complete: Callable[[Row], Row] = lambda row: row,
) -> int:  # fmt: skip
    """Every file that is not done; returns how many were. `complete` adds to a row before it is written."""
    ranks = Ranks.here()
    contents = read_contents(listing.files, store.rows, threads=workers, progress=progress)
    before = len(store.rows)
    jobs = match(store, contents, work.settings, listing.names)
    new = sum(1 for row in store.rows[before:] if row["source"] in {content.source for content in contents})
    skipped = len(contents) - len(jobs) - new
    store.left_out = dict(listing.left_out)
    leader = Leader(store.out, ranks, jobs) if ranks.world > 1 else None
    waiting = {job.name for job in jobs}
    splits = {path.resolve().as_posix(): split for path, split in listing.splits.items()}
    replaced = {id(row) for row in store.replaced.values()}
    counts = Counter(row["status"] for row in store.rows if id(row) not in replaced)
    with tqdm(
        total=len(contents), initial=len(contents) - len(jobs), desc="prepare", unit="file", disable=not progress
    ) as bar:

        def done(row: Row) -> None:
            if row["name"] in waiting:
                waiting.remove(row["name"])
                given = {"given_split": splits[row["source"]]} if row["source"] in splits else {}
                store.add(complete(row) | given)
                counts[row["status"]] += 1
                bar.set_postfix(kept=counts["kept"], dropped=counts["dropped"], refresh=False)
                bar.update()

        if leader is None:
            for _, row in prepare_jobs(jobs, work, store.parts, workers):
                done(row)
        else:
            _lead(leader, prepare_jobs(ranks.share(jobs), work, store.parts, workers), done, waiting)
    return skipped


def _lead(leader: Leader, own: Iterator, done: Callable[[Row], None], waiting: set[str]) -> None:
    def collect() -> None:
        for row in leader.arrived():
            done(row)
            leader.forget(row)

    with leader.beating():
        try:
            for _, row in own:
                done(row)
                collect()
            while waiting:
                leader.wait()
                collect()
            leader.said["state"] = "finishes"
            leader.beat()
        except BaseException:
            leader.said["state"] = "stopped"
            leader.beat()
            raise


def follow(out: Path, work: Work, *, workers: int) -> PrepareResult:
    """What a rank other than 0 does: its share of the files. Returns how many those were.

    Raises:
        ValueError: rank 0 is dead or has stopped.
    """
    member = Follower(out, Ranks.here())
    kept = dropped = 0
    with sigterm_stops():
        jobs = member.plan()
        with member.beating():
            try:
                for _, row in prepare_jobs(jobs, work, member.parts, workers):
                    member.deliver(row)
                    kept, dropped = kept + (row["status"] == "kept"), dropped + (row["status"] == "dropped")
                    member.check(0)
                member.until_finished()
            except BaseException:
                member.said["state"] = "stopped"
                member.beat()
                raise
    return PrepareResult(out, kept, dropped, 0, 0, 0, {})


def result_of(store: Store, skipped: int, clips: int, frames: int, windows: int = 0) -> PrepareResult:
    """What became of the files of a finished data set."""
    dropped, reasons = dropped_files(store)
    kept = len(store.rows) - dropped
    return PrepareResult(store.out, kept, dropped, skipped, clips, frames, reasons, windows, store.left_out)


def counted_lines(reasons: Mapping[str, int], most: int) -> list[str]:
    """ "2 x no person found", the most frequent first; of more than `most` reasons the others are counted."""
    lines = [f"{count} x {reason}" for reason, count in reasons.items()]
    rest = sum(list(reasons.values())[most:])
    return [*lines[:most], *([f"{rest} x other reasons"] if rest else [])]


def dropped_files(store: Store) -> tuple[int, dict[str, int]]:
    """How many files were dropped, and how often for which reason.

    Raises:
        ValueError: all of them.
    """
    gone = {id(row) for row in store.replaced.values()}
    rows = [row for row in store.rows if id(row) not in gone]
    dropped = [row for row in rows if row["status"] == "dropped"]
    reasons = dict(
        Counter("same content as another file" if SAME in row else row["reason"] for row in dropped).most_common()
    )
    if len(dropped) == len(rows):
        counted = "; ".join(counted_lines(reasons, most=3))
        path = store.out / "prepare.jsonl"
        raise ValueError(f"inputs: none of {len(dropped)} files can be used ({counted}); see {path}")
    return len(dropped), reasons
