"""How long the threads of an operation wait for each other: short, so that a busy machine does not stall."""

import os

__all__ = ["wait_briefly"]

SPINS = "100000"
"""Turns that a thread waits actively for the others before it sleeps (libgomp's unit, about .1 ms)."""


def wait_briefly() -> None:
    """Let the threads of PyTorch's CPU operations sleep while they wait; to be called before torch is imported.

    libgomp spins for as long as several ms by default. Where another program uses one of the cores, each operation then
    takes as long: a demo of one minute took ten (docs/lab.md). What the user set (OMP_WAIT_POLICY, GOMP_SPINCOUNT)
    stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
