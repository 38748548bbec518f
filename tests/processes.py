"""Processes of their own for tests, forked from one that has imported torch and diffusers: a start takes no import.

`started(["-m", "entprog", ...])` stands for `subprocess.Popen([sys.executable, "-m", "entprog", ...])`. What a process
imports by itself, and how fast, is for tests with `subprocess`.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any

IMPORTED = ("torch", "torch._dynamo", "diffusers.models.transformers", "entprog.train.run")
"""What the process that the others are forked from has imported."""


@dataclass(frozen=True)
class Done:
    """What `subprocess.run` returns of a process that has ended."""

    returncode: int
    stdout: str
    stderr: str


class Started:
    """A process that runs; its output is kept in files that have no name."""

    def __init__(self, connection: socket.socket, stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self._connection, self._stdout, self._stderr = connection, stdout, stderr
        self.pid = int.from_bytes(connection.recv(8))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        try:
            return self.wait(0.001)
        except TimeoutError:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once there is one.

        Raises:
            TimeoutError: the process still runs.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            ended = self._connection.recv(64)
            self.returncode = int(ended)
            self._connection.close()
        return self.returncode

    def done(self, timeout: float | None = None) -> Done:
        """Wait for the end; see `wait`."""
        code = self.wait(timeout)
        texts = []
        for file in (self._stdout, self._stderr):
            file.seek(0)
            texts.append(file.read().decode())
        return Done(code, *texts)

    def send_signal(self, number: int) -> None:
        """To the process, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def started(
    arguments: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Started:
    """A process that does what `python ARGUMENTS` would: "-m" and a module, "-c" and code, or a file."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(_server()))
    stdout, stderr = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  # until the end is read
    asked = {
        "arguments": [str(argument) for argument in arguments],
        "env": dict(os.environ if env is None else env),
        "cwd": str(cwd or Path.cwd()),
    }
    socket.send_fds(connection, [b" "], [stdout.fileno(), stderr.fileno()])
    connection.sendall(json.dumps(asked).encode() + b"\n")
    return Started(connection, stdout, stderr)


def run(arguments: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
    """`started` and its end."""
    return started(arguments, env=env, cwd=cwd).done()


def two_ranks(arguments: Callable[[int], Sequence[str | Path]], *, timeout: float) -> list[Done]:
    """What two processes gave that meet by gloo; both ended well. `arguments` are those of each rank."""
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests.parent / "src"), str(tests), str(tests.parent)])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [started(arguments(rank), env=env) for rank in range(2)]
    try:
        ended = [rank.done(timeout=timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [each.returncode for each in ended] == [0, 0], ended
    return ended


@cache
def _server() -> Path:
    """The address of the process that the others are forked from; it ends with the tests."""
    address = Path(tempfile.mkdtemp(prefix="processes-")) / "socket"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, __file__, str(address)], stdin=subprocess.PIPE, env=env)
    atexit.register(process.communicate)  # closes its standard input
    while not address.exists():
        assert process.poll() is None, "the process that the others are forked from has ended"
        time.sleep(0.05)
    return address


def _serve(address: str) -> None:
    """Fork a keeper for each connection, until the standard input is closed."""
    sys.path.pop(0)  # of this file: a process has its own
    paths = list(sys.path)
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # the forked share these pages
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{address}-new")
    listening.listen()
    os.rename(f"{address}-new", address)
    while sys.stdin not in select.select([sys.stdin, listening], [], [])[0]:
        connection, _ = listening.accept()
        if not os.fork():
            listening.close()
            _keep(connection, paths)
        connection.close()
        while _reaped():
            pass
    os.unlink(address)
    os.rmdir(Path(address).parent)


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] > 0
    except ChildProcessError:
        return False


def _keep(connection: socket.socket, paths: list[str]) -> None:
    """Fork the process that is asked for, and say how it ends."""
    _, files, *_ = socket.recv_fds(connection, 1, 2)
    with connection.makefile("r") as lines:
        asked = json.loads(lines.readline())
    pid = os.fork()
    if not pid:
        connection.close()
        _become(asked, files, paths)
    for file in files:
        os.close(file)
    connection.sendall(pid.to_bytes(8))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    connection.sendall(str(code).encode())
    os._exit(0)


def _become(asked: dict[str, Any], files: list[int], paths: list[str]) -> None:
    """Run what is asked for as a fresh interpreter would, and end."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, *files)):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    own = [path for path in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if path and path not in paths]
    code = 0
    try:
        _python(asked["arguments"], own + paths)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # what a program's end does, in its order
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _python(arguments: list[str], paths: list[str]) -> None:
    kind, *rest = arguments
    if kind == "-m":
        sys.argv, sys.path[:] = rest, [os.getcwd(), *paths]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv, sys.path[:] = ["-c", *rest[1:]], ["", *paths]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv, sys.path[:] = arguments, [str(Path(kind).parent), *paths]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1])
