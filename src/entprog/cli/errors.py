"""What `entprog` says when something is wrong: a line for each problem, no traceback."""

import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from cyclopts import CycloptsError

from entprog.cli.quiet import quiet_libraries
from entprog.config.load import ConfigError, ConfigWarning


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors that the user can mend become lines on stderr that begin with "entprog: ", and exit code 2.

    The same for warnings about the configuration, which go on. Libraries report only errors meanwhile. ENTPROG_DEBUG=1
    lets everything through as it is.

    Raises:
        SystemExit: 2 for an error, 130 when interrupted.
    """
    debug = os.environ.get("ENTPROG_DEBUG", "0") not in ("", "0")
    with warnings.catch_warnings(), nullcontext() if debug else quiet_libraries():
        _show_warnings_in_one_line()
        try:
            yield
            sys.stdout.flush()
        except KeyboardInterrupt:
            say(["stopped"])
            raise SystemExit(130) from None
        except BrokenPipeError:
            # The reader of our output (head, less) has gone; Python would complain once more when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise SystemExit(1) from None
        except (CycloptsError, ValueError, OSError, RuntimeError) as error:
            if debug:
                raise
            if not (isinstance(error, ConfigError) and _not_first()):
                say(lines(error))
            raise SystemExit(2) from None


def lines(error: Exception) -> list[str]:
    """What went wrong, one line for each problem."""
    if isinstance(error, ConfigError):
        return error.problems
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        full = "; free some space and run it again" if error.errno == errno.ENOSPC else ""
        return [f"{where}{error.strerror}{full}"]
    return [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


def _not_first() -> bool:
    """Whether torchrun has started this process beside a first one on this machine, which reads the same recipe."""
    local = os.environ.get("LOCAL_RANK", "0")
    return local.isdigit() and int(local) > 0


def say(told: Sequence[str]) -> None:
    """Print lines for the user on stderr."""
    for line in told:
        print(f"entprog: {line}", file=sys.stderr)


def _show_warnings_in_one_line() -> None:
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, ConfigWarning):
            say([f"warning: {message}"] if not _not_first() else [])
        else:
            usual(message, category, *place, **more)

    warnings.showwarning = show
