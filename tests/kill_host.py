"""Runs of a parallel prepare with the stand-in, killed at chance moments; processes are forked, which is cheap.

python kill_host.py INPUTS OUT KILLS SEED    kills OUT's run so often, then lets it end; prints what was killed and when
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import stand_in_work
from entprog.prepare import work

SLOW = 0.004
"""Seconds a file, so that kills fall into all stages of a run."""


class Forking:
    """`multiprocessing` with processes that need no start-up."""

    parent_process = staticmethod(multiprocessing.parent_process)

    @staticmethod
    def get_context(_: str) -> Any:
        return multiprocessing.get_context("fork")


def slow(*arguments: Any) -> Any:
    time.sleep(SLOW)
    return PREPARE(*arguments)


PREPARE = stand_in_work.prepare_text


def run(inputs: Path, out: Path) -> int:
    """Start a run in a process group of its own."""
    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)  # both sides do it, so that the group is there whichever is first
        return pid
    os.setpgid(0, 0)
    code = 1
    try:
        stand_in_work.prepare(inputs, out, workers=2)
        code = 0
    finally:
        os._exit(code)


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(child) for child in path.read_text().split()]
    except OSError:
        return []


def kill(pid: int, whom: str, chance: random.Random) -> bool:
    """Kill the run's first process, one of the others, or all; False where there is none."""
    if whom == "all":
        os.killpg(pid, signal.SIGKILL)
        return True
    found = [pid] if whom == "parent" else children(pid)
    if not found:
        return False
    try:
        os.kill(chance.choice(found), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    inputs, out, kills, chance = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), random.Random(int(sys.argv[4]))
    work.multiprocessing = Forking  # type: ignore[assignment,attr-defined]
    stand_in_work.prepare_text = slow
    seen, longest = Counter[str](), 0.3
    while kills and sum(seen.values()) < kills:
        whom = chance.choice(["parent", "worker", "all"])
        pid = run(inputs, out)
        time.sleep(chance.uniform(0, longest))
        if os.waitpid(pid, os.WNOHANG)[0]:
            longest /= 2
            continue
        seen[whom] += kill(pid, whom, chance)
        if whom == "worker":
            time.sleep(chance.uniform(0, longest))
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(os.waitpid(run(inputs, out), 0)[1])
    print(dict(sorted(seen.items())), code)
    return code


if __name__ == "__main__":
    sys.exit(main())
