"""The folder that an export writes: whole or not at all, and never over what is not an export."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from entprog.files import write_atomically

__all__ = ["MARK", "check_free", "fresh"]

MARK = "export.json"
"""Says that a folder is an export, and of what."""


def check_free(out: Path) -> None:
    """Refuse a place that holds anything but an earlier export.

    Raises:
        ValueError: there is something.
    """
    if (out / MARK).is_file() or not (out.exists() or out.is_symlink()):
        return
    if not out.is_dir() or any(out.iterdir()):
        raise ValueError(f"out = {str(out)!r}: exists and is no export of entprog; choose another folder")


@contextmanager
def fresh(out: Path, about: dict[str, Any]) -> Iterator[Path]:
    """A new folder that takes the place of `out` at the end; after an error nothing is left of it.

    Args:
        about: what export.json says beside the version.
    """
    check_free(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        write_atomically(partial / MARK, json.dumps({**about, "entprog": version("entprog")}, indent=2) + "\n")
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
