"""What libraries say of themselves when they are imported and called stays off the screen; errors are not touched.

diffusers and transformers speak of packages that are not installed (torchvision) or do not fit (torchao), torch of
deprecations in those. None of it is for somebody who runs a command.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_libraries"]

VERBOSITY = ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY")
"""Environment variables that the libraries read when they are imported."""

LOGGERS = ("diffusers", "transformers", "torchao", "torch.utils._pytree")

MESSAGES = ("Mismatch dtype between input and weight",)
"""How warnings begin that say only how fast an operation of torch is."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Only errors of these libraries are logged within; afterwards all is as before.

    What the user set (DIFFUSERS_VERBOSITY, TRANSFORMERS_VERBOSITY) stays. To be entered within
    `warnings.catch_warnings`.
    """
    chosen = [name for name in VERBOSITY if name not in os.environ]
    os.environ.update(dict.fromkeys(chosen, "error"))
    wanted = {name.split("_")[0].lower() for name in VERBOSITY if name not in chosen}
    loggers = [logging.getLogger(name) for name in LOGGERS if name not in wanted]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        for name in chosen:
            os.environ.pop(name, None)
