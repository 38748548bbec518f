"""Several processes share the draws of a score: each runs the network for some of them, and all get one's values."""

import json
from pathlib import Path
from typing import Any

import pytest

import scores_processes
from processes import two_ranks
from scores_processes import CASES

HERE = Path(scores_processes.__file__).parent
PASSES = 5
"""Of a score that skips each of four blocks."""

RAN = {
    "cei": (5 * PASSES, 3 * PASSES),
    "cei of one draw": (PASSES, PASSES),  # of half the samples
    "cei, stable": (4 * PASSES, 2 * PASSES),
    "conditions": (8 * PASSES, 4 * PASSES),
    "conditions of unequal draws": (7 * PASSES, 7 * PASSES),
    "skip_loss": (4 * PASSES, 2 * PASSES),
    "influence": (3, 2),
    "gradient": (4, 2),
    "snr": (2, 2),
    "reverse": (2 * PASSES, PASSES),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    file = tmp_path_factory.mktemp("scores") / "meeting"
    ended = two_ranks(lambda rank: [HERE / "scores_processes.py", str(rank), "2", file], timeout=300)
    return [json.loads(each.stdout) for each in ended]


@pytest.mark.parametrize("kind", ["whole", "sharded"])
@pytest.mark.parametrize("case", list(CASES))
def test_shared_scores_are_those_of_one_process(case: str, kind: str, found: list[dict[str, Any]]) -> None:
    if (case, kind) == ("snr", "sharded"):
        pytest.skip("refused")
    first, second = (each[f"{case}, {kind}"] for each in found)
    assert first["shared"] == second["shared"], "the same bits in both"
    if case == "cei of one draw" or (case, kind) == ("gradient", "sharded"):  # in two batches
        assert first["shared"] == pytest.approx(first["alone"], abs=1e-6)
    else:
        assert first["shared"] == first["alone"] and first["errors"][0] == first["errors"][1]
    assert first["samples"][0] == first["samples"][1] == second["samples"][1]
    ran = RAN[case]
    if (case, kind) == ("gradient", "sharded"):
        ran = (4, 4)  # of half the samples: gradients of shards are means over processes
    assert tuple(first["ran"]) == tuple(second["ran"]) == ran
