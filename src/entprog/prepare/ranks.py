"""`prepare` under torchrun, by files in parts/ranks/ of the data set: no rank needs to reach another one.

Rank 0 lists the files and finishes the data set; rank r of n prepares every n-th file from the r-th on.

plan.json   the files, and the greeting of each rank that rank 0 has heard: a plan of an earlier run lacks ours
R.json      rank R's greeting, and a count that it raises as long as it lives
"""

import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entprog.prepare.content import Content
from entprog.prepare.matching import Job
from entprog.prepare.store import Row

__all__ = ["Follower", "Leader", "Ranks"]

BEAT = 0.5
SILENT = 60.0
"""Seconds after which a rank that does not move its count is taken to be dead."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among those of torchrun."""

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> "Ranks":
        """As the environment says; one process without torchrun."""
        try:
            rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        except ValueError:
            return cls()
        return cls(rank, world) if 0 <= rank < world and world > 1 else cls()

    def share(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs of this rank."""
        return list(jobs[self.rank :: self.world])


class _Member:
    """What both kinds of ranks do: write a file again and again, and watch those of others."""

    def __init__(self, out: Path, ranks: Ranks) -> None:
        self.parts, self.folder, self.ranks = out / "parts", out / "parts" / "ranks", ranks
        self.said: dict[str, Any] = {
            "nonce": secrets.token_hex(8), "host": socket.gethostname(), "pid": os.getpid(), "beat": 0, "state": "works"
        }  # fmt: skip
        self._heard: dict[int, tuple[Any, float]] = {}
        self._stopping = threading.Event()

    def write(self, name: str, said: Any) -> None:
        """Write a file atomically; nothing where the folder is gone."""
        partial = self.folder / f".{name}.{os.getpid()}"
        with suppress(FileNotFoundError):
            partial.write_text(json.dumps(said), encoding="utf-8")
            partial.replace(self.folder / name)

    def read(self, name: str) -> dict[str, Any]:
        """What a file says; {} where there is none."""
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    def beat(self) -> None:
        """Show that this rank lives."""
        self.said["beat"] += 1
        self.write(f"{self.ranks.rank}.json", self.said)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beat in a thread meanwhile."""

        def go() -> None:
            while not self._stopping.wait(BEAT):
                self.beat()

        thread = threading.Thread(target=go, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()

    def check(self, rank: int) -> dict[str, Any]:
        """What another rank says.

        Raises:
            ValueError: it is dead or has stopped.
        """
        said, now = self.read(f"{rank}.json"), time.monotonic()
        state = (said.get("nonce"), said.get("beat"))
        if rank not in self._heard or self._heard[rank][0] != state:
            self._heard[rank] = (state, now)
        gone, state_of = False, said.get("state", "works")
        if said.get("host") == socket.gethostname() and state_of in ("works", "finishes"):
            try:
                os.kill(said["pid"], 0)
            except ProcessLookupError:
                gone = True
            except PermissionError:
                pass
        silent = now - self._heard[rank][1]
        if (gone and silent > 2 * BEAT) or (state_of == "works" and silent > SILENT):
            who = f"process {said['pid']} on {said['host']}" if said else "never heard of"
            raise ValueError(f"rank {rank} ({who}) has died; what is done is kept: run the same command again")
        if state_of == "stopped":
            raise ValueError(f"rank {rank} ({said['host']}) has stopped; see what it says, then run the command again")
        return said


class Leader(_Member):
    """Rank 0."""

    def __init__(self, out: Path, ranks: Ranks, jobs: Sequence[Job]) -> None:
        super().__init__(out, ranks)
        shutil.rmtree(self.folder, ignore_errors=True)  # of a run that was killed
        self.folder.mkdir(parents=True)
        files = [{**vars(job.content), "file": str(job.content.file), "name": job.name} for job in jobs]
        self._plan = {"jobs": files, "heard": dict[str, str]()}

    def beat(self) -> None:
        """Show that this rank lives, and the plan to ranks that are new."""
        super().beat()
        others = range(1, self.ranks.world)
        heard = {str(rank): said["nonce"] for rank in others if (said := self.read(f"{rank}.json"))}
        if heard != self._plan["heard"]:
            self._plan["heard"] = heard
            self.write("plan.json", self._plan)

    def arrived(self) -> Iterator[Row]:
        """The rows that other ranks have finished since the last call; their files stay until `forget`."""
        for path in sorted(self.parts.glob("*.json")):
            yield json.loads(path.read_text(encoding="utf-8"))

    def forget(self, row: Row) -> None:
        """Delete a row's file once the row is written elsewhere."""
        (self.parts / f"{row['name']}.json").unlink(missing_ok=True)

    def wait(self) -> None:
        """A moment.

        Raises:
            ValueError: a rank is dead or has stopped.
        """
        for rank in range(1, self.ranks.world):
            self.check(rank)
        time.sleep(BEAT)


class Follower(_Member):
    """Any other rank."""

    def plan(self) -> list[Job]:
        """This rank's files, once rank 0 knows them.

        Raises:
            ValueError: rank 0 is dead, or has stopped.
        """
        began = time.monotonic()
        while True:
            self.beat()
            plan = self.read("plan.json")
            if plan.get("heard", {}).get(str(self.ranks.rank)) == self.said["nonce"]:
                break
            if time.monotonic() - began > SILENT and not self.folder.is_dir():
                raise ValueError("rank 0 has not begun; see what it says")
            time.sleep(BEAT)
        return self.ranks.share([_job(file) for file in plan["jobs"]])

    def deliver(self, row: Row) -> None:
        """A finished file's row; its clips are in parts/."""
        partial = self.parts / f".{row['name']}.json.partial"
        partial.write_text(json.dumps(row), encoding="utf-8")
        partial.replace(self.parts / f"{row['name']}.json")

    def until_finished(self) -> None:
        """Wait until rank 0 has finished the data set.

        Raises:
            ValueError: it is dead or has stopped.
        """
        self.said["state"] = "done"
        while self.folder.is_dir():
            self.check(0)
            time.sleep(BEAT)


def _job(said: dict[str, Any]) -> Job:
    name = said.pop("name")
    return Job(Content(**{**said, "file": Path(said["file"])}), name)
