"""Pictures of a prepared data set: the right frames with their poses, from the sources or from the latents."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest

from data_sets import data_set, number, numbered, rows_in, window_data_set, write_rows
from entprog.prepare.contact_sheet import DataSet, clip_pictures, dropped_pictures, frames_with_poses, spread
from entprog.prepare.pictures import Budget, frames_at, poster, with_pose
from entprog.prepare.video import write_video


def test_frames_by_reading_and_by_seeking_are_the_same(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(24))
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 96, 64, "yuv420p", 20
        for array in numbered(110):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
    wanted = [0, 1, 9, 30, 31, 54]
    for decoded in (110, 9999):
        found = frames_at(path, wanted, fps=12, short_side=32, decoded=decoded, budget=Budget(60))
        assert list(found) == wanted and all(frame.shape == (32, 48, 3) for frame in found.values())
        assert all(abs(number(frame) - 2 * at % 42) <= 1 for at, frame in found.items()), decoded
    assert not frames_at(path, wanted, fps=12, short_side=32, decoded=110, budget=Budget(-1))


@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_what_cannot_be_read_gives_no_picture(tmp_path, content):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    assert poster(path, short_side=32) is None
    for decoded in (10, 9999):
        assert frames_at(path, [0], fps=12, short_side=32, decoded=decoded, budget=Budget(60)) == {}


def test_poses_are_drawn_where_they_are_visible():
    frames, pose = np.full((1, 64, 64, 3), 200, np.uint8), np.zeros((1, 18, 3), np.float32)
    assert np.array_equal(with_pose(frames, pose), frames)
    pose[0, 1], pose[0, 2] = (0.5, 0.2, 1), (0.5, 0.8, 1)
    drawn = with_pose(frames, pose)
    assert (drawn[0, 32, 32] != 200).any() and (drawn[0, :, :20] == 200).all()


def test_clips_show_their_own_frames_of_the_source(tmp_path):
    data = DataSet(data_set(tmp_path, {"one": numbered(30)}))
    frames, note = frames_with_poses(data, "one", [0, 5, 11], height=64, budget=Budget(60))
    assert note == "" and frames.shape == (3, 64, 64, 3)
    assert [number(frame) for frame in frames] == [4, 9, 15]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"source": "/nowhere/a.mp4"}, "the source is gone: decoded from the latents"),
        ({"pieces": None}, ""),
        ({"source": "other"}, "the source shows other frames now: decoded from the latents"),
    ],
)
def test_without_the_source_the_latents_are_shown(tmp_path, change, note):
    out = data_set(tmp_path, {"one": numbered(30)})
    if change.get("source") == "other":
        change = {"source": str(tmp_path / "other.mp4")}
        write_video(tmp_path / "other.mp4", 255 - numbered(30), 12)
    write_rows(out, [rows_in(out)[0] | change])
    frames, said = frames_with_poses(DataSet(out), "one", [0, 11], height=64, budget=Budget(60))
    assert said == note and [number(frame) for frame in frames] == [4, 15]


def test_without_source_and_codec_there_is_a_reason(tmp_path):
    out = data_set(tmp_path, {"one": numbered(30)})
    about = json.loads((out / "dataset.json").read_text())
    (out / "dataset.json").write_text(json.dumps(about | {"codec_hash": "another"}))
    write_rows(out, [rows_in(out)[0] | {"source": "/nowhere/a.mp4"}])
    (picture,) = clip_pictures(DataSet(out), most=9, size=2**20, budget=Budget(60))
    assert picture.picture is None and picture.note == "the source is gone, and the codec of the latents is not at hand"


def test_the_held_out_tail_of_a_clip_is_found(tmp_path):
    out = data_set(tmp_path, {"one": numbered(40), "two": numbered(40)})
    text = (out / "index.jsonl").read_text().replace('"clip": "two"', '"clip": "one-tail"')
    (out / "index.jsonl").write_text(text)
    data = DataSet(out)
    assert data.begins("one-tail")[1:] == (16, "one")


def test_both_splits_and_all_reasons_are_shown_within_bounds(tmp_path):
    assert spread(list(range(100)), 3) == [0, 50, 99] or spread(list(range(100)), 3) == [0, 49, 99]
    out = data_set(tmp_path, {f"v{i}": numbered(20) for i in range(6)})
    rows = rows_in(out)
    gone = [{"source": f"/nowhere/{i}", "name": str(i), "status": "dropped", "clips": []} for i in range(60)]
    rows += [row | {"reason": "no person found" if i < 59 else "shorter than 16 frames"} for i, row in enumerate(gone)]
    write_rows(out, rows)
    data = DataSet(out)
    clips = clip_pictures(data, most=3, size=2**20, budget=Budget(60))
    assert len(clips) == 3 and {clip.split for clip in clips} == {"train", "holdout"}
    assert clip_pictures(data, most=3, size=10, budget=Budget(60)) == []
    dropped = dropped_pictures(data, most=8, size=2**20, budget=Budget(60))
    assert len(dropped) == 8 and dropped[1].row["reason"] == "shorter than 16 frames"


def test_windows_show_their_frames_of_the_source_or_why_not(tmp_path):
    out = window_data_set(tmp_path, numbered(30))
    data = DataSet(out)
    frames, note = frames_with_poses(data, "one", [0, 8], height=32, budget=Budget(60))
    assert note == "" and frames.shape == (2, 32, 48, 3) and data.length("one") == 9
    assert [number(frame) for frame in frames] == [4, 12]
    write_rows(out, [rows_in(out)[0] | {"source": "/nowhere/one.mp4"}])
    (picture,) = clip_pictures(DataSet(out), most=9, size=2**20, budget=Budget(60))
    assert (picture.picture, picture.note) == (None, "the source is gone")
