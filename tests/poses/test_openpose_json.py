"""Pose files beside videos, in the forms in which OpenPose, DWPose's scripts and MMPose write them."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from contracts import tracked
from entprog.cli.app import main
from entprog.cli.overrides import plugin_options
from entprog.plugins import problems
from entprog.poses.base import PosesUnusable
from entprog.poses.loading import open_estimator
from entprog.prepare.folder import prepare_folder
from entprog.prepare.video import Video, write_video

WIDTH, HEIGHT = 160, 120
SMALL = np.zeros((60, 80, 3), np.uint8)
"""A frame at half the video's size, as prepare gives them."""


def body(
    count: int = 18, *, at: tuple[float, float] = (40, 20), size: float = 60, confidence: float = 1.0
) -> list[float]:
    """Keypoints on a diagonal from `at`, as x y confidence one after the other."""
    step = np.linspace(0, size, count)
    return np.stack([at[0] + step / 2, at[1] + step, np.full(count, confidence)], 1).flatten().tolist()


def person(**given) -> dict:
    count = given.pop("count", 18)
    return {"pose_keypoints_2d": body(count, **given)}


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / "dance.mp4"
    write_video(path, np.full((6, HEIGHT, WIDTH, 3), 90, np.uint8), 10)
    return path


def each_frame(video: Path, entries: list, *, first: int = 0, name: str = "{}_keypoints") -> None:
    """OpenPose's folder: a file for each frame."""
    folder = video.parent / name.format(video.stem)
    folder.mkdir()
    for i, entry in enumerate(entries):
        if entry is not None:
            (folder / f"{video.stem}_{first + i:012d}_keypoints.json").write_text(json.dumps(entry))


def whole(video: Path, content: object) -> None:
    video.with_suffix(".json").write_text(json.dumps(content))


def follow(video: Path, frames: int = 6, frame: np.ndarray = SMALL, **options):
    return tracked(open_estimator("openpose-json", options), np.stack([frame] * frames), video)


def test_openpose_folder_in_pixels_of_the_video(video):
    each_frame(video, [{"version": 1.3, "people": [person(count=25)]}] * 6)
    track = follow(video)
    assert track.found.all() and track.people.tolist() == [1] * 6 and track.hands is None and track.face is None
    # BODY_25 has the middle of the hips at 8; half of the video's pixels
    at = np.linspace(0, 60, 25)[[0, 1, 7, 9, 18]]
    assert np.allclose(track.keypoints[0, [0, 1, 7, 8, 17], :2], np.stack([40 + at / 2, 20 + at], 1) / 2, atol=1e-3)
    assert track.notes == ()


def test_hands_and_face_are_kept(video):
    one = person() | {
        "hand_left_keypoints_2d": body(21, at=(10, 10)), "hand_right_keypoints_2d": body(21, at=(20, 10)),
        "face_keypoints_2d": body(70, at=(30, 10)),
    }  # fmt: skip
    each_frame(video, [{"people": [one]}] * 5 + [{"people": [person() | {"hand_left_keypoints_2d": None}]}])
    track = follow(video)
    assert track.hands is not None and track.face is not None
    assert [track.hands[0, 0, 0], track.hands[0, 21, 0], track.face[0, 0, 0]] == [5, 10, 15]
    assert not track.hands[5].any() and not track.face[5].any()


def test_a_list_of_frames_with_a_canvas(video):
    """As ComfyUI's and ControlNet's DWPose nodes write it."""
    frame = {"people": [person(at=(400, 200), size=600)], "canvas_width": 1600, "canvas_height": 1200}
    whole(video, [frame] * 6)
    assert np.allclose(follow(video).keypoints[0, 0, :2], [20, 10])


@pytest.mark.parametrize("canvas", [{}, {"canvas_width": 768, "canvas_height": 512}])
def test_shares_of_the_picture(video, canvas):
    whole(video, [{"people": [person(at=(0.25, 0.25), size=0.5)]} | canvas] * 6)
    assert np.allclose(follow(video).keypoints[0, 0, :2], [20, 15])


def instance(count: int) -> dict:
    points = np.stack([np.arange(count) + 20.0, np.arange(count) / 2 + 10], 1)
    return {"keypoints": points.tolist(), "keypoint_scores": [0.9] * count, "bbox": [[0, 0, 9, 9]]}


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("count", [17, 133])
def test_mmpose(video, first, nested, count):
    rows = [{"frame_id": first + i, "instances": [instance(count)] if i else []} for i in range(6)]
    whole(video, {"meta_info": {}, "instance_info": rows} if nested else rows)
    track = follow(video)
    assert track.found.tolist() == [False] + [True] * 5
    assert np.allclose(track.keypoints[1, 4, :2], [15, 7.5])  # the right wrist is COCO's 10
    assert (track.hands is not None) == (count == 133)


