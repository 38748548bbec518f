"""Fixtures that several test files share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from entprog.nets.dit import SIZES
from slow_cases import SLOW
from tiny import render_tiny

torch.set_num_threads(1)
os.environ.setdefault("ENTPROG_OFFLINE", "1")  # metrics fetch no weights


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered data set of ten clips of 8 frames at 16 and 32 pixels; not to be written to."""
    return render_tiny(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def small_nano() -> Iterator[None]:
    """The size "nano" with six blocks of width 32: whole runs in seconds, checkpoints of 100 kB instead of 30 MB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "nano", {"depth": 6, "width": 32, "heads": 2})
        yield


LONG = (
    "tasks/pretrained/test_every_family", "plan/test_plan_pretrained", "train/test_resume", "plan/test_plan_savings",
    "train/test_train", "benchmarks/test_bench_run", "house/test_golden", "train/test_echo", "demo/test_demo",
)  # fmt: skip
"""Files of tests that take longest. They run first, so that at the end no process waits for one of them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.removeprefix("tests/").startswith(LONG))
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(SLOW):
            item.add_marker(pytest.mark.slow)
