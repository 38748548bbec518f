"""The measure of the study of agreement, on tracks whose distance is known; and the study on a small video."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies import pose_agreement
from benchmarks.studies.pose_agreement import Pair, agreement, apart
from entprog.prepare.video import write_video

FRAMES, TORSO = 5, 50.0


def person() -> np.ndarray:
    """[F,18,3]: all keypoints sure and in a picture of 200 x 200, the hips 50 px below the neck."""
    points = np.full((FRAMES, 18, 3), 0.9, np.float32)
    points[..., :2] = np.random.default_rng(0).uniform(40, 160, (18, 2))
    points[:, 1, :2], points[:, 8, :2], points[:, 11, :2] = (100, 60), (90, 110), (110, 110)
    return points


def pair(a: np.ndarray, b: np.ndarray, found_b: tuple[float, ...] = (1.0,) * FRAMES) -> Pair:
    return Pair(a, b, np.ones(FRAMES, np.float32), np.array(found_b, np.float32), (200, 200))


def moved(points: np.ndarray, *joints: int, by: tuple[float, float]) -> np.ndarray:
    points = points.copy()
    points[:, list(joints), :2] += by
    return points


def test_a_known_offset_is_measured_in_torsos() -> None:
    row = agreement([pair(person(), moved(person(), *range(18), by=(3, 4)))])
    assert row["torso_px"] == TORSO and row["keypoints"] == 17 * FRAMES
    assert row["median"] == pytest.approx(0.1, abs=1e-4) == row["p90"]
    assert row["alike"] == row["found_a"] == row["found_b"] == 1


def test_joints_are_told_apart_and_an_offset_of_their_definition_is_taken_off() -> None:
    row = agreement([pair(person(), moved(person(), 4, 7, by=(10, 0)))])
    wrists, elbows = row["joints"]["wrists"], row["joints"]["elbows"]
    assert wrists["median"] == pytest.approx(0.2) and wrists["within"] == 0 and wrists["around"] == 0
    assert wrists["aside"] == [[0.2, 0.0], [0.2, 0.0]]
    assert elbows["median"] == 0 and elbows["within"] == 1
    assert row["median"] == 0 and row["within"] == pytest.approx(15 / 17, abs=1e-4)
    assert row["body"]["keypoints"] == 12 * FRAMES and row["body"]["within"] == pytest.approx(10 / 12, abs=1e-4)


def test_the_pose_of_half_a_clip_later_is_a_wrong_one() -> None:
    walking = person()
    walking[..., 0] += 5 * np.arange(FRAMES)[:, None]
    assert agreement([pair(walking, walking)])["median"] == 0
    assert agreement([apart(pair(walking, walking))])["median"] == pytest.approx(0.2, abs=1e-4)


def test_keypoints_of_which_one_is_unsure_and_frames_of_which_one_has_nobody_do_not_count() -> None:
    b = moved(person(), 4, by=(100, 0))
    b[:, 4, 2] = 0.4
    b[0, :, :2] += 100
    row = agreement([pair(person(), b, (0.2, 1, 1, 1, 1))])
    assert row["keypoints"] == 16 * (FRAMES - 1) and row["p90"] == 0 and row["found_b"] == 0.8
    assert row["joints"]["wrists"] == row["joints"]["elbows"] | {"keypoints": FRAMES - 1, "alike": 0.5} | {
        "aside": [None, [0.0, 0.0]]
    }


def test_a_place_outside_the_picture_counts_if_the_other_is_inside() -> None:
    a = person()
    a[:, 10, :2], a[:, 13, :2] = (90, 230), (110, 190)
    row = agreement([pair(a, moved(a, 10, 13, by=(0, 20)))])
    assert row["joints"]["ankles"]["keypoints"] == FRAMES and row["joints"]["ankles"]["median"] == pytest.approx(0.4)


def test_nothing_in_common_gives_no_number_rather_than_a_zero() -> None:
    row = agreement([pair(person(), person(), (0.0,) * FRAMES)])
    assert row["keypoints"] == 0 and row["median"] is row["within"] is row["alike"] is row["torso_px"] is None
    assert "aside" not in row["joints"]["nose"]


def test_the_study_compares_pose_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos, record = tmp_path / "videos", tmp_path / "record.jsonl"
    videos.mkdir()
    write_video(videos / "walk.mp4", np.full((FRAMES, 200, 200, 3), 90, np.uint8), 12)
    for name, points in (("a", person()), ("b", moved(person(), *range(18), by=(5, 0)))):
        (tmp_path / name).mkdir()
        people = [{"people": [{"pose_keypoints_2d": frame.flatten().tolist()}]} for frame in points]
        (tmp_path / name / "walk.json").write_text(json.dumps(people))
    given = [str(videos), "--a", "openpose-json", "--a-options", f"folder={tmp_path / 'a'}", "--record", str(record)]
    given += ["--b-options", f"folder={tmp_path / 'b'}", "--pictures", str(tmp_path / "pictures"), "--about", "none"]
    monkeypatch.setattr("sys.argv", ["pose_agreement", *given])
    pose_agreement.main()
    clip, total = (json.loads(line) for line in record.read_text().splitlines())
    assert clip["name"] == "walk" and clip["median"] == total["median"] == pytest.approx(0.1, abs=1e-4)
    assert total["a"]["name"] == total["b"]["name"] == "openpose-json" and str(tmp_path) not in record.read_text()
    assert len(list((tmp_path / "pictures").iterdir())) in (1, 2)


def test_wrong_options_end_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "walk.mp4").touch()
    monkeypatch.setattr("sys.argv", ["pose_agreement", str(tmp_path), "--b-options", "folder=nowhere"])
    with pytest.raises(SystemExit, match="2"):
        pose_agreement.main()
    assert "no such folder" in capsys.readouterr().err.splitlines()[-1]