def test_a_missing_frame_is_not_found_and_is_said(video):
    each_frame(video, [{"people": [person()]}, None, {"people": []}, {"people": [person()]}, None, None])
    track = follow(video)
    assert track.found.tolist() == [True, False, False, True, False, False]
    assert track.notes == ("dance_keypoints has nothing on 3 of 6 frames",)


def test_frames_are_found_by_the_number_of_the_decoded_frame(video):
    each_frame(video, [{"people": [person(at=(40 + 10 * i, 20))]} for i in range(6)], first=1)
    tracker = open_estimator("openpose-json").tracker(video)
    assert [tracker.step(SMALL, index=i)[0, 0] for i in (0, 2, 4)] == [20, 30, 40]


def test_numbers_of_frames_that_do_not_fit(video):
    whole(video, [{"people": [person()]}] * 4)
    with pytest.raises(PosesUnusable, match=r"dance.json has 4 frames, but the video has 6 or more; make them anew"):
        follow(video)
    whole(video, [{"people": [person()]}] * 90)
    assert follow(video).notes == ("dance.json has 90 frames, but the video was read to frame 6",)


def test_the_largest_then_the_nearest_person(video):
    small, large = person(size=40), person(at=(100, 10), size=100)
    away = [small["pose_keypoints_2d"][0], large["pose_keypoints_2d"][0]]
    each_frame(video, [{"people": people} for people in ([small], [large, small], [large], [small, large])])
    tracker = open_estimator("openpose-json").tracker(video)
    assert [tracker.step(SMALL, index=i)[0, 0] * 2 for i in range(4)] == [away[0], away[0], 0, away[0]]
    assert tracker.step(SMALL, index=3, restart=True)[0, 0] * 2 == away[1]
    assert tracker.result().people.tolist() == [1, 2, 1, 2, 2]


def test_half_a_person_and_nobody(video):
    half = np.array(body()).reshape(-1, 3)
    half[8:, 2] = 0  # below the picture
    dots = np.array(body()).reshape(-1, 3)
    dots[3:, 2] = 0
    entries = [{"people": [{"pose_keypoints_2d": points.flatten().tolist()}]} for points in (half, dots, 0 * half)]
    each_frame(video, [*entries, {"people": []}])
    track = follow(video, 4)
    assert track.found.tolist() == [True, False, False, False] and track.people.tolist() == [1, 0, 0, 0]
    assert not track.keypoints[0, 8:, 2].any()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"people": [', "dance.json cannot be read as JSON"),
        ("", "dance.json cannot be read as JSON"),
        ("\xff\xfe", "dance.json cannot be read as JSON"),
        ("[]", "dance.json has no frames"),
        ('"text"', "is in no known format"),
        ("[1, 2]", "is in no known format"),
        ('{"captions": ["a dance"]}', "is in no known format"),
        ('[{"people": [{}]}]', "frame 0: not as OpenPose, DWPose or MMPose write it .no 'pose_keypoints_2d'"),
        ('[{"people": 3}]', "frame 0: not as"),
        ('[{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}]', "pose_keypoints_2d has 3 numbers, not 54 or 75"),
        ('[{"people": [{"pose_keypoints_2d": "none"}]}]', "frame 0: not as"),
        ('[{"instances": [{"keypoints": [[1, 2]], "keypoint_scores": [1]}]}]', r"keypoints \[1, 2\]; known are 17"),
        ("[" * 100000, "dance.json cannot be read as JSON"),
    ],
)
def test_broken_files(video, content, said):
    video.with_suffix(".json").write_bytes(content.encode("latin-1"))
    with pytest.raises(PosesUnusable, match=said) as caught:
        follow(video, 1)
    assert "\n" not in str(caught.value)


def test_a_broken_file_of_one_frame_is_named(video):
    each_frame(video, [{"people": [person()]}] * 6)
    (video.parent / "dance_keypoints" / "dance_000000000003_keypoints.json").write_text("{")
    with pytest.raises(PosesUnusable, match=r"dance_000000000003_keypoints.json cannot be read"):
        follow(video)
    (video.parent / "dance_keypoints" / "notes.json").write_text("{}")
    with pytest.raises(PosesUnusable, match=r"dance_keypoints/notes.json has no number"):
        follow(video)


def test_numbers_that_are_none_or_not_finite(video):
    points = body()
    points[0:3], points[3] = [None, None, None], float("nan")
    whole(video, [{"people": [{"pose_keypoints_2d": points}]}] * 6)
    track = follow(video)
    assert track.found.all() and not track.keypoints[0, :2].any() and np.isfinite(track.keypoints).all()


def test_without_a_pose_file(video, tmp_path):
    with pytest.raises(PosesUnusable, match=r"no pose file: neither dance_keypoints/ nor dance.json in "):
        follow(video)
    elsewhere = tmp_path / "poses"
    elsewhere.mkdir()
    (elsewhere / "dance.json").write_text(json.dumps([{"people": [person()]}] * 6))
    assert follow(video, folder=str(elsewhere)).found.all()


