"""The meter under FSDP2: a simulated rank against a real one."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "fsdp_step.py"


def started(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_simulated_rank_peaks_like_a_real_one(tmp_path: Path) -> None:
    processes = [started("real", rank, 2, tmp_path / "meeting") for rank in range(2)] + [started("fake", 0, 2, "-")]
    written = [process.communicate(timeout=540)[0].split() for process in processes]
    real, other, simulated = (int(words[-1]) for words in written)
    assert real == pytest.approx(other, rel=0.03), "both ranks hold as much"
    assert simulated == pytest.approx(real, rel=0.03)
