"""A run knows its data by content: another folder may hold it, other data are refused."""

import json
import os
import shutil
from pathlib import Path

import pytest

import processes
from entprog.config.load import ConfigWarning
from entprog.config.schema import Config
from entprog.data.fingerprint import changes, clips_of
from entprog.data.shards import Shards
from entprog.evaluate.evaluation import evaluate
from entprog.locks import folder_lock
from entprog.tasks.data_record import read_data_record
from entprog.train.checkpoint import find_checkpoint, load_checkpoint
from entprog.train.run import train
from tiny import render_tiny, tiny_config


def rewrite(data: Path, change: str) -> None:
    """Another index: without a clip, with a clip on the other side, or only elsewhere."""
    lines = [json.loads(line) for line in (data / "index.jsonl").read_text().splitlines()]
    if change == "removed":
        lines = lines[1:]
    elif change == "split":
        lines[0]["split"] = "holdout"
    elif change == "order":
        lines = lines[::-1]
    elif change == "source":
        lines = [{**line, "source": "/elsewhere.mp4", "content": "0" * 64} for line in lines]
    (data / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def config_of(run: Path, data: Path) -> Config:
    phases = {f"phases__{name}__steps": steps for name, steps in (("subject", 2), ("pose", 0), ("video", 0))}
    return tiny_config(run, data, method="full", train__checkpointing_steps=1, evaluate__clips=1, **phases)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and run/."""
    folder = tmp_path_factory.mktemp("record")
    shutil.copytree(render_tiny(folder / "cache"), folder / "data")
    train(config_of(folder / "run", folder / "data"))
    return folder


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` with the run as it was after its first step."""
    shutil.copytree(finished / "data", tmp_path / "data")
    shutil.copytree(finished / "run", tmp_path / "run")
    text = (tmp_path / "run" / "config.toml").read_text().replace(str(finished), str(tmp_path))
    (tmp_path / "run" / "config.toml").write_text(text)
    return tmp_path


def test_the_record_and_where_it_is_kept(finished: Path) -> None:
    record, shards = read_data_record(finished / "run"), Shards(finished / "data")
    assert record is not None and record["fingerprint"] == shards.fingerprint and record["fps"] == 12.0
    assert (record["clips"], record["holdout"], record["path"]) == (10, 4, str(finished / "data"))
    assert load_checkpoint(find_checkpoint(finished / "run", "latest"))["data"] == shards.fingerprint
    metrics = json.loads((finished / "run" / "metrics.json").read_text())
    assert metrics["protocol"]["data"] == shards.fingerprint
    assert read_data_record(finished) is None


def test_resume_in_another_folder_but_not_on_other_data(again: Path) -> None:
    run, resume = again / "run", {"resume_from_checkpoint": "checkpoint-1"}
    (again / "data").rename(again / "moved")
    train(config_of(run, again / "moved"), **resume)
    assert f'path = "{again / "moved"}"' in (run / "config.toml").read_text()
    evaluate(run)
    for change, said in (("removed", r"1 removed \("), ("split", r"1 of another split \("), ("order", "another order")):
        shutil.copytree(again / "moved", again / change)
        rewrite(again / change, change)
        wanted = rf"data.path = .*: not the data that the run began with: .*{said}"
        with pytest.raises(ValueError, match=wanted) as caught:
            train(config_of(run, again / change), **resume)
        assert str(caught.value).count("\n") == 0


def test_evaluation_names_other_data_and_refuses_what_was_trained_on(again: Path) -> None:
    rewrite(again / "data", "removed")
    with pytest.warns(ConfigWarning, match=r"the data changed since the training: 1 removed"):
        evaluate(again / "run")
    rewrite(again / "data", "split")
    with pytest.raises(ValueError, match="1 clips that this run was trained on are held out there now"):
        evaluate(again / "run")


def test_changes_in_words() -> None:
    before = {"a": ["train", 9, "", "0"], "b": ["train", 9, "", "1"], "c": ["holdout", 9, "", "2"]}
    now = {"a": ["holdout", 9, "", "0"], "b": ["train", 9, "x", "3"], "d": ["train", 9, "", "4"]}
    assert changes(before, now) == "1 added (d), 1 removed (c), 1 of another split (a), 1 changed (b)"
    assert changes({}, {f"{i}": ["train"] for i in range(5)}) == "5 added (0, 1, 2 and 2 more)"


def test_a_fingerprint_is_of_what_training_sees(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "data", tmp_path / "data")
    first = Shards(finished / "data")
    assert Shards(tmp_path / "data").fingerprint == first.fingerprint
    found = {first.fingerprint}
    for change in ("removed", "split", "order", "source"):
        rewrite(tmp_path / "data", change)
        found.add(Shards(tmp_path / "data").fingerprint)
    assert len(found) == 5 and len(clips_of(first.rows)) == 10


def test_one_process_trains_in_a_folder(again: Path) -> None:
    config = config_of(again / "run", again / "data")
    with (
        folder_lock(again / "run"),
        pytest.raises(ValueError, match=r"run is in use by process \d+ on .*; wait for it, or stop it"),
    ):
        train(config, resume_from_checkpoint="latest")


def test_several_processes_without_torchrun_are_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'output_dir = "{tmp_path / "run"}"\n')
    done = processes.run(
        ["-m", "entprog", "train", recipe], env={**os.environ, "RANK": "1", "WORLD_SIZE": "2"}, cwd=tmp_path
    )
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    said = "entprog: WORLD_SIZE = 2, but LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set; start it with torchrun"
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