def test_size_of_a_folder_of_pictures_and_of_a_turned_video(tmp_path, video):
    pictures = tmp_path / "walk"
    pictures.mkdir()
    for i in range(2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(pictures / f"{i + 1:04d}.png")
    (tmp_path / "walk_keypoints").mkdir()
    for i in range(2):
        (tmp_path / "walk_keypoints" / f"{i + 1:04d}_keypoints.json").write_text(json.dumps({"people": [person()]}))
    assert np.allclose(follow(pictures, 2).keypoints[:, 0, :2], [20, 10])
    each_frame(video, [{"people": [person()]}] * 6)
    upright = np.zeros((80, 60, 3), np.uint8)  # stored as 160 x 120, shown as 120 x 160
    assert np.allclose(follow(video, frame=upright).keypoints[0, 0, :2], [20, 10])
    assert np.allclose(follow(video, size="320x240").keypoints[0, 0, :2], [10, 5])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"folder": "nowhere"}, "folder = 'nowhere': no such folder"),
        ({"size": "big"}, "size = 'big': give width x height"),
        ({"threshold": 0.0}, "threshold = 0.0: give a number"),
    ],
)
def test_wrong_options(options, said):
    assert any(said in text for text in problems("pose", "openpose_json", options))


def test_it_reads_no_pictures():
    with pytest.raises(ValueError, match="it has poses of videos only; use blazepose or dwpose for pictures"):
        open_estimator("openpose_json").single(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))


def test_prepare_with_pose_files(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    rng = np.random.default_rng(0)
    for name in ("good", "none", "short"):
        frames = rng.integers(0, 255, (20, HEIGHT, WIDTH, 3), dtype=np.uint8)
        write_video(videos / f"{name}.mp4", frames, 12)
    each_frame(videos / "good.mp4", [{"people": [person(size=80)]}] * 20)
    (videos / "short.json").write_text(json.dumps([{"people": [person(size=80)]}] * 5))
    out = tmp_path / "out"
    result = prepare_folder([videos], out, sizes=[16], pose="openpose-json", progress=False, holdout=0)
    rows = {row["name"]: row for row in map(json.loads, (out / "prepare.jsonl").read_text().splitlines())}
    assert result.kept == 1 and rows["good"]["status"] == "kept" and rows["good"]["pose_found"] == 1
    assert rows["none"]["reason"].startswith("poses: no pose file")
    assert rows["short"]["reason"].startswith("poses: short.json has 5 frames, but the video has 20")
    settings = json.loads((out / "prepare.json").read_text())
    assert settings["pose"] == "openpose_json"
    with pytest.raises(ValueError, match=r"prepared with other settings .pose: 'openpose_json' then, 'blazepose' now"):
        prepare_folder([videos], out, sizes=[16], progress=False, holdout=0)
    with pytest.raises(ValueError, match="no pose 'blazepos'; did you mean 'blazepose'"):
        prepare_folder([videos], tmp_path / "o", sizes=[16], pose="blazepos", progress=False)


def test_index_of_the_decoded_frame(tmp_path):
    path = tmp_path / "v.mp4"
    write_video(path, np.zeros((20, 32, 32, 3), np.uint8), 30)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20
    video = Video(path, fps=10)
    indices = [video.index for _ in video]
    assert indices == sorted(indices) and indices[0] <= 1 and 17 <= indices[-1] <= 19 and len(indices) == 7
    every = Video(path)
    assert [every.index for _ in every] == list(range(20))


def test_options_of_the_command_line(tmp_path):
    given = ["size=640x480", f"folder={tmp_path}", "threshold=0.2"]
    assert plugin_options("pose", "openpose-json", given) == {
        "size": "640x480", "folder": str(tmp_path), "threshold": 0.2,
    }  # fmt: skip
    assert plugin_options("pose", "openpose-json", ["folder=12"]) == {"folder": "12"}  # text where text is wanted
    with pytest.raises(ValueError, match="--pose-options 'size': expected KEY=VALUE"):
        plugin_options("pose", "openpose-json", ["size"])
    with pytest.raises(ValueError, match="--pose-options size: given twice; give it once"):
        plugin_options("pose", "openpose-json", ["size=1x1", "size=2x2"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pose", "openpose"], "did you mean 'openpose_json'"),
        (["--pose", "openpose-json", "--pose-options", "size=big"], "size = 'big': give width x height"),
        (["--pose", "openpose-json", "--pose-options", "sise=1x1"], "has no option 'sise'; did you mean 'size'"),
        (["--pose", "openpose-json", "--pose-options", "threshold=much"], "threshold = 'much' is a str"),
        (["--pose-options", "folder=x"], "pose 'blazepose' has no option 'folder'"),
    ],
)
def test_wrong_options_of_the_command_are_one_line(video, tmp_path, capsys, words, said):
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", str(video), str(tmp_path / "out"), *words])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(lines) == 1 and said in lines[0] and not (tmp_path / "out").exists()
