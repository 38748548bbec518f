"""Independent random streams, each named by words and seeds."""

import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Choice = TypeVar("Choice")


def random_stream(*words: str | int) -> np.random.Generator:
    """Returns the generator that belongs to these words: equal words give equal numbers, on every machine.

    A quantity drawn from a separate stream does not change when another one is added, and a longer draw from
    it begins with the shorter one.
    """
    return np.random.default_rng([zlib.crc32(word.encode()) if isinstance(word, str) else word for word in words])


def choose(rng: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    """Draws one of the choices evenly, keeping its Python type."""
    return choices[int(rng.integers(len(choices)))]
