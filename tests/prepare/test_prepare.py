"""Videos to shards: tiny files written here, people rendered here, one real clip where it is at hand."""

import errno
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import processes
from entprog.data.shards import Shards
from entprog.prepare import file as prepare_file_module
from entprog.prepare.crop import (
    crop,
    crop_keypoints,
    fill_gaps,
    find_cuts,
    histogram,
    person_box,
    resize,
)
from entprog.prepare.folder import free_name, prepare_folder
from entprog.prepare.store import Store, full_disk_reported, split_files
from entprog.prepare.video import Video, VideoError, read_video, write_gif, write_video
from entprog.synthetic import render_clip

CLIPS = Path(__file__).parents[3] / "shared" / "clips"
CODEC = {"codec": "stand-in", "codec_hash": "0"}


def encode(frames):
    """A stand-in for the codec: 16 of the 48 numbers of each 4 x 4 patch."""
    return F.pixel_unshuffle(frames.permute(0, 3, 1, 2).float() / 255, 4)[:, :16]


def ramp(count=30, height=48, width=64):
    """Frames that tell their number by their brightness, with a white corner at the upper left."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames += (np.arange(count) * 8).astype(np.uint8)[:, None, None, None]
    frames[:, : height // 3, : width // 3] = 255
    return frames


def numbers(frames):
    return [round(float(frame[-8:, -8:].mean()) / 8) for frame in frames]


@pytest.fixture(scope="module")
def people():
    """Two rendered people of 18 frames at 128 px."""
    return [render_clip(subject, subject, subject, frames=18, size=128).frames for subject in (0, 4)]


def run(inputs, out, **options):
    given = {"sizes": (16, 32), "encode": encode, "codec": CODEC, "progress": False}
    return prepare_folder(inputs, out, **{**given, **options})


def rows(out):
    return [json.loads(line) for line in (out / "prepare.jsonl").read_text().splitlines()]


# ---- video ----


def test_mp4_round_trip_counts_frames_and_plays_in_browsers(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, ramp(height=49), 30)
    frames, fps = read_video(path)
    assert frames.shape == (30, 50, 64, 3) and fps == 30
    assert numbers(frames) == list(range(30))
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("fps", [7.5, 12, 30, 60])
def test_resampling_takes_the_nearest_frame_in_time(tmp_path, fps):
    path = tmp_path / "a.mp4"
    write_video(path, ramp(), 30)
    seen, rate = read_video(path, fps=fps)
    assert rate == fps and abs(len(seen) - fps) <= 1
    assert all(abs(number - k * 30 / fps) <= 0.51 for k, number in enumerate(numbers(seen)))
    assert numbers(read_video(path, fps=fps, max_frames=3)[0]) == numbers(seen)[:3]


def test_uneven_timestamps_and_a_broken_clock(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        # 10 frames a second, then a pause of half a second, then a jump of an hour
        for number, stamp in enumerate([0, 100, 200, 700, 800, 3_600_000, 3_600_100]):
            frame = av.VideoFrame.from_ndarray(ramp(7)[number], format="rgb24")
            frame.pts = stamp
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = Video(path, fps=10)
    # frame 5 follows frame 4 at the file's nominal rate, 1000 a second, and so falls between two instants
    assert numbers(video) == [0, 1, 2, 2, 2, 3, 3, 3, 4, 6]
    assert video.decoded == 7


@pytest.mark.parametrize(("degrees", "corner"), [(90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1))])
def test_rotation_is_honoured(tmp_path, degrees, corner):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(degrees)
        for array in ramp(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
    video = Video(path, short_side=24)
    frames = list(video)
    assert video.rotation % 360 == degrees % 360
    assert video.full_size == ((64, 48) if degrees == 180 else (48, 64))
    assert min(video.size) == 24 and frames[0].shape == (video.size[1], video.size[0], 3)
    assert frames[0][corner].min() > 200 and frames[0][tuple(-1 - i for i in corner)].max() < 60


def test_gif_round_trip(tmp_path):
    write_gif(tmp_path / "a.gif", ramp(12), 12)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 12 and image.info["loop"] == 0
    assert numbers(read_video(tmp_path / "a.gif", fps=12)[0]) == list(range(12))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: write_video(p / "a.mp4", np.zeros((0, 8, 8, 3), np.uint8), 10),
            "frames: .*at least one frame",
        ),
        (lambda p: write_video(p / "a.mp4", np.zeros((1, 8, 8, 3)), 10), "frames: float64"),
        (lambda p: write_video(p / "a.mp4", ramp(1), 0), "fps: 0"),
        (lambda p: write_gif(p / "a.gif", ramp(1), float("nan")), "fps: nan"),
        (lambda p: write_video(p / "a.avi", ramp(1), 10), r"path: a.avi is not an .mp4"),
        (lambda p: read_video(p / "none.mp4"), "it does not exist"),
        (lambda p: read_video(p / "none.mp4", fps=-1), "fps: -1"),
        (lambda p: read_video(p / "none.mp4", max_frames=0), "max_frames: 0"),
    ],
)
def test_bad_video_arguments(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_video(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match="Invalid data") as caught:
        read_video(tmp_path / "a.mp4")
    assert str(tmp_path) not in caught.value.reason


# ---- crop ----


def test_cuts_are_found_and_motion_is_not():
    generator = np.random.default_rng(0)
    first, second = (generator.integers(0, 256, (60, 200, 3), dtype=np.uint8) // d * d for d in (1, 3))
    second[..., 0] //= 4
    shots = [first[:, i : i + 80] for i in range(0, 40, 2)] + [second[:, i : i + 80] for i in range(0, 60, 3)]
    assert find_cuts([histogram(np.ascontiguousarray(shot)) for shot in shots]) == [20]
    assert find_cuts([]) == [] and find_cuts([histogram(first)]) == []


def test_box_holds_the_person_and_stays_inside_where_it_fits():
    keypoints = np.zeros((10, 18, 3), np.float32)
    keypoints[:, :8, 2] = 1
    keypoints[:, :8, :2] = np.random.default_rng(0).uniform([100, 40], [160, 120], (8, 2))
    x0, y0, side = person_box(keypoints, 640, 480)
    seen = keypoints[0, :8, :2]
    assert (seen >= [x0, y0]).all() and (seen <= [x0 + side, y0 + side]).all() and side < 200
    keypoints[3, 4, :2] = [600, 400]  # one wrong frame in a hundred is not followed
    keypoints = np.concatenate([keypoints, np.tile(keypoints[:1], (90, 1, 1))])
    assert abs(person_box(keypoints, 640, 480)[2] - side) < 3
    keypoints[..., 1] += 420  # the lower body is outside the picture
    x0, y0, side = person_box(keypoints, 640, 480)
    assert y0 + side == 480
    assert person_box(np.zeros((3, 18, 3)), 64, 48) is None


def test_box_larger_than_the_frame_repeats_the_edge():
    keypoints = np.zeros((4, 18, 3), np.float32)
    keypoints[:, [4, 7], 2] = 1
    keypoints[:, 4, :2], keypoints[:, 7, :2] = [1, 20], [63, 20]
    x0, y0, side = person_box(keypoints, 64, 48)
    assert (x0, side) == (1, 62) and y0 == (48 - 62) // 2
    frame = ramp(1)[0]
    square = crop(frame, (x0, y0, side))
    assert square.shape == (62, 62, 3)
    assert np.array_equal(square[:7], np.broadcast_to(frame[0, 1:63], (7, 62, 3)))


def test_keypoints_follow_the_crop_and_the_resize():
    frame = np.zeros((1, 100, 120, 3), np.uint8)
    frame[0, 50:54, 70:74] = 255
    keypoints = np.array([[[72, 52, 0.5]]])
    box = (40, 20, 64)
    small = resize(torch.from_numpy(crop(frame[0], box)[None].copy()), 16)
    inside = crop_keypoints(keypoints, box)
    assert inside[0, 0].tolist() == [0.5, 0.5, 0.5] and keypoints[0, 0, 0] == 72
    rows_, columns = np.nonzero(small[0, ..., 0].numpy())
    weight = small[0, rows_, columns, 0].numpy()
    assert np.average((columns + 0.5) / 16, weights=weight) == pytest.approx(0.5, abs=0.02)
    assert np.average((rows_ + 0.5) / 16, weights=weight) == pytest.approx(0.5, abs=0.02)


def test_short_gaps_are_filled_and_long_ones_are_hidden():
    keypoints = np.ones((14, 18, 3), np.float32)
    keypoints[..., 0] = np.arange(14)[:, None]
    found = np.array([0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0], bool)
    keypoints[~found] = 0
    filled = fill_gaps(keypoints, found)
    assert filled[:, 0, 0].tolist() == [1, *range(1, 13), 12]
    assert filled[:, 0, 2].tolist() == [0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0]


# ---- folder ----


def test_a_folder_becomes_a_data_set(tmp_path, people):
    videos = tmp_path / "in"
    (videos / "deep").mkdir(parents=True)
    write_video(videos / "one.mp4", people[0], 12)
    write_video(videos / "deep" / "one.mp4", people[1], 12)
    write_video(videos / "short.mp4", people[0][:4], 12)
    write_video(videos / "blank.mp4", np.full((18, 64, 64, 3), 99, np.uint8), 12)
    (videos / "fake.mkv").write_bytes(b"x" * 100)
    (videos / "notes.txt").write_text("not looked at")
    out = tmp_path / "out"
    result = run([videos], out)
    assert (result.kept, result.dropped, result.clips, result.frames) == (2, 3, 2, 36)
    assert set(result.reasons) == {
        "shorter than 16 frames",
        "no person found",
        "unreadable: Invalid data found when processing input",
    }
    about = json.loads((out / "dataset.json").read_text())
    assert about == {"format": 1, **CODEC, "sizes": [16, 32], "fps": 12.0, "clips": 2, "frames": 36}
    shards = Shards(out)
    assert sorted(row.split for row in shards.rows) == ["holdout", "train"]
    assert len({row.subject for row in shards.rows}) == 2
    for row in shards.rows:
        assert shards.latents(row, 16, 0, 18).shape == (18, 16, 4, 4)
        assert shards.latents(row, 32, 0, 18).shape == (18, 16, 8, 8)
        pose = shards.pose(row, 0, 18)
        seen = pose[pose[..., 2] >= 0.5]
        assert len(seen) > 100 and (abs(seen[:, :2] - 0.5) < 0.7).all()
    assert sorted(path.name for path in out.iterdir()) == [
        "dataset.json",
        "index.jsonl",
        "prepare.json",
        "prepare.jsonl",
        "shard-00000.safetensors",
    ]
    kept = [row for row in rows(out) if row["status"] == "kept"]
    assert all(row["reason"] is None and row["decoded_frames"] == 18 for row in kept)
    assert all(row["pose_found"] > 0.9 and row["people_max"] == 1 and row["size"] == [128, 128] for row in kept)


def test_the_stored_latents_are_those_of_the_crop(tmp_path, people):
    write_video(tmp_path / "one.mp4", people[0], 12)
    run([tmp_path / "one.mp4"], tmp_path / "out", holdout=0)
    row = rows(tmp_path / "out")[0]
    frames, _ = read_video(tmp_path / "one.mp4", fps=12)
    square = torch.from_numpy(np.stack([crop(frame, tuple(row["crop"])) for frame in frames]))
    shards = Shards(tmp_path / "out")
    stored = shards.latents(shards.rows[0], 32, 0, len(frames))
    assert torch.equal(stored, encode(resize(square, 32)).half().float())
    assert shards.rows[0].split == "train"


def test_an_interrupted_run_goes_on_and_new_files_are_added(tmp_path, people, monkeypatch):
    files = [tmp_path / f"{name}.mp4" for name in "abc"]
    for path, frames in zip(files, [people[0], people[1], people[0][::-1]], strict=True):
        write_video(path, frames, 12)
    whole, pieces, calls = tmp_path / "whole", tmp_path / "pieces", []

    def interrupted(*arguments):
        calls.append(arguments[0])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    real = prepare_file_module.prepare_file
    monkeypatch.setattr("entprog.prepare.folder.prepare_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(files[:2], pieces)
    assert len(rows(pieces)) == 1 and not (pieces / "index.jsonl").exists()
    with (pieces / "prepare.jsonl").open("a") as stream:
        stream.write('{"source": "cut off by a ki')
    result = run(files[:2], pieces)
    assert result.skipped == 1 and result.clips == 2
    assert [path.name for path in calls] == ["a.mp4", "b.mp4", "b.mp4"]
    assert run(files, pieces).skipped == 2 and len(calls) == 4
    before = {path.name: path.read_bytes() for path in pieces.iterdir()}
    assert run(files, pieces).skipped == 3 and len(calls) == 4
    assert {path.name: path.read_bytes() for path in pieces.iterdir()} == before
    run(files, whole)
    for name in ("index.jsonl", "dataset.json", "prepare.jsonl", "shard-00000.safetensors"):
        assert (whole / name).read_bytes() == before[name], name
    with pytest.raises(ValueError, match=r"fps: 12.0 then, 8.0 now"):
        run(files, pieces, fps=8)
    with pytest.raises(ValueError, match=r"codec_hash: '0' then, '1' now; sizes: \[16, 32\] then, \[16\] now"):
        run(files, pieces, sizes=[16], codec={"codec": "stand-in", "codec_hash": "1"})


def test_a_cut_gives_two_clips_each_with_its_own_square(tmp_path, people):
    first, second = people
    wide = np.full((36, 128, 256, 3), 30, np.uint8)
    wide[:18, :, :128], wide[18:, :, 128:] = first, second[..., ::-1]
    wide[18:, :, :128] = 220
    write_video(tmp_path / "cut.mp4", wide, 12)
    result = run([tmp_path / "cut.mp4"], tmp_path / "out", max_frames=36, holdout=0)
    row = rows(tmp_path / "out")[0]
    assert row["clips"] == ["cut-1", "cut-2"] and result.clips == 2
    (left, _, side), (right, _, _) = row["crops"].values()
    assert left + side / 2 < 128 < right + row["crops"]["cut-2"][2] / 2
    assert {clip.split for clip in Shards(tmp_path / "out").rows} == {"train"}


def test_two_people(tmp_path, people):
    if not CLIPS.exists():
        pytest.skip("needs ../shared/clips beside the repository")
    both = [read_video(CLIPS / f"intel__{name}.mkv", fps=12, max_frames=8)[0] for name in ("again", "walk")]
    write_video(tmp_path / "two.mp4", np.concatenate(both, 2), 12)
    assert run([tmp_path / "two.mp4"], tmp_path / "largest", min_frames=8, holdout=0).clips == 1
    assert rows(tmp_path / "largest")[0]["people_max"] == 2
    with pytest.raises(ValueError, match=r"none of 1 files can be used.*1 x several people"):
        run([tmp_path / "two.mp4"], tmp_path / "drop", min_frames=8, people="drop")


def test_a_real_clip_with_the_packaged_codec(tmp_path):
    if not CLIPS.exists():
        pytest.skip("needs ../shared/clips beside the repository")
    result = prepare_folder([CLIPS / "intel__yes.mkv"], tmp_path / "out", max_frames=16, holdout=0, progress=False)
    row = rows(tmp_path / "out")[0]
    assert result.clips == 1 and result.frames == 16
    assert row["size"] == [640, 480] and row["pose_found"] == 1 and row["people_max"] == 1
    shards = Shards(tmp_path / "out")
    pose = shards.pose(shards.rows[0], 0, 16)
    assert (pose[:, :8, 2] > 0.5).mean() > 0.8
    assert ((pose[:, 0, 1] > 0.1) & (pose[:, 0, 1] < 0.5)).all() and (abs(pose[:, 0, 0] - 0.5) < 0.2).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": [20]}, r"sizes: \[20\]; give different multiples of 8"),
        ({"sizes": [8]}, r"sizes: \[8\]"),
        ({"sizes": []}, r"sizes: \[\]"),
        ({"sizes": [32, 32]}, r"sizes: \[32, 32\]"),
        ({"fps": 0}, "fps: 0; give a number above 0"),
        ({"fps": float("inf")}, "fps: inf"),
        ({"people": "all"}, "people: 'all'; give one of largest, drop"),
        ({"min_frames": 0}, "min_frames: 0"),
        ({"max_frames": 4}, "max_frames: 4 is below min_frames"),
        ({"holdout": 1.0}, "holdout: 1.0"),
        ({"codec": None}, "codec: None; give encode and"),
        ({"sizes": [20], "fps": -1}, r"sizes: (.|\n)*fps: -1"),
    ],
)
def test_bad_settings_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run([tmp_path], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_bad_paths_are_named(tmp_path):
    with pytest.raises(ValueError, match="inputs: none given"):
        run([], tmp_path / "out")
    with pytest.raises(ValueError, match=r"inputs: .*gone does not exist"):
        run([tmp_path / "gone"], tmp_path / "out")
    with pytest.raises(ValueError, match="inputs: no video"):
        run([tmp_path], tmp_path / "out")
    (tmp_path / "fake.mp4").write_bytes(b"")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"out: .*file is a file"):
        run([tmp_path], tmp_path / "file")
    with pytest.raises(ValueError, match=r"out: .* exists and was not made by prepare"):
        run([tmp_path], tmp_path)
    with pytest.raises(ValueError, match=r"none of 1 files can be used .1 x unreadable: Invalid data"):
        run([tmp_path], tmp_path / "out")


def test_clip_names_are_never_shared():
    taken = {"a-1", "b", "c-1234abcd"}
    assert free_name(Path("in/a-2.mp4"), taken) == "a-2" and free_name(Path("in/c.mp4"), taken) == "c"
    # a cut in a.mp4 would give "a-1"
    assert re.fullmatch("a-[0-9a-f]{8}", free_name(Path("in/a.mp4"), taken))
    assert free_name(Path("in/b.mp4"), taken) != free_name(Path("other/b.mp4"), taken)


def test_an_encode_of_another_shape_is_refused(tmp_path, people):
    write_video(tmp_path / "one.mp4", people[0], 12)
    with pytest.raises(ValueError, match=r"encode: gave \(18, 3, 16, 16\) for 18 frames of 16 px"):
        run([tmp_path / "one.mp4"], tmp_path / "out", encode=lambda frames: frames.permute(0, 3, 1, 2))


def test_split_is_by_file_and_leaves_both_sides_something():
    names = [f"/x/{i}.mp4" for i in range(200)]
    split = split_files(names, 0.1)
    assert split == split_files(names[::-1], 0.1)
    elsewhere = split_files([name.replace("/x/", "/y/z/") for name in names], 0.1)
    assert list(elsewhere.values()) == list(split.values())
    assert 8 <= sum(side == "holdout" for side in split.values()) <= 35
    assert sorted(split_files(names[:2], 0.1).values()) == ["holdout", "train"]
    assert sorted(split_files(names[:2], 0.99).values()) == ["holdout", "train"]
    assert list(split_files(names[:1], 0.9).values()) == ["train"]
    assert set(split_files(names, 0).values()) == {"train"}


def test_a_full_disk_keeps_what_is_done(tmp_path):
    """A size limit on files stands in for the disk; the limit is for a process, hence the second one."""
    script = f"""
