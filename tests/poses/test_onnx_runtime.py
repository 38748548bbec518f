"""BlazePose on onnxruntime: the same network, an explicit choice that a data set records."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from entprog.poses import blazepose
from entprog.poses._networks import baked
from entprog.poses._onnx import OnnxGraph, as_onnx
from entprog.poses.blazepose import BlazePose, PoseEstimator
from entprog.poses.loading import open_estimator, pose_settings, wrong_pose
from entprog.prepare.store import Store
from entprog.prepare.video import read_video
from entprog.sample.estimator import estimator_for

CLIP = Path(__file__).parents[3] / "shared" / "clips" / "intel__walk.mkv"
needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")), reason="needs onnx and onnxruntime"
)


@needs_onnx
@pytest.mark.parametrize(("name", "side"), [("pose_detector", 224), ("pose_landmarks", 256)])
@pytest.mark.parametrize("count", [1, 2])
def test_gives_what_torch_gives(name: str, side: int, count: int) -> None:
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected, found = blazepose.BlazeGraph(name)(images), OnnxGraph(name)(images)
    assert found.keys() == expected.keys()
    for label, value in expected.items():
        torch.testing.assert_close(found[label], value, rtol=1e-4, atol=1e-2)  # of values around 200


@needs_onnx
@pytest.mark.parametrize("name", ["pose_detector", "pose_landmarks"])
def test_the_graph_is_valid(name: str) -> None:
    import onnx

    onnx.checker.check_model(onnx.load_from_string(as_onnx(baked(name))))


@needs_onnx
def test_a_track_is_that_of_torch_and_the_same_each_time() -> None:
    if not CLIP.exists():
        pytest.skip("needs ../shared/clips beside the repository")
    frames, _ = read_video(CLIP, fps=12, max_frames=10)
    estimator = open_estimator("blazepose", {"runtime": "onnx"})
    assert isinstance(estimator, PoseEstimator)
    expected, found, again = PoseEstimator().track(frames), estimator.track(frames), estimator.track(frames)
    torso = np.linalg.norm(expected.keypoints[:, 1, :2] - expected.keypoints[:, [8, 11], :2].mean(1), axis=1)
    apart = np.linalg.norm((found.keypoints - expected.keypoints)[..., :2], axis=2) / torso[:, None]
    assert apart.max() < 0.002 and np.median(apart) < 1e-4
    assert (found.people == expected.people).all() and found.found.all()
    assert (again.keypoints == found.keypoints).all()


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    install = 'pip install "entprog[pose-onnx]"'
    monkeypatch.setattr(blazepose, "PACKAGES", {"no_such_onnx": install})
    line = f"runtime = 'onnx': no_such_onnx not installed; {install}"
    assert wrong_pose("blazepose", {"runtime": "onnx"}) == [f"pose = 'blazepose': {line}"]
    with pytest.raises(ValueError, match="no_such_onnx not installed"):
        open_estimator("blazepose", {"runtime": "onnx"})
    assert wrong_pose("blazepose", {"runtime": "torch"}) == []


def test_another_device_or_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blazepose, "PACKAGES", {})
    with pytest.raises(ValueError, match="runtime = 'onnx': runs on the CPU, not on 'cuda'; use device cpu, or"):
        BlazePose("onnx").open("cuda")
    assert wrong_pose("blazepose", {"runtime": "tensorrt"}) == [
        "pose 'blazepose': runtime = 'tensorrt' is a str; it must be 'torch' | 'onnx'"
    ]


SETTINGS = {"sizes": [64], "fps": 12.0, "holdout": 0.0}


@pytest.mark.parametrize("before", [{}, {"pose": "blazepose", "pose_options": {}}, pose_settings()])
def test_a_data_set_says_it_and_is_not_mixed(before: dict[str, Any], tmp_path: Path) -> None:
    """Data sets of versions that recorded no runtime were made with torch."""
    assert pose_settings()["pose_options"] == {"runtime": "torch"}
    (tmp_path / "prepare.json").write_text(json.dumps(SETTINGS | before))
    Store(tmp_path, SETTINGS | pose_settings())
    with pytest.raises(ValueError, match=r"pose_options: \{'runtime': 'torch'\} then, \{'runtime': 'onnx'\} now"):
        Store(tmp_path, SETTINGS | pose_settings("blazepose", {"runtime": "onnx"}))


@needs_onnx
def test_photo_and_drive_are_read_as_the_data_were(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    settings = pose_settings("blazepose", {"runtime": "onnx"})
    (tmp_path / "data" / "prepare.json").write_text(json.dumps(settings))
    (tmp_path / "data.json").write_text(json.dumps({"path": str(tmp_path / "data")}))
    found, said = estimator_for(tmp_path)
    assert isinstance(found, PoseEstimator) and isinstance(found.landmarks, OnnxGraph)
    assert said == "poses by blazepose, as in the run's data"
