"""DWPose through rtmlib: with stand-ins for its modules, and with the real ones on tiny networks where installed."""

import importlib.util
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

import fake_rtmlib
from contracts import tracked
from entprog.plugins import load, problems
from entprog.poses._wholebody import from_wholebody, pose_score
from entprog.poses.loading import open_estimator, pose_settings, wrong_pose

REAL = all(importlib.util.find_spec(name) for name in ("rtmlib", "onnxruntime", "onnx"))


@pytest.fixture
def files(tmp_path, monkeypatch):
    fake_rtmlib.install(monkeypatch)
    detector = fake_rtmlib.save(tmp_path, "yolox.onnx", fake_rtmlib.DETECTOR)
    pose_model = fake_rtmlib.save(tmp_path, "dw.onnx", fake_rtmlib.POSE_MODEL)
    return {"detector": str(detector), "pose_model": str(pose_model)}


def painted(*people: tuple[int, int, int, int], height: int = 60, width: int = 100) -> np.ndarray:
    """A grey picture with people as coloured boxes (x y of two corners)."""
    picture = np.full((height, width, 3), 90, np.uint8)
    for colour, (x, y, right, low) in zip(fake_rtmlib.COLOURS, people, strict=False):
        picture[y:low, x:right] = colour
    return picture


def test_whole_body_points_become_body_hands_and_face():
    points = np.stack([np.arange(133.0), np.arange(133.0) + 500], 1)
    confidence = np.full(133, 0.65)
    confidence[5] = 0.3
    found = from_wholebody(points, confidence, 0.3)
    assert found.shape == (128, 3)
    assert found[[0, 2, 5, 8, 13, 14, 17], 0].tolist() == [0, 6, 5, 12, 15, 2, 3]
    assert found[1].tolist() == pytest.approx([5.5, 505.5, 0.5])  # the neck is as sure as the less sure shoulder
    assert found[18, 0] == 91 and found[18 + 21, 0] == 112 and found[18 + 42, 0] == 23 and found[-1, 0] == 90
    assert found[0, 2] == pytest.approx(0.75) and pose_score(found) == pytest.approx(0.75)


def test_contract_with_hands_and_face(files):
    estimator = open_estimator("dwpose", files)
    assert estimator.detector.model_input_size == (64, 96) and estimator.network.model_input_size == (72, 96)
    frames = np.stack([painted((10, 5, 30, 55)), painted((12, 5, 32, 55))])
    track = tracked(estimator, frames, None)
    assert track.found.all() and track.people.tolist() == [1, 1]
    assert track.hands is not None and track.face is not None
    assert track.keypoints[0, 0, 0] == pytest.approx(12) and track.keypoints[1, 0, 0] == pytest.approx(14)
    keypoints, score = estimator.single(torch.from_numpy(frames))
    assert float(keypoints[0, 0, 0]) == pytest.approx(0.12) and float(score[0]) == pytest.approx(0.75)


def test_nobody_a_tiny_person_and_a_black_picture(files):
    estimator = open_estimator("dwpose", files)
    pictures = np.stack([painted(), np.zeros((60, 100, 3), np.uint8), painted((5, 5, 6, 6))])
    track = tracked(estimator, pictures, None)
    assert not track.found.any() and track.people.tolist() == [0, 0, 0]
    assert not track.keypoints.any() and track.hands is not None and not track.hands.any()


def test_of_two_people_the_nearest_is_followed_after_a_loss(files):
    near, far = (10, 10, 30, 50), (60, 2, 95, 58)
    tracker = open_estimator("dwpose", files).tracker()
    alone = painted(near)
    tracker.step(alone, index=0)
    assert tracker.step(painted(near, far), index=1)[0, 0] == pytest.approx(12)  # the other one is larger
    only = painted((0, 0, 0, 0), far)
    assert not tracker.step(only, index=2).any()  # missed for a moment: nobody else is taken for him
    assert tracker.step(painted(near, far), index=3)[0, 0] == pytest.approx(12)
    assert tracker.step(painted(near, far), index=4, restart=True)[0, 0] > 60
    assert tracker.result().people.tolist() == [1, 2, 1, 2, 2]


def test_someone_else_is_followed_once_the_first_is_gone(files):
    tracker = open_estimator("dwpose", files).tracker()
    tracker.step(painted((10, 10, 30, 50)), index=0)
    for i in range(12):
        tracker.step(painted((0, 0, 0, 0), (60, 2, 95, 58)), index=1 + i)
    found = tracker.result().found
    assert found[0] and not found[1:7].any() and found[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"detector": "no.onnx"}, "detector = 'no.onnx': no such file; give an ONNX file"),
        ({"threshold": 1.5}, "threshold = 1.5: give a number above 0 and below 1"),
        ({"model": "x"}, "has no option 'model'"),
        ({"download": "perhaps"}, "download = 'perhaps' is a str; it must be bool"),
    ],
)
def test_wrong_options(options, said):
    assert any(said in text for text in problems("pose", "dwpose", options))


def test_without_the_packages_the_refusal_says_how_to_install_them(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r'not installed; pip install "entprog\[dwpose\]"'):
        open_estimator("dwpose")


