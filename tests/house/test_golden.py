"""Ten steps of each method against recorded numbers: bit for bit on the machine that recorded them, else closely."""

import json
from pathlib import Path

import pytest

from write_golden import GOLDEN, KINDS, machine, measure


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_on_record(kind: str, tmp_path: Path) -> None:
    """If a change is meant to move them: python tests/write_golden.py, and a line in CHANGELOG under Numerics."""
    recorded = json.loads((GOLDEN / f"{kind}.json").read_text(encoding="utf-8"))
    found = measure(kind, tmp_path)
    exact = recorded.pop("machine") == machine()
    assert found["m"] == recorded["m"]
    if exact:
        assert found == recorded
    assert found["flops"] == recorded["flops"]
    assert found["loss"] == pytest.approx(recorded["loss"], abs=1e-4)
    assert found["grad_norm"] == pytest.approx(recorded["grad_norm"], rel=1e-2)
    assert found["holdout_loss"] == pytest.approx(recorded["holdout_loss"], abs=1e-4)
