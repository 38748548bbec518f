"""`entprog train` as torchrun starts it: what is refused, in one line of the first process, and what survives."""

import json
import os
import random
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import train_processes
from entprog.data.shards import Shards
from processes import Done, Started, started
from tiny import synthetic_data
from train_processes import rows

HERE = Path(train_processes.__file__).parent
RECIPE = """
task = "toy_vectors:Vectors"
device = "cpu"
method = "progressive"
[schedule]
name = "adaptive"
options = { stages = 2, search_steps = 8 }
[ranking]
samples = 8
[phases.subject]
steps = 0
[phases.pose]
steps = 40
batch = 8
learning_rate = 0.01
[phases.video]
steps = 0
[train]
threads = 1
mixed_precision = "no"
holdout_clips = 4
checkpointing_steps = 3
[evaluate]
clips = 0
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(RECIPE)
    return path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def launched(folder: Path, *arguments: Any, world: int = 2, of_rank: dict[int, tuple[str, ...]] | None = None,
             folders: dict[int, Path] | None = None, **more: str) -> list[Started]:  # fmt: skip
    """The processes that torchrun would start; `of_rank` has arguments of single ones, `folders` where they start."""
    path = os.pathsep.join([str(HERE.parent / "src"), str(HERE), str(HERE.parent)])
    env = {
        **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world), **more,
    }  # fmt: skip
    return [
        started(
            ["-m", "entprog", "train", *map(str, arguments), *(of_rank or {}).get(rank, ())],
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=(folders or {}).get(rank, folder),
        )
        for rank in range(world)
    ]  # fmt: skip


def ended(ranks: list[Started], timeout: float = 120) -> list[Done]:
    try:
        return [rank.done(timeout=timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


def refused(done: list[Done]) -> str:
    """What the first process says; the others end without a word."""
    assert [each.returncode for each in done] == [2] * len(done), done
    assert not any("entprog:" in each.stderr for each in done[1:]), done
    said = [line for line in done[0].stderr.splitlines() if line.startswith("entprog: ")]
    assert len(said) == 1, done[0].stderr
    return said[0]


@pytest.mark.parametrize("extra,of_rank,said", [
    ((), {1: ("--train.seed", "3")}, "entprog: recipe: rank 0 has 'seed = 0', rank 1 has 'seed = 3'"),
    (("--phases.pose.batch", "7"), None, "entprog: phases.pose.batch = 7: can't be divided among 2 processes"),
    (("--phases.pose.batch", "1"), None, "entprog: phases.pose.batch = 1: can't be divided among 2 processes"),
    (("--distributed.shard", "true", "--train.optimizer", "adafactor"), None,
     'entprog: train.optimizer = "adafactor": can\'t step shards; choose "adamw", "adamw8bit" or "muon"'),
    (("--distributed.replicate", "3"), None, "entprog: distributed.replicate = 3: does not divide 2 processes"),
])  # fmt: skip
def test_what_cannot_be_right_is_refused(
    extra: tuple[str, ...], of_rank: Any, said: str, recipe: Path, tmp_path: Path
) -> None:
    done = ended(launched(tmp_path, recipe, "--output-dir", "run", *extra, of_rank=of_rank))
    assert refused(done).startswith(said)
    assert not (tmp_path / "run").exists()


def test_data_sets_that_differ_are_refused(tmp_path: Path) -> None:
    """One folder on each machine, by the same name."""
    machines = {rank: tmp_path / f"machine-{rank}" for rank in range(2)}
    for rank, folder in machines.items():
        synthetic_data(folder / "data", clips=8 + 4 * rank, sizes=(16, 32))
    phase = "steps = 2\nbatch = 2\nresolution = 16"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"output_dir = '{tmp_path / 'run'}'\nmethod = 'full'\ndevice = 'cpu'\n[data]\npath = 'data'\n"
        "[model]\ninit = 'scratch'\n[train]\nmixed_precision = 'no'\nholdout_clips = 4\n[evaluate]\nclips = 0\n"
        f"[phases.subject]\n{phase}\n[phases.pose]\nsteps = 0\n[phases.video]\nsteps = 0\n"
    )
    said = refused(ended(launched(tmp_path, recipe, folders=machines)))
    ours, theirs = (Shards(folder / "data").fingerprint for folder in machines.values())
    assert ours != theirs
    assert said == (
        f"entprog: data.path: rank 0 has {ours!r}, rank 1 has {theirs!r}; the data sets differ; give every process "
        "the same folder"
    )
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_model_and_one_with_a_pickle(recipe: Path, tmp_path: Path) -> None:
    common = (recipe, "--phases.pose.steps", "8", "--schedule.name", "linear",
              "--schedule.options", "{ stages = 2 }")  # fmt: skip
    ours = (*common, "--output-dir", "run")
    first = ended(launched(tmp_path, *ours, "--distributed.shard", "true"))
    assert [each.returncode for each in first] == [0, 0], first
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "run" / "checkpoint-6", other)
    (other / "__0_0.distcp").write_bytes(b"cos\nsystem\n(S'touch poisoned'\ntR.")
    (other / ".metadata").write_bytes(b"cos\nsystem\n(S'touch poisoned'\ntR.")
    for file in other.glob("*.safetensors"):
        file.unlink()
    said = refused(ended(launched(tmp_path, *ours, "--resume-from-checkpoint", "other")))
    assert "truncated or damaged (it has no file of tensors); name an earlier checkpoint" in said
    assert not (tmp_path / "poisoned").exists()
    wide = ("--task-options.width", "16")
    assert ended(launched(tmp_path, *common, *wide, "--output-dir", "wide"))[0].returncode == 0
    said = refused(ended(launched(
        tmp_path, *common, *wide, "--output-dir", "wide", "--resume-from-checkpoint", "run/checkpoint-6"
    )))  # fmt: skip
    assert "another model" in said


def lines(run: Path) -> int:
    path = run / "log.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def until(run: Path, count: int, ranks: list[Started]) -> None:
    """Wait until the run has logged so many steps."""
    since = time.monotonic()
    while lines(run) < count and time.monotonic() - since < 90 and all(rank.poll() is None for rank in ranks):
        time.sleep(0.02)


def test_a_rank_that_dies_ends_the_others_and_a_restart_goes_on(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ranks = launched(tmp_path, recipe, "--output-dir", "run", "--phases.pose.steps", "400")
    until(run, 5, ranks)
    ranks[1].kill()
    since = time.monotonic()
    done = ended(ranks)
    assert time.monotonic() - since < 60
    assert [each.returncode for each in done] == [2, -9]
    assert "entprog: another process of this run has ended or does not answer" in done[0].stderr
    status = json.loads((run / "run.json").read_text())
    assert status["status"] == "failed" and "another process of this run" in status["reason"]
    # torchrun starts the same command again
    again = launched(
        tmp_path, recipe, "--output-dir", "run", "--phases.pose.steps", "400", TORCHELASTIC_RESTART_COUNT="1"
    )
    until(run, 12, again)
    for rank in again:
        rank.send_signal(15)
    assert [each.returncode for each in ended(again)] == [143, 143]
    events = [json.loads(line)["event"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert "resume" in events
    assert [row["step"] for row in rows(run)] == list(range(lines(run)))


@pytest.fixture
def kills(tmp_path: Path) -> Iterator[random.Random]:
    yield random.Random(0)


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["false", "true"])
def test_fifteen_kills_lose_no_run(shard: str, recipe: Path, tmp_path: Path, kills: random.Random) -> None:
    """One process or all, at random moments, saves among them; the losses are those of a run that never stopped."""
    arguments = (recipe, "--distributed.shard", shard, "--phases.pose.steps", "200", "--train.checkpointing_steps", "1")
    whole = ended(launched(tmp_path, *arguments, "--output-dir", "whole"))
    assert [each.returncode for each in whole] == [0, 0], whole
    done, run = 0, tmp_path / "run"
    for attempt in range(60):
        resume = ("--resume-from-checkpoint", "latest") if list(run.glob("checkpoint-*")) else ()
        if run.exists() and not resume:
            shutil.rmtree(run)
        ranks = launched(tmp_path, *arguments, "--output-dir", "run", *resume)
        if done < 15:
            until(run, lines(run) + 1, ranks)
            time.sleep(kills.random() * 0.2)
            hit = [rank for rank in kills.sample(ranks, kills.choice([1, 2])) if rank.poll() is None]
            for rank in hit:
                rank.kill()
            done += bool(hit)
        finished = ended(ranks)
        if all(each.returncode == 0 for each in finished):
            break
        assert attempt < 59
    assert done == 15, "the run was over before it was killed so often"
    found, wanted = ([row["loss"] for row in rows(each)] for each in (run, tmp_path / "whole"))
    assert found == wanted
