"""Bad input of prepare, sample, evaluate and studio: exit code 2, one line that names it, and nothing is written."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from entprog.cli.app import main
from entprog.config.load import ConfigError
from entprog.prepare.video import write_video
from entprog.profiling.device import pick_device
from entprog.sample import sample
from untrained_run import untrained_run

EMPTY = "is an empty path; give a file or folder"
WHOLE = "is no whole number"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos/a.mp4, me.png, file, and a finished run with its data."""
    root = tmp_path_factory.mktemp("bad")
    untrained_run(root).parent.joinpath("file").write_text("no video")
    (root / "videos").mkdir()
    write_video(root / "videos" / "a.mp4", np.zeros((4, 64, 64, 3), np.uint8), 12)
    Image.new("RGB", (64, 64)).save(root / "me.png")
    next(root.glob("rendered-*")).rename(root / "data")
    config = root / "run" / "config.toml"
    lines = [f'path = "{root / "data"}"' if "rendered-" in line else line for line in config.read_text().splitlines()]
    config.write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(autouse=True)
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The only line that is said; neither files nor folders changed."""
    before = files(Path())
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(words)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == "" and files(Path()) == before
    (line,) = err.splitlines()
    assert line.startswith("entprog: ")
    return line


PREPARE = {
    "side of a million": ("--sizes 1000000", "sizes: [1000000]; give different multiples of 8 from 16 to 4096"),
    "rate of a billion": ("--fps 1e9", "fps: 1000000000.0; give a number above 0, up to 240"),
    "half a process": ("--workers 1.5", f"--workers: '1.5' {WHOLE}"),
    "half a frame": ("--min-frames 8.5", f"--min-frames: '8.5' {WHOLE}"),
    "no GPU": ("--device cuda", "device = 'cuda': no CUDA device here; choose cpu or auto"),
    "no device": ("--device gpu", "device = 'gpu': choose auto, cpu, cuda or cuda:N"),
    "empty device": ("--device=", "device = '': choose auto, cpu, cuda or cuda:N"),
    "empty metadata": ("--metadata=", f"--metadata: '' {EMPTY}"),
}


@pytest.mark.parametrize("case", PREPARE)
def test_prepare(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = PREPARE[case]
    assert said in refused(capsys, "prepare", "videos", "new", *words.split())


def test_prepare_with_an_empty_path(capsys: pytest.CaptureFixture[str]) -> None:
    """As a variable of the shell that is not set gives it; a path of Python that is empty is the folder itself."""
    assert EMPTY in refused(capsys, "prepare", "videos", "")
    assert EMPTY in refused(capsys, "prepare", "", "new")


SAMPLE = {
    "empty out": ("--out=", f"--out: '' {EMPTY}"),
    "empty reference": ("--reference=", "reference = '': empty; give an image file, or a clip's name"),
    "empty drive": ("--drive=", "drive = '': empty; give a video file, or a clip's name"),
    "half a frame": ("--frames 2.5", f"--frames: '2.5' {WHOLE}"),
    "a seed with a point": ("--seed 1.0", f"--seed: '1.0' {WHOLE}"),
    "resolution": ("--resolution x", "entprog: resolution = 'x': expected a side of 16 to 4096 pixels"),
}


@pytest.mark.parametrize("case", SAMPLE)
def test_sample(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = SAMPLE[case]
    given = {"--reference": "me.png", "--drive": "videos/a.mp4", "--out": "o.mp4"}
    option = words.partition("=")[0]
    usual = [word for name, value in given.items() if name != option for word in (name, value)]
    assert said in refused(capsys, "sample", "run", *usual, *words.split())


def test_all_problems_of_a_call_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        sample("run", reference="", drive="videos/a.mp4", out="o.mp4", fps=0, resolution="x")
    assert [problem.split(" ")[0] for problem in caught.value.problems] == ["reference", "fps", "resolution"]


EVALUATE = {
    "no clips": (
        "--clips 0",
        "evaluate.clips = 0: there is nothing to measure; give how many clips, such as --clips 8",
    ),
    "half a clip": ("--clips 1.5", f"--clips: '1.5' {WHOLE}"),
    "a size that is not stored": (
        "--evaluate.resolution 512",
        "resolution = 512: the data set stores [16]; choose one",
    ),
    "a key of the training": (
        "--train.seed 3",
        "--train.seed: has no effect on an evaluation; give keys of [evaluate]",
    ),
    "data that are gone": ("--data.path gone", "data.path = 'gone': no dataset.json and index.jsonl there"),
}


@pytest.mark.parametrize("case", EVALUATE)
def test_evaluate(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = EVALUATE[case]
    assert said in refused(capsys, "evaluate", "run", *words.split())


def test_evaluate_takes_data_that_were_moved(made: Path) -> None:
    (made / "data").rename(made / "elsewhere")
    try:
        main(["evaluate", "run", "--data.path", "elsewhere", "--frames", "2", "--evaluate.metrics", "l1"])
        assert (made / "run" / "metrics.json").is_file()
    finally:
        (made / "elsewhere").rename(made / "data")


def record(text: str) -> Callable[[], None]:
    return lambda: (Path("run") / "data.json").write_text(text) and None


DAMAGED: dict[str, tuple[Callable[[], object], str]] = {
    "data.json: rate": (record('{"fps": "x"}'), "data.json: fps = 'x': no number above 0; restore the file, or remove"),
    "data.json: hash": (record('{"fingerprint": 3}'), "data.json: fingerprint = 3: no text; restore the file"),
    "data.json: clips": (record('{"by_clip": []}'), "data.json: by_clip = []: no table; restore the file"),
    "dataset.json": (lambda: Path("data/dataset.json").write_text("{"), "dataset.json: can't be read as JSON"),
    "shard cut": (
        lambda: os.truncate("data/shard-00000.safetensors", 100),
        "shard-00000.safetensors is truncated or no safetensors",
    ),
    "shard gone": (lambda: Path("data/shard-00000.safetensors").unlink(), "shard-00000.safetensors is missing; copy"),
}


@pytest.fixture
def kept() -> Iterator[None]:
    """The files of the run's record and of its data, put back afterwards."""
    paths = [path for path in (*Path("data").iterdir(), Path("run/data.json")) if path.is_file()]
    before = {path: path.read_bytes() for path in paths}
    yield
    Path("run/data.json").unlink(missing_ok=True)
    for path, content in before.items():
        path.write_bytes(content)


@pytest.mark.parametrize("case", DAMAGED)
def test_evaluate_on_damaged_files(case: str, kept: None, capsys: pytest.CaptureFixture[str]) -> None:
    damage, said = DAMAGED[case]
    damage()
    before = files(Path())
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "run"])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("entprog: ")]
    assert stopped.value.code == 2 and len(lines) == 1 and said in lines[0] and files(Path()) == before


STUDIO = {
    "half a port": ("--port 1.5", f"--port: '1.5' {WHOLE}"),
    "no number": ("--port x", 'Invalid value for --port: unable to convert "x" into int'),
    "negative": ("--port=-1", "port = -1: give 1 to 65535"),
    "empty runs": ("--runs=", f"--runs: '' {EMPTY}"),
    "a run too much": ("run", "Unused Tokens: ['run']"),
    "unknown": ("--share", "Unknown option: --share"),
}


@pytest.mark.parametrize("case", STUDIO)
def test_studio(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = STUDIO[case]
    assert said in refused(capsys, "studio", *words.split())


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1").index == 1
    with pytest.raises(ValueError, match=r"device = 'cuda:2': CUDA devices here: 2, counted from 0"):
        pick_device("cuda:2")
