"""What tests of the commands with pretrained models share: tiny folders, recipes as text, and damage to folders."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from entprog.cli.app import main
from tiny_pipelines import saved
from tiny_windows import write_windows

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Given:
    """A tiny pipeline and a data set for it."""

    model: Path
    data: Path

    @classmethod
    def make(cls, variant: str, folder: Path, **size: Any) -> "Given":
        model = saved(variant)
        return cls(model, write_windows(folder / f"{variant}-data", model, **size))


def recipe(given: Given, *, model: str = "", phase: str = "", **changes: str) -> str:
    """A recipe of two steps; `model` and `phase` are further lines of these tables, `changes` replace values."""
    values = {
        "task": "pretrained", "pretrained": str(given.model), "path": str(given.data), "frames": "5", "batch": "2",
        "resolution": '"32x32"', "clips": "0", "shown": '"32x32"', "more": "", "rest": "", **changes,
    }  # fmt: skip
    none = "" if "reference" in model else 'reference = "none"'
    return f"""
task = "{values["task"]}"
output_dir = "run"
{values["more"]}
[data]
path = "{values["path"]}"
[model]
pretrained = "{values["pretrained"]}"
{none}
{model}
[ranking]
samples = 2
[schedule]
name = "fixed"
options = {{ m = [0.34] }}
[phases.video]
steps = 2
frames = {values["frames"]}
batch = {values["batch"]}
resolution = {values["resolution"]}
{phase}
[train]
mixed_precision = "no"
holdout_clips = 2
checkpointing_steps = 0
threads = 1
[evaluate]
clips = {values["clips"]}
frames = 5
videos = 1
resolution = {values["shown"]}
[sample]
num_inference_steps = 1
{values["rest"]}
"""


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    """What a command says that must fail as the user's mistake and leave nothing new behind."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    told = capsys.readouterr()
    assert stopped.value.code == 2, told.err
    assert sorted(Path().rglob("*")) == before
    lines = [line for line in re.split(r"[\r\n]+", told.err) if line.strip() and "%|" not in line]  # but our bars
    assert lines and all(line.startswith("entprog: ") for line in lines), told.err
    return [line.removeprefix("entprog: ").removeprefix("r.toml: ") for line in lines]


def trained(capsys: pytest.CaptureFixture[str], text: str, command: str = "train") -> list[str]:
    """`refused` of a recipe."""
    Path("r.toml").write_text(text)
    return refused(capsys, command, "r.toml")


def copied(model: Path) -> Path:
    """A copy to break, "m" in the working folder."""
    shutil.rmtree("m", ignore_errors=True)
    return Path(shutil.copytree(model, "m"))


def edited(file: str, **values: Any) -> Callable[[Path], None]:
    """Sets values of a JSON file in a folder."""

    def edit(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


def written(file: str, text: str) -> Callable[[Path], None]:
    return lambda folder: [None, (folder / file).write_text(text)][0]  # type: ignore[return-value]


def removed(name: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    """Changes the network's tensors."""

    def rewrite(folder: Path) -> None:
        tensors = load_file(str(folder / WEIGHTS))
        change(tensors)
        save_file(tensors, str(folder / WEIGHTS))

    return rewrite