import resource, signal, torch
from pathlib import Path
from entprog.prepare.store import Store
store = Store(Path({str(tmp_path / "out")!r}), {{"sizes": [16], "fps": 12.0}})
def clip(name, n):
    row = {{"source": name, "name": name, "status": "kept", "reason": None, "clips": [name]}}
    return row, {{name: {{"latents_16": torch.zeros(n, 16, 4, 4).half(), "pose": torch.zeros(n, 18, 3)}}}}
store.add(*clip("a", 4))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
try:
    store.add(*clip("b", 400))
except OSError as error:
    print(error)
"""
    done = processes.run(["-c", script])
    assert done.returncode == 0, done.stderr
    assert "no space left to write the data set" in done.stdout and "run the same command again" in done.stdout
    assert [path.name for path in (tmp_path / "out" / "parts").iterdir()] == ["a.safetensors"]
    store = Store(tmp_path / "out", {"sizes": [16], "fps": 12.0})
    assert [row["name"] for row in store.rows] == ["a"]
    assert [row.clip for row in store.finish(CODEC, 0.0)] == ["a"]


def test_other_errors_of_the_system_pass_unchanged(tmp_path):
    with pytest.raises(PermissionError), full_disk_reported(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(OSError, match="no space left") as caught, full_disk_reported(tmp_path):
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.errno == errno.ENOSPC