@pytest.mark.skipif(REAL, reason="the packages are installed")
def test_prepare_asks_for_the_packages_before_anything_runs():
    assert any('pip install "entprog[dwpose]"' in text for text in wrong_pose("dwpose", {}))


@pytest.mark.parametrize(
    ("name", "network", "said"),
    [
        ("detector", "pose_model", "detector: .* is another network .*give a YOLOX person detector"),
        ("pose_model", "detector", "pose_model: .* is another network .*give a whole-body network"),
        ("pose_model", "body", "it gives 17 keypoints, not 133"),
        ("pose_model", "late", "it gives 26 keypoints, not 133"),
        ("detector", "sound", r"its input is \[1, 16000\], not pictures"),
        ("detector", "broken", "cannot be loaded .*INVALID_PROTOBUF"),
    ],
)
def test_files_of_other_networks(files, tmp_path, name, network, said):
    about = {
        "detector": fake_rtmlib.DETECTOR,
        "pose_model": fake_rtmlib.POSE_MODEL,
        "body": {**fake_rtmlib.POSE_MODEL, "outputs": [["b", 17, 144], ["b", 17, 192]], "points": 17},
        "late": {**fake_rtmlib.POSE_MODEL, "outputs": [["b", "k", 144], ["b", "k", 192]], "points": 26},
        "sound": {"input": [1, 16000], "outputs": [[1, 5]]},
    }
    path = tmp_path / "other.onnx"
    path.write_text("no network") if network == "broken" else fake_rtmlib.save(tmp_path, "other.onnx", about[network])
    with pytest.raises(ValueError, match=said) as caught:
        open_estimator("dwpose", files | {name: str(path)}).single(torch.from_numpy(painted((10, 5, 30, 55)))[None])
    assert "\n" not in str(caught.value)


def test_nothing_is_downloaded_in_silence(monkeypatch, tmp_path, capsys):
    file = fake_rtmlib.install(monkeypatch)
    with pytest.raises(ValueError, match=r"detector: no file given; .* download=true, which fetches the networks"):
        open_estimator("dwpose")
    monkeypatch.setattr("entprog.plugins.not_installed", lambda needed: "")
    assert [text.split(";")[0] for text in wrong_pose("dwpose", {})] == [
        "pose = 'dwpose': detector: no file given", "pose = 'dwpose': pose_model: no file given",
    ]  # fmt: skip
    assert not wrong_pose("dwpose", {"download": True})

    def offline(url: str) -> str:
        raise URLError("Temporary failure in name resolution")

    file.download_checkpoint = offline
    with pytest.raises(ValueError, match=r"cannot be fetched .*; fetch it elsewhere and give the option detector=FILE"):
        open_estimator("dwpose", {"download": True})
    assert capsys.readouterr().out.startswith(f"dwpose: detector: {fake_rtmlib.SOURCE}")
    file.download_checkpoint = lambda url: str(fake_rtmlib.save(tmp_path, "d.onnx", fake_rtmlib.DETECTOR))
    pose_model = fake_rtmlib.save(tmp_path, "p.onnx", fake_rtmlib.POSE_MODEL)
    assert open_estimator("dwpose", {"download": True, "pose_model": str(pose_model)})


def test_a_device_that_is_not_there_is_refused(files):
    with pytest.raises(ValueError, match="device = 'cuda': this onnxruntime has no CUDA"):
        open_estimator("dwpose", files, "cuda")
    with pytest.raises(ValueError, match="device = 'mps': dwpose runs on cpu or cuda"):
        open_estimator("dwpose", files, "mps")


def test_settings_name_files_by_their_content(files, tmp_path):
    settings = pose_settings("dwpose", files)
    copy = Path(files["detector"]).rename(tmp_path / "moved.onnx")
    assert pose_settings("dwpose", files | {"detector": str(copy)}) == settings
    copy.write_text("{}")
    assert pose_settings("dwpose", files | {"detector": str(copy)}) != settings
    assert settings["pose_options"]["threshold"] == 0.3 and load("pose", "dwpose").download is False


@pytest.mark.skipif(not REAL, reason="needs rtmlib, onnxruntime and onnx")
def test_real_onnxruntime_on_tiny_networks(tmp_path):
    import tiny_onnx

    options = {"detector": str(tiny_onnx.detector(tmp_path)), "pose_model": str(tiny_onnx.pose_model(tmp_path))}
    estimator = open_estimator("dwpose", options)
    frame = np.full((96, 96, 3), 200, np.uint8)
    track = tracked(estimator, np.stack([frame, np.zeros_like(frame)]), None)
    assert track.found.tolist() == [True, False] and track.people.tolist() == [1, 0]
    expected = tiny_onnx.expected()
    assert np.abs(track.keypoints[0, [0, 2, 5], :2] - expected[[0, 6, 5]]).max() < 1.0
    assert track.hands is not None and np.abs(track.hands[0, :, :2] - expected[91:]).max() < 1.0
    with pytest.raises(ValueError, match=r"pose_model: .* is another network"):
        open_estimator("dwpose", options | {"pose_model": options["detector"]})
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"detector: .*broken.onnx cannot be loaded"):
        open_estimator("dwpose", options | {"detector": str(broken)})
