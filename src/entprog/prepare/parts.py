"""Clips on disk until they are in the shards, and what a full disk leads to."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from entprog.prepare.atomic import atomic_path

__all__ = ["FULL", "NotWritten", "full_disk_reported", "keep_clip", "part_path"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NotWritten(OSError):
    """The data set's folder cannot be written: not the fault of the input file at hand."""


def keep_clip(parts: Path, name: str, tensors: Mapping[str, Tensor], number: int | None = None) -> None:
    """Write a clip's tensors, or further frames of it, to parts/.

    Args:
        number: of the clip's file, from 0 on; None: the next that is not there.
    """
    if number is None:
        number = 0
        while part_path(parts, name, number).is_file():
            number += 1
    try:
        with full_disk_reported(parts.parent), atomic_path(part_path(parts, name, number)) as partial:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(partial))
    except OSError as error:
        raise NotWritten(error.errno, error.strerror, error.filename) from error


def part_path(parts: Path, name: str, number: int) -> Path:
    """The file of a clip in parts/ with this number."""
    return parts / (f"{name}.safetensors" + (f".{number}" if number else ""))


@contextmanager
def full_disk_reported(out: Path) -> Iterator[None]:
    """Turn a full disk into an OSError with a remedy; finished files are kept."""
    try:
        yield
    except SafetensorError as error:
        code = next((code for code in FULL if f"(os error {code})" in str(error)), None)
        if code is None:
            raise
        raise _full(code, out) from error
    except OSError as error:
        if error.errno not in FULL or "no space left to write the data set" in str(error):
            raise
        raise _full(error.errno, out) from error


def _full(code: int, out: Path) -> OSError:
    remedy = "files done so far are kept: free some space and run the same command again"
    return OSError(code, f"no space left to write the data set ({os.strerror(code)}); {remedy}", str(out))
