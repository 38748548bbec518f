"""`entprog train` in several gloo processes: what one process would train, at any stage, and from any checkpoint."""

import json
import os
import shutil
from pathlib import Path

import pytest

import train_processes
from processes import Done, started
from train_processes import rows

HERE = Path(train_processes.__file__).parent
ONE = ("full", "supernet", "probe", "linear", "lora", "mixed", "muon", "bits", "budget")
TWO = ("supernet", "lora", "supernet+shard", "probe+shard", "linear+shard", "mixed+shard", "muon+shard", "bits+shard",
       "budget")  # fmt: skip
MORE = (*ONE, *(f"{name}+shard" for name in ONE if name != "budget"))


def train(folder: Path, world: int, cases: tuple[str, ...], *, timeout: float = 300) -> list[Done]:
    """Run the cases in `world` processes; each must end well."""
    folder.mkdir(exist_ok=True)
    path = os.pathsep.join([str(HERE.parent / "src"), str(HERE), str(HERE.parent)])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    script = HERE / "train_processes.py"
    ranks = [started([script, str(rank), str(world), folder, *cases], env=env) for rank in range(world)]
    try:
        ended = [rank.done(timeout=timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [each.returncode for each in ended] == [0] * world, ended
    return ended


def same_training(run: Path, alone: Path) -> None:
    """Losses, blocks and choices of two runs are equal; readings within 1e-6.

    With 8-bit states within 1e-5: where a gradient is rounded otherwise, the code of a moment may be another one.
    """
    loose = 10 if alone.name == "bits" else 1
    ours, theirs = rows(run), rows(alone)
    assert [row["active"] for row in ours] == [row["active"] for row in theirs]
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], abs=loose * 1e-6)
    assert [row["grad_norm"] for row in ours] == pytest.approx([row["grad_norm"] for row in theirs], rel=loose * 1e-5)
    totals, wanted = (json.loads((each / "totals.json").read_text()) for each in (run, alone))
    assert totals["holdout_loss"] == pytest.approx(wanted["holdout_loss"], abs=loose * 1e-6)
    assert totals["flops_search"] == wanted["flops_search"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case in one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder, 1, ONE)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cases of two processes."""
    folder = tmp_path_factory.mktemp("two")
    said = train(folder, 2, TWO)
    assert "Steps" in said[0].stderr and "Steps" not in said[1].stderr, "one bar"
    return folder


@pytest.mark.parametrize("case", TWO)
def test_two_processes_train_what_one_would(case: str, two: Path, alone: Path) -> None:
    same_training(two / case, alone / case.split("+")[0])


def test_shards_take_less_memory(two: Path, alone: Path) -> None:
    whole, shards = (rows(each)[-1]["bytes_peak"] for each in (alone / "supernet", two / "supernet+shard"))
    assert shards < 0.75 * whole


def test_a_memory_budget_is_that_of_one_process(two: Path, alone: Path) -> None:
    """It is fitted to the process's share of a batch, and a step takes no more."""
    simulated = {}
    for run in (two / "budget", alone / "budget"):
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        (event,) = (row for row in events if row["event"] == "fit")
        simulated[run] = event["bytes_peak"] - event["bytes_reserved"]
        assert rows(run)[0]["bytes_peak"] <= event["bytes_peak"]
    assert simulated[two / "budget"] < simulated[alone / "budget"]


def test_ranking_is_shared(two: Path, alone: Path) -> None:
    """Its values are those of one process."""
    for case in ("supernet", "supernet+shard"):
        ours, theirs = (
            json.loads(next(run.glob("*/scores.json")).read_text()) for run in (two / case, alone / "supernet")
        )
        assert ours["values"] == pytest.approx(theirs["values"], abs=1e-6) and ours["order"] == theirs["order"]
        assert ours["samples"] == theirs["samples"]


def test_a_sharded_run_goes_on_in_one_process(two: Path, alone: Path, tmp_path: Path) -> None:
    """Its checkpoints are safetensors, a file a process."""
    cases = ("supernet+shard", "probe+shard", "mixed+shard", "bits+shard")
    for case in cases:
        shutil.copytree(two / case, tmp_path / case)
    names = sorted(path.name for path in (tmp_path / cases[0] / "checkpoint-5").iterdir())
    assert [name.split("-")[0] for name in names] == ["complete", "shard", "shard", "state.json"]
    train(tmp_path, 1, tuple(f"{case}+resume" for case in cases))
    for case in cases:
        same_training(tmp_path / case, alone / case.split("+")[0])


@pytest.mark.slow
def test_four_processes_and_every_method(alone: Path, tmp_path: Path) -> None:
    train(tmp_path, 4, MORE)
    for case in MORE:
        same_training(tmp_path / case, alone / case.split("+")[0])


@pytest.mark.slow
@pytest.mark.parametrize("before,after", [(1, 2), (2, 4), (4, 2)])
def test_any_number_of_processes_goes_on(before: int, after: int, alone: Path, tmp_path: Path) -> None:
    cases = ("supernet+shard", "probe+shard", "mixed+shard", "lora+shard", "muon+shard", "bits+shard")
    train(tmp_path / "run", before, cases)
    for meeting in (tmp_path / "run").glob("*.meeting"):
        meeting.unlink()
    train(tmp_path / "run", after, tuple(f"{case}+resume" for case in cases))
    for case in cases:
        same_training(tmp_path / "run" / case, alone / case.split("+")[0])
