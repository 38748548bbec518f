"""One process at a time in a folder, and who it is."""

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["LOCK_FILES", "folder_lock", "holder"]

LOCK_FILES = (".lock", ".lock.json")
"""In the folder while it is in use: the lock, and who holds it."""
POLL = 0.2


@contextmanager
def folder_lock(folder: Path, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of an existing folder; a process that dies sets it free.

    Args:
        wait: called once with a sentence that names the holder if it must be waited for; None: it is not waited for.

    Raises:
        ValueError: the folder is in use, by whom, and `wait` is None.
    """
    path, lock, said = folder / LOCK_FILES[0], FileLock(str(folder / LOCK_FILES[0])), False
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wait is None:
                raise ValueError(f"{folder} is in use by {holder(folder)}; wait for it, or stop it") from None
            if not said:
                wait(f"{folder} is in use by {holder(folder)}; waiting until it is done")
                said = True
            time.sleep(POLL)
            continue
        if path.exists():
            break
        lock.release()  # the holder before removed the file while we opened it
    try:
        about = {
            "host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now().isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
        }  # fmt: skip
        (folder / LOCK_FILES[1]).write_text(json.dumps(about) + "\n", encoding="utf-8")
        yield
    finally:
        for name in reversed(LOCK_FILES):
            (folder / name).unlink(missing_ok=True)
        lock.release()


def holder(folder: Path) -> str:
    """Who holds the lock: host, process, since when, and its command."""
    try:
        about = json.loads((folder / LOCK_FILES[1]).read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['host']} since {about['since']} ({about['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
