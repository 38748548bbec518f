"""The savings that last for a whole run: the reference cache and compiled blocks."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from entprog.core.blocks import discover_blocks
from entprog.core.processes import own_folder
from entprog.savings.compiled import compiled
from entprog.tasks.base import CacheOptions
from entprog.train.say import say
from entprog.train.state import Session

CACHE = "reference-cache"
"""The folder of a run that holds cached references, by process; a finished run has none."""


@contextmanager
def engine(session: Session) -> Iterator[None]:
    """Add the configured savings to the run's task; blocks get their own forward back at the end."""
    settings, task, log = session.config.train, session.task, session.log

    def warn(message: str) -> None:
        log.event("warning", {"sign": "engine", "message": message})
        say(f"warning: {message}")

    task.open_cache(CacheOptions(settings, own_folder(session.run / CACHE), warn, session.fills))
    with ExitStack() as stack:
        if settings.compile == "blocks":
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                session.compiled = stack.enter_context(compiled(discover_blocks(task.model)))
            for warning in caught:
                warn(str(warning.message))
        yield


def log_savings(session: Session) -> None:
    """Events of what the savings have done so far."""
    counts = session.task.cache_counts()
    if session.compiled is not None:
        session.log.event("compile", {"graphs": session.compiled.graphs})
    if counts is not None:
        session.log.event("reference_cache", counts)
