"""Weights of the networks that metrics use: given by path, found in the cache, or fetched; known by their checksums."""

import hashlib
import http.client
import os
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, serialization

from entprog.files import cache_folder
from entprog.metrics.base import Skipped

__all__ = ["Source", "Weights", "called", "script", "state_dict"]

TIMEOUT = 15.0
"""Seconds without an answer after which a download is given up."""
OFFLINE = ("ENTPROG_OFFLINE", "HF_HUB_OFFLINE")
"""Environment variables that forbid downloads when set to anything but 0."""


@dataclass(frozen=True, slots=True)
class Source:
    """A published file of weights.

    Attributes:
        file: its name in the cache.
        urls: where it is published; the first that answers is used.
        sha256: the checksum, or the first digits of it where no more is published; empty where none is.
    """

    file: str
    urls: tuple[str, ...] = ()
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Weights:
    """A file of weights that was found and checked.

    Attributes:
        sha256: its checksum.
        published: whether that is the checksum of the published file; None where no checksum is published.
    """

    path: Path
    sha256: str
    published: bool | None

    @property
    def said(self) -> str:
        """As the protocol says it."""
        known = {
            True: "the published file",
            False: "NOT the published file: values do not compare with papers",
            None: "no published checksum to compare with",
        }[self.published]
        return f"{self.path.name}, sha256 {self.sha256} ({known})"

    @classmethod
    def find(cls, metric: str, source: Source | None, given: Path | None, sha256: str) -> "Weights":
        """The file that the options name, else that of the cache, else a new download.

        Args:
            metric: name of the metric, for messages.
            source: the published file; None where there is none.
            given: option `weights`.
            sha256: option `hash`: the file must have it.

        Raises:
            Skipped: no file, or another checksum than it must have.
        """
        option = f"evaluate.metric_options.{metric}"
        if given is None and source is None:
            raise Skipped(f"no network is given; set {option}.weights to a file")
        path = given
        if path is None:
            assert source is not None
            path = cache_folder() / "metrics" / source.file
            if not path.is_file():
                _fetch(source, path, f"{option}.weights")
        elif not path.is_file():
            raise Skipped(f"{option}.weights = {str(path)!r}: no such file")
        try:
            found = _digest(path, path.stat().st_mtime_ns, path.stat().st_size)
        except OSError as error:
            raise Skipped(f"{path}: cannot be read ({error.strerror})") from error
        known = source.sha256 if source is not None else ""
        if sha256 and not found.startswith(sha256.lower()):
            raise Skipped(f"{path}: sha256 is {found}, but {option}.hash = {sha256!r}; give the right file or hash")
        if given is None and known and not found.startswith(known):
            raise Skipped(f"{path}: sha256 is {found}, that of the published file is {known}; delete it and try again")
        return cls(path, found, found.startswith(known) if known else None)


def _fetch(source: Source, path: Path, option: str) -> None:
    """Download to the cache.

    Raises:
        Skipped: not possible, or something else came.
    """
    advice = f"download {source.file} ({source.urls[0] if source.urls else 'see docs/metrics.md'}) and set {option}"
    if not source.urls:
        raise Skipped(f"no weights: {path} does not exist; {advice}")
    if name := next((name for name in OFFLINE if os.environ.get(name, "0") not in ("", "0")), ""):
        raise Skipped(f"no weights: {path} does not exist, and {name} forbids downloads; {advice}")
    reasons = []
    for url in source.urls:
        try:
            _download(url, path, source.sha256)
        except (OSError, http.client.HTTPException, Skipped) as error:
            reasons.append(f"{url.split('/')[2]}: {str(error) or type(error).__name__}")
        else:
            return
    raise Skipped(f"no weights: {path} does not exist, and no download worked ({'; '.join(reasons)}); {advice}")


def _download(url: str, path: Path, sha256: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, partial.open("wb") as stream:
            while part := answer.read(2**20):
                stream.write(part)
                digest.update(part)
        if sha256 and not digest.hexdigest().startswith(sha256):
            raise Skipped(f"sent a file with sha256 {digest.hexdigest()} instead of {sha256}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@lru_cache(maxsize=32)
def _digest(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=4)
def _script(path: Path, sha256: str, device: torch.device) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the published files are TorchScript
        return torch.jit.load(str(path), map_location=device).eval()


def script(weights: Weights, device: torch.device) -> Any:
    """A TorchScript network.

    Raises:
        Skipped: the file is no TorchScript.
    """
    try:
        return _script(weights.path, weights.sha256, device)
    except (RuntimeError, ValueError) as error:
        raise Skipped(f"{weights.path}: no TorchScript file ({_line(error)})") from error


def state_dict(weights: Weights) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint of PyTorch, by name; only tensors and plain values are unpickled.

    Where the checkpoint holds them under "state_dict", those; a leading "module." is removed.

    Raises:
        Skipped: no such file.
    """
    try:
        found: Any = torch.hub.load_state_dict_from_url(
            weights.path.name, str(weights.path.parent), map_location="cpu", file_name=weights.path.name,
            weights_only=True,
        )  # fmt: skip
    except (serialization.pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise Skipped(f"{weights.path}: no file of weights ({_line(error)})") from error
    found = found.get("state_dict", found) if isinstance(found, Mapping) else {}
    tensors = {str(k).removeprefix("module."): v for k, v in found.items() if isinstance(v, Tensor)}
    if not tensors:
        raise Skipped(f"{weights.path}: holds no tensors by name")
    return tensors


@contextmanager
def called(weights: Weights, convention: str) -> Iterator[None]:
    """Turn the failure of a network's call into a reason.

    Raises:
        Skipped: the call in the block failed.
    """
    try:
        yield
    except (RuntimeError, TypeError, AttributeError) as error:
        raise Skipped(f"{weights.path}: cannot be called as {convention} ({_line(error)})") from error


def _line(error: BaseException) -> str:
    """The last line of a message: TorchScript puts the cause there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
