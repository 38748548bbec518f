"""`entprog.attach` in two processes: both train the same, and what one process would, under DDP and FSDP2."""

import json
from pathlib import Path
from typing import Any

import pytest

import attach_processes
from processes import two_ranks

HERE = Path(attach_processes.__file__).parent
CASES = (
    "fsdp-gradient-linear", "fsdpkeep-cei-supernet", "fsdpckpt-influence-linear", "fsdp-skip_loss-probe",
    "ddp-gradient-supernet", "ddpwhole-order-linear", "ddp-cei-probe",
    "ddpplain-gradient-linear", "uneven-gradient-linear", "fsdpinputs-gradient-linear",
    "fsdpprefix-gradient-linear", "ddpprefix-order-2", "ddpprefix-order-0",
)  # fmt: skip


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes saw of every case."""
    file = tmp_path_factory.mktemp("gloo") / "meeting"
    script = HERE / "attach_processes.py"
    ended = two_ranks(lambda rank: [script, ",".join(CASES), str(rank), "2", file], timeout=180)
    return [json.loads(each.stdout.splitlines()[-1]) for each in ended]


@pytest.mark.parametrize("case", CASES[:7])
def test_both_train_the_same_blocks_and_only_those(case: str, seen: list[dict[str, Any]]) -> None:
    first, second = (each[case] for each in seen)
    assert first == second
    assert first["wrong"] == []


@pytest.mark.parametrize("case", ["fsdp-gradient-linear", "fsdpkeep-cei-supernet", "ddp-gradient-supernet"])
def test_they_train_what_one_process_would(case: str, seen: list[dict[str, Any]]) -> None:
    alone = attach_processes.main("one" + case[case.index("-") :], 0, 1)
    assert alone["active"] == seen[0][case]["active"]
    assert alone["order"] == seen[0][case]["order"]
    assert alone["weights"] == pytest.approx(seen[0][case]["weights"], rel=1e-6)


def test_gradient_scores_of_shards_are_those_of_one_process(seen: list[dict[str, Any]]) -> None:
    alone = attach_processes.main("one-gradient-linear", 0, 1)
    assert alone["scores"] == pytest.approx(seen[0]["fsdp-gradient-linear"]["scores"], rel=1e-5)


def test_under_ddp_each_process_has_its_own_prefixes(seen: list[dict[str, Any]]) -> None:
    for rank, each in enumerate(seen):
        cached, plain = each["ddpprefix-order-2"], each["ddpprefix-order-0"]
        assert cached["weights"] == plain["weights"] == seen[0]["ddpprefix-order-0"]["weights"]
        assert (cached["run"], plain["run"]) == ((2, 4)[rank], 8)


def test_what_cannot_be_right_is_refused_in_both(seen: list[dict[str, Any]]) -> None:
    for each in seen:
        assert "find_unused_parameters=True" in each["ddpplain-gradient-linear"]
        assert "draws of [[4], [5]] samples" in each["uneven-gradient-linear"]
        assert each["fsdpprefix-gradient-linear"].startswith("prefix_cache = 1: under fully_shard")
        assert each["fsdpinputs-gradient-linear"].startswith("inputs_every = 0")
