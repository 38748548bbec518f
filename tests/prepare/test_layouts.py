"""Layouts of public data sets: small folders of their shape, and what is published as test set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from entprog.cli import app as cli
from entprog.prepare import folder as folder_module
from entprog.prepare.content import read_content
from entprog.prepare.folder import prepare_folder
from entprog.prepare.layouts import LAYOUTS, find_layout
from entprog.prepare.matching import dropped_row


def tiktok(root: Path, numbers: tuple[int, ...] = (1, 2, 10, 334, 335, 340)) -> Path:
    """Numbered folders with images/, masks/ and densepose/ of two tiny frames."""
    for number in numbers:
        for part in ("images", "masks", "densepose"):
            folder = root / f"{number:05d}" / part
            folder.mkdir(parents=True)
            for frame in (1, 2):
                Image.fromarray(np.full((8, 6, 3), number % 256, np.uint8)).save(folder / f"{frame:04d}.png")
    return root


def fashion(root: Path) -> Path:
    for part, names in (("train", ("91+20mY7UJS.mp4", "b.mp4", "notes.txt")), ("test", ("A1F1j+kNaDS.mp4",))):
        (root / part).mkdir(parents=True)
        for name in names:
            (root / part / name).write_bytes(b"")
    return root


@pytest.mark.parametrize("above", ["", "TikTok_dataset", "TikTok_dataset/TikTok_dataset"])
def test_tiktok_is_numbered_folders_and_335_to_340_are_the_test_set(tmp_path: Path, above: str) -> None:
    root = tiktok(tmp_path / above)
    (root / "00400").mkdir()
    (root / "readme.txt").write_text("")
    (root / ".hidden").write_text("")
    found = find_layout("tiktok", [tmp_path])
    assert [(entry.name, entry.split) for entry in found.entries] == [
        ("00001", "train"), ("00002", "train"), ("00010", "train"), ("00334", "train"),
        ("00335", "holdout"), ("00340", "holdout"),
    ]  # fmt: skip
    assert found.entries[0].path == root / "00001" / "images"
    assert found.left_out == {"numbered folder without images": 1, "entry that is no numbered folder": 1}
    assert found.lines[0] == "6 videos, 2 of the published test set, held out"
    assert find_layout("tiktok", [tmp_path, root]).entries == found.entries, "each video once"


def test_a_part_of_tiktok_without_its_test_set_says_so(tmp_path: Path) -> None:
    found = find_layout("tiktok", [tiktok(tmp_path, (3, 4))])
    assert found.lines == ["2 videos, none of the published test set: nothing is held out"]


@pytest.mark.parametrize("above", ["", "ubc_fashion"])
def test_ubc_fashion_is_train_and_test(tmp_path: Path, above: str) -> None:
    root = fashion(tmp_path / above)
    (root / "extra").mkdir()
    found = find_layout("ubc-fashion", [tmp_path])
    assert [(entry.path.relative_to(root).as_posix(), entry.split) for entry in found.entries] == [
        ("train/91+20mY7UJS.mp4", "train"), ("train/b.mp4", "train"), ("test/A1F1j+kNaDS.mp4", "holdout"),
    ]  # fmt: skip
    assert found.left_out == {"entry beside train and test": 1, "entry of train or test that is no video": 1}


def test_inputs_of_another_layout_are_refused_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "00001").mkdir(parents=True)
    (tmp_path / "c.mp4").write_bytes(b"")
    inputs = [tmp_path / name for name in ("a", "b", "c.mp4")]
    for layout in LAYOUTS[1:]:
        with pytest.raises(ValueError, match="is not laid out as") as error:
            find_layout(layout, inputs)
        assert len(str(error.value).splitlines()) == 3 and "give the folder" in str(error.value)
    with pytest.raises(ValueError, match="layout: 'tictoc'; give one of folder, tiktok, ubc-fashion"):
        find_layout("tictoc", inputs)


def test_a_data_set_has_the_names_and_the_split_of_its_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of pictures are videos; whatever the hash of a name says, the published split is kept."""
    root, out = tiktok(tmp_path / "in"), tmp_path / "out"

    def prepared(file, name, settings, estimator, encode, keep=None):
        assert file.is_dir() and file.name == "images"
        tensors = {"pose": torch.zeros(2, 18, 3), "latents_16": torch.zeros(2, 16, 4, 4, dtype=torch.float16)}
        row = dropped_row(read_content(file, {}), name, "", settings)
        keep(name, tensors)
        return row | {"status": "kept", "reason": None, "clips": [name]}, {}

    monkeypatch.setattr(folder_module, "prepare_file", prepared)
    monkeypatch.setattr(folder_module, "open_estimator", lambda *given: None)
    prepare_folder([root], out, sizes=[16], min_frames=2, layout="tiktok", progress=False)
    rows = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    train = dict.fromkeys(("00001", "00002", "00010", "00334"), "train")
    assert {row["clip"]: row["split"] for row in rows} == train | {"00335": "holdout", "00340": "holdout"}
    assert json.loads((out / "prepare.json").read_text())["layout"] == "tiktok"
    again = prepare_folder([root], out, sizes=[16], min_frames=2, layout="tiktok", progress=False)
    assert again.skipped == 6 and again.clips == 6
    with pytest.raises(ValueError, match=r"no video in .*36 x no video \(.png\)"):
        prepare_folder([root], out, sizes=[16], min_frames=2, progress=False)


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["prepare", str(fashion(tmp_path / "in")), str(tmp_path / "out"), "--layout", "ubc-fashion"])
    output = capsys.readouterr()
    assert left.value.code == 2, "the files are empty"
    assert "3 videos, 1 of the published test set, held out" in output.out
    assert "none of 3 files can be used" in output.err and "Traceback" not in output.err
