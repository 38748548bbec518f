"""Prepare in several processes and ranks: stopped, killed and started again, the data set is the same."""

import os
import signal
import time
from pathlib import Path

import pytest

from processes import Started, started
from stand_in_work import rows, write

TESTS = Path(__file__).parents[1]
SCRIPT = """
import signal, sys, time
from pathlib import Path
import stand_in_work
from entprog.prepare.batch import follow
from entprog.prepare.ranks import Ranks

def slow(*arguments):
    time.sleep(0.05)
    return real(*arguments)

real = stand_in_work.prepare_text
if __name__ == "__main__":
    # a shell that starts the tests in the background has SIGINT ignored, in every process below it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    inputs, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    if Ranks.here().rank:
        stand_in_work.prepare_text = slow
        print(follow(out, stand_in_work.TextWork(stand_in_work.SETTINGS), workers=workers).kept)
    else:
        stand_in_work.prepare_text = slow if workers == 1 else real
        print(stand_in_work.prepare(inputs, out, workers=workers).kept)
"""


def start(folder: Path, out: Path, workers: int, **environment: str) -> Started:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    return started([script, folder / "v", out, str(workers)], env=env)


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except (OSError, IndexError):
            continue
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_lingers(tmp_path: Path, number: int) -> None:
    write(tmp_path / "v", **{f"f{i}": 400 + i for i in range(1000)})
    run = start(tmp_path, tmp_path / "out", 2)
    path = tmp_path / "out" / "prepare.jsonl"
    while run.poll() is None and not (path.is_file() and path.read_text()):
        time.sleep(0.05)
    workers = children(run.pid)
    assert len(workers) >= 2
    run.send_signal(number)
    ended = run.done(30)
    code, text = ended.returncode, ended.stdout + ended.stderr
    assert code != 0 and (number != signal.SIGTERM or "run the same command again" in text)
    time.sleep(2)
    assert not [pid for pid in workers if alive(pid)]


def test_ranks_share_the_files(tmp_path: Path) -> None:
    write(tmp_path / "v", **{f"f{i}": 20 + i for i in range(4)})
    assert start(tmp_path, tmp_path / "whole", 1).wait() == 0
    ranks = [start(tmp_path, tmp_path / "out", 1, RANK=str(rank), WORLD_SIZE="2") for rank in (0, 1)]
    texts = [rank.done(timeout=120).stdout for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0] and [text.split()[-1] for text in texts] == ["4", "2"]
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_rank_that_dies_is_named(tmp_path: Path) -> None:
    write(tmp_path / "v", **{f"f{i}": 20 + i for i in range(400)})
    ranks = [start(tmp_path, tmp_path / "out", 1, RANK=str(rank), WORLD_SIZE="2") for rank in (0, 1)]
    path = tmp_path / "out" / "prepare.jsonl"
    while ranks[0].poll() is None and not (path.is_file() and path.read_text().count("\n") > 20):
        time.sleep(0.05)
    ranks[1].kill()
    text = ranks[0].done(timeout=120).stderr
    assert ranks[0].returncode != 0 and "rank 1 (process" in text and "run the same command again" in text
    assert start(tmp_path, tmp_path / "out", 1).wait() == 0
    assert len(rows(tmp_path / "out")) == 400
