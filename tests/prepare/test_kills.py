"""A prepare that was killed: the next run ends with the bytes of one that was not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from entprog.prepare import work as work_module
from entprog.prepare.batch import prepare_files
from entprog.prepare.inputs import list_inputs
from entprog.prepare.parts import keep_clip
from entprog.prepare.store import Store
from kill_host import Forking
from stand_in_work import SETTINGS, TextWork, prepare, rows, write

TESTS = Path(__file__).parents[1]


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def begun(folder: Path, out: Path) -> Store:
    """A run that was killed before the data set was finished."""
    store = Store(out, SETTINGS)
    prepare_files(store, list_inputs([folder]), TextWork(SETTINGS), workers=1, progress=False)
    return store


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_twenty_kills_of_a_parallel_run(tmp_path: Path, seed: int) -> None:
    """Of its first process, one that prepares files, or all: while files are prepared and while it finishes."""
    write(tmp_path / "v", **{f"f{i:02d}": 20 + i for i in range(30)})
    prepare(tmp_path / "v", tmp_path / "whole")
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [TESTS / "kill_host.py", tmp_path / "v", tmp_path / "out", 20, seed]
    run = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_a_file_whose_process_is_killed_once_is_prepared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "multiprocessing", Forking)
    write(tmp_path / "v", a=20, b=24, c=60)
    for name in "bc":
        path = tmp_path / "v" / f"{name}.mp4"
        path.write_text(f"once {path.read_text()}")
    assert prepare(tmp_path / "v", tmp_path / "killed", workers=2).dropped == 0
    prepare(tmp_path / "v", tmp_path / "whole")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_frames_of_a_process_that_outlives_its_run_are_not_added(tmp_path: Path) -> None:
    write(tmp_path / "v", a=60, b=24)
    prepare(tmp_path / "v", tmp_path / "whole")
    store = Store(tmp_path / "out", SETTINGS)
    stale = {"latents_16": torch.zeros(25, 16, 4, 4).half(), "pose": torch.zeros(25, 18, 3)}
    for _ in range(2):  # after the new run has cleaned the folder
        keep_clip(store.parts, "a", stale)
    prepare_files(store, list_inputs([tmp_path / "v"]), TextWork(SETTINGS), workers=1, progress=False)
    store.finish({key: SETTINGS[key] for key in ("codec", "codec_hash")}, SETTINGS["holdout"])
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_a_kill_while_a_finished_data_set_is_brought_up_to_date(tmp_path: Path) -> None:
    write(tmp_path / "v", a=20, b=24)
    (tmp_path / "v" / "c.mp4").write_text("raise ValueError")
    for name in ("out", "whole"):
        prepare(tmp_path / "v", tmp_path / name)
    write(tmp_path / "v", a=50, c=30)
    prepare(tmp_path / "v", tmp_path / "whole")
    begun(tmp_path / "v", tmp_path / "out")
    assert len(rows(tmp_path / "out")) == 5
    prepare(tmp_path / "v", tmp_path / "out")
    assert [row["name"] for row in rows(tmp_path / "out")] == ["a", "b", "c"]
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
