"""Which frames of a file are returned when, and what is said of it."""

import av
import numpy as np
import pytest
from PIL import Image

from entprog.prepare import video_file
from entprog.prepare.video import Video, VideoError, read_video
from tiny_videos import encode, numbers, ramp


def moving(count, height=48, width=64):
    """Frames with a bright column that moves: no two neighbours are alike."""
    frames = np.full((count, height, width, 3), 30, np.uint8)
    for number, frame in enumerate(frames):
        frame[:, (5 * number) % width :][:, :8] = 200
    return frames


def lossless(path, frames, **options):
    return encode(path, frames, "ffv1", "bgr0", **options)


def test_reading_twice_gives_the_same(tmp_path):
    path = lossless(tmp_path / "a.mkv", ramp(12))
    video = Video(path, fps=12)
    first, notes, breaks = list(video), video.notes, video.breaks
    second = list(video)
    assert len(first) == 14 and np.array_equal(first, second) and (notes, breaks) == (video.notes, video.breaks)
    assert np.array_equal(first, list(Video(path, fps=12)))


def test_the_decoded_frame_last_returned(tmp_path):
    path = lossless(tmp_path / "a.mkv", ramp(12))
    video = Video(path, fps=5)
    assert [(video.index, *numbers([frame])) for frame in video] == [(n, n) for n in range(0, 12, 2)]


@pytest.mark.parametrize("pause", [2.1, 4.4, 3600, -3])
def test_a_pause_is_cut_out_and_said(tmp_path, pause):
    stamps = [100 * n + (n >= 10) * (100 + round(1000 * abs(pause))) for n in range(20)]
    video = Video(lossless(tmp_path / "a.mkv", moving(20), stamps=stamps), fps=10, longest_pause=2.0)
    frames = list(video)
    assert len(frames) == 19  # the usual interval of this file is 1 ms, so frame 10 falls between two instants
    (cut,) = video.breaks
    assert cut == 10 and np.array_equal(frames[cut], moving(20)[11])
    assert [note for note in video.notes if note.startswith("pause of")] == [
        f"pause of {abs(pause) + 0.2:.1f} s cut at 0.9 s"
    ]
    assert video.skipped(cut - 1) == 0 and video.skipped(cut) == pytest.approx(abs(pause) + 0.2, abs=0.11)


def test_a_pause_is_kept_for_those_who_need_the_whole_length(tmp_path):
    stamps = [100 * n + 4000 * (n >= 10) for n in range(20)]
    video = Video(lossless(tmp_path / "a.mkv", moving(20), stamps=stamps), fps=10, longest_pause=60)
    assert len(list(video)) == 60 and video.breaks == [] and video.held == [] and video.repeated == 40
    assert video.notes == ["40 of 60 frames repeat the one before (3.22 frames a second in the file)"]


def test_a_picture_that_is_held_in_the_stream_ends_the_motion(tmp_path):
    """As screen recorders do it: a constant rate, the same picture again and again."""
    frames = moving(20)
    held = np.concatenate([frames[:10], frames[9:10].repeat(30, 0), frames[10:]])
    video = Video(encode(tmp_path / "a.mp4", held, "libx264", "yuv444p"), fps=10)
    # the encoder refines the first held frame once more
    assert len(list(video)) == 50 and video.held == [(11, 40)] and video.breaks == [11, 40]
    assert video.notes == ["picture held for 2.9 s at 1.1 s", "29 of 50 frames repeat the one before"]
    still = Video(encode(tmp_path / "b.mp4", frames[:1].repeat(30, 0), "libx264", "yuv444p"), fps=10)
    assert len(list(still)) == 30 and still.held == [(1, 30)]


@pytest.mark.parametrize(("rate", "share"), [(2, 5 / 6), (4, 2 / 3), (6, 1 / 2), (10, 1 / 6), (12, 0), (24, 0)])
def test_repeats_of_a_low_rate_are_counted(tmp_path, rate, share):
    video = Video(lossless(tmp_path / "a.mkv", moving(4 * rate), rate=rate), fps=12)
    count = len(list(video))
    assert abs(video.repeated / count - share) < 0.05 and video.breaks == []
    said = f"{video.repeated} of {count} frames repeat the one before ({rate} frames a second in the file)"
    assert video.notes == ([said] if share else [])


def test_a_slow_fade_is_no_repeat(tmp_path):
    frames = (np.arange(40, dtype=np.uint8) * 2)[:, None, None, None] + np.zeros((40, 48, 64, 3), np.uint8)
    video = Video(lossless(tmp_path / "a.mkv", frames), fps=10)
    list(video)
    assert video.repeated <= 20 and video.held == []


def test_frames_without_times_follow_the_rate(tmp_path):
    path = encode(tmp_path / "a.h264", moving(20), "libx264", "yuv420p", rate=25, options={"bf": "0"})
    with av.open(str(path)) as container:
        assert all(frame.pts is None for frame in container.decode(video=0))
    assert len(list(Video(path, fps=12))) == 10


def test_times_that_go_back(tmp_path, monkeypatch):
    path = lossless(tmp_path / "a.mkv", moving(8))
    whole = video_file._decode

    def changed(*given):
        for decoded, time in zip(whole(*given), [5.0, 5.1, 5.05, 5.2, 0.0, 0.1, -0.2, -0.1], strict=True):
            yield video_file.Decoded(decoded.frame, decoded.index, time)

    monkeypatch.setattr(video_file, "_decode", changed)
    video = Video(path, fps=10)
    assert 8 <= len(list(video)) <= 9 and video.breaks == [4] and video.start == 5.0


def test_a_start_that_is_not_zero(tmp_path):
    path = lossless(tmp_path / "a.mkv", moving(8), stamps=[7000 + 100 * n for n in range(8)])
    video = Video(path, fps=10)
    assert len(list(video)) == 8 and video.start == 7 and video.notes == []


def test_a_folder_of_numbered_pictures(tmp_path):
    for number, frame in enumerate(ramp(12)):
        Image.fromarray(frame).save(tmp_path / f"frame_{number + 8}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    video = Video(tmp_path, fps=12, rate=24)
    assert numbers(video) == list(range(0, 12, 2)) and video.decoded == 12 and video.size == (64, 48)
    assert numbers(Video(tmp_path)) == list(range(12)) and read_video(tmp_path)[1] == 30
    Image.fromarray(ramp(1)[0]).save(tmp_path / "cover.png")
    with pytest.raises(VideoError, match="a folder without numbered pictures"):
        list(Video(tmp_path))


def test_bad_arguments():
    for options in ({"fps": 0}, {"rate": float("nan")}, {"longest_pause": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: .*give a number above 0"):
            Video("a.mp4", **options)


@pytest.mark.slow
def test_ten_thousand_frames(tmp_path):
    frames = moving(13, 16, 16)
    path = encode(tmp_path / "a.mp4", [frames[n % 13] for n in range(10_000)], "libx264", "yuv420p", rate=30)
    video = Video(path, fps=12)
    assert sum(1 for _ in video) == 4000 and video.decoded == 10_000
