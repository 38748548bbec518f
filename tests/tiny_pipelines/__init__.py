"""Tiny random pipelines in diffusers' layout, saved to disk: one file a family, with a dict PIPELINES of its variants.

A variant is a function that saves a whole pipeline folder (model_index.json, the network, scheduler, VAE, and text
encoder with tokenizer where they are small to make) into an empty folder, seeded, in float32. `saved` makes each once
per test session.
"""

import importlib
import pkgutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path


@cache
def pipelines() -> dict[str, Callable[[Path], None]]:
    """Every variant by its name, such as "wan-2.2-i2v"."""
    found: dict[str, Callable[[Path], None]] = {}
    for module in pkgutil.iter_modules(__path__):
        found |= importlib.import_module(f"{__name__}.{module.name}").PIPELINES
    return found


@cache
def _root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tiny-pipelines-")


@cache
def saved(name: str) -> Path:
    """The folder of a variant; read it only, or copy it first."""
    folder = Path(_root().name) / name
    folder.mkdir()
    pipelines()[name](folder)
    return folder
