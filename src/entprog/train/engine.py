"""The savings that last for a whole run: the reference cache and compiled blocks."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tqdm import tqdm

from entprog.core.blocks import discover_blocks
from entprog.savings.compiled import compiled
from entprog.savings.reference_cache import ReferenceCache
from entprog.train.state import Session

CACHE = "reference-cache"
"""The folder of a run that holds cached references; a run that is finished has none."""


@contextmanager
def engine(session: Session) -> Iterator[None]:
    """Put the configured savings into the session's task; blocks get their own forward back at the end."""
    settings, task, log = session.config.train, session.task, session.log

    def warn(message: str) -> None:
        log.event("warning", {"sign": "engine", "message": message})
        tqdm.write(f"warning: {message}")

    if settings.reference_cache != "off":
        folder = session.run / CACHE if settings.reference_cache == "disk" else None
        task.reference_cache = ReferenceCache(
            task.model, settings.reference_cache, settings.reference_cache_bytes, folder=folder, warn=warn,
            computing=session.fills,
        )  # fmt: skip
    with ExitStack() as stack:
        if settings.compile == "blocks":
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                session.compiled = stack.enter_context(compiled(discover_blocks(task.model)))
            for warning in caught:
                warn(str(warning.message))
        yield


def tell(session: Session) -> None:
    """Events of what the engine has done so far."""
    cache = session.task.reference_cache
    if session.compiled is not None:
        session.log.event("compile", {"graphs": session.compiled.graphs})
    if cache is not None:
        session.log.event("reference_cache", {"hits": cache.hits, "misses": cache.misses, "bytes": cache.size})
