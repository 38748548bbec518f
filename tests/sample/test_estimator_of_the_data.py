"""The estimator that reads photo and drive: that of the run's data, or another that is said or refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fake_rtmlib
from entprog.cli.app import main
from entprog.poses.dwpose import WholeBody
from entprog.poses.loading import pose_settings
from entprog.poses.openpose_json import Sidecars
from entprog.sample import estimator
from entprog.sample.estimator import estimator_for
from entprog.tasks.data_record import read_data_record, write_data_record

PACKAGED = object()


@pytest.fixture(autouse=True)
def packaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimator, "default_estimator", lambda: PACKAGED)


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Files of dwpose, as options of the command line have them."""
    fake_rtmlib.install(monkeypatch)
    detector = fake_rtmlib.save(tmp_path, "detector.onnx", fake_rtmlib.DETECTOR)
    pose_model = fake_rtmlib.save(tmp_path, "pose_model.onnx", fake_rtmlib.POSE_MODEL)
    return {"detector": str(detector), "pose_model": str(pose_model)}


def run_on(tmp_path: Path, settings: Mapping[str, Any] | None, kept: bool = False) -> Path:
    """A run whose data were prepared with `settings`, which the run's own record has, too, if `kept`."""
    run, data = tmp_path / "run", tmp_path / "data"
    run.mkdir()
    data.mkdir()
    if settings is not None:
        (data / "prepare.json").write_text(json.dumps(settings))
    record = {"path": str(data), "fps": 12.0}
    write_data_record(run, SimpleNamespace(data_record=lambda: record))  # type: ignore[arg-type]
    if kept:
        (data / "prepare.json").unlink(missing_ok=True)
    elif settings is not None:
        (run / "data.json").write_text(json.dumps(record))
    return run


@pytest.mark.parametrize("settings", [None, {"fps": 12.0}, pose_settings()])
def test_nothing_is_said_of_the_packaged_one(settings: Any, tmp_path: Path) -> None:
    assert estimator_for(run_on(tmp_path, settings)) == (PACKAGED, "")
    assert estimator_for(tmp_path / "no run") == (PACKAGED, "")


@pytest.mark.parametrize("kept", [False, True])
def test_that_of_the_data_is_opened_again(kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the run's own record, too, once the data set is gone; a run of an earlier version has none."""
    opened = []
    monkeypatch.setattr(estimator, "open_estimator", lambda *given: opened.append(given) or PACKAGED)
    run = run_on(tmp_path, {"pose": "my.poses:Mine", "pose_options": {"size": 3}}, kept)
    assert ("pose" in (read_data_record(run) or {})) == kept
    assert estimator_for(run) == (PACKAGED, "poses by my.poses:Mine, as in the run's data")
    assert opened == [("my.poses:Mine", {"size": 3})]


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("pose", "options", "why"),
    [
        ("openpose_json", {"folder": None, "size": "", "threshold": None}, "it reads no pictures"),
        ("gone.module:Gone", {}, "pose 'gone.module:Gone'"),
        (
            "dwpose",
            {"detector": "sha256:12", "pose_model": "sha256:34", "download": False, "threshold": 0.3},
            "give its files with --pose-options detector=FILE pose_model=FILE",
        ),
    ],
)
def test_another_than_that_of_the_data_is_said(
    pose: str, options: dict[str, Any], why: str, kept: bool, tmp_path: Path
) -> None:
    found, said = estimator_for(run_on(tmp_path, {"pose": pose, "pose_options": options}, kept))
    assert found is PACKAGED and said.startswith(f"poses by blazepose, not by {pose} as in the run's data: {why}")


def test_its_files_can_be_given(tmp_path: Path, networks: dict[str, str]) -> None:
    run = run_on(tmp_path, pose_settings("dwpose", {"threshold": 0.4, **networks}))
    found, said = estimator_for(run, None, networks)
    assert isinstance(found, WholeBody) and found.threshold == 0.4
    assert said == "poses by dwpose, as in the run's data"
    Path(networks["detector"]).write_text(json.dumps(fake_rtmlib.DETECTOR | {"another": 1}))
    _, said = estimator_for(run, "dwpose", networks | {"threshold": 0.5})
    assert said == "poses by dwpose with another detector, threshold than the run's data"


def test_another_one_can_be_chosen(tmp_path: Path, networks: dict[str, str]) -> None:
    run = run_on(tmp_path, pose_settings())
    found, said = estimator_for(run, "dwpose", networks)
    assert isinstance(found, WholeBody) and said == "poses by dwpose, not by blazepose as in the run's data"
    found, said = estimator_for(tmp_path / "earlier", "openpose-json", {})
    assert isinstance(found, Sidecars) and said == "poses by openpose-json"
    with pytest.raises(ValueError, match="poses of videos only; use blazepose or dwpose for pictures"):
        found.single(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pose", "openpos"], "no pose 'openpos'; did you mean 'openpose_json'?"),
        (["--pose", "dwpose", "--pose-options", "detector=gone.onnx"], "detector = 'gone.onnx': no such file"),
        (["--pose-options", "folder=x"], "pose 'blazepose' has no option 'folder'"),
        (["--pose-options", "size"], "--pose-options 'size': expected KEY=VALUE"),
    ],
)
def test_wrong_ones_are_refused_in_a_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], networks: dict[str, str]
) -> None:
    run = run_on(tmp_path, pose_settings())
    given = ["--reference", "clip", "--drive", "clip", "--out", str(tmp_path / "out.mp4"), *words]
    with pytest.raises(SystemExit) as stopped:
        main(["sample", str(run), *given])
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.startswith("entprog: ") and said in line
    assert not (tmp_path / "out.mp4").exists()
