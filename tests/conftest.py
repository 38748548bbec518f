"""Fixtures that several test files share."""

from pathlib import Path

import pytest
import torch

from tiny import render_tiny

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered data set of ten clips of 8 frames at 16 and 32 pixels; not to be written to."""
    return render_tiny(tmp_path_factory.mktemp("people"))
