"""Videos written frame by frame, with the sound of another file."""

from fractions import Fraction

import av
import numpy as np
import pytest

from entprog.prepare.video import Video, VideoWriter, read_video, write_video
from tiny_videos import bars, ramp

RATE = 48000


def clip_with_sound(path, codec="aac", seconds=4.0, video=True, silent_until=2.0, late=0.0, layout="stereo"):
    """A video of `seconds`; its sound is silent at first and then a tone of 1 kHz."""
    with av.open(str(path), "w") as container:
        if video:
            stream = container.add_stream("mpeg4" if path.suffix != ".webm" else "libvpx", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=RATE, layout=layout)
        if video:
            for number in range(round(seconds * 10)):
                frame = av.VideoFrame.from_ndarray(ramp(1)[0], format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        time = late + np.arange(round((seconds - late) * RATE)) / RATE
        tone = (0.5 * np.sin(2000 * np.pi * time) * (time >= silent_until)).astype(np.float32)
        channels = 2 if layout == "stereo" else 1
        frame = av.AudioFrame.from_ndarray(tone[None].repeat(channels, 0), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = RATE, round(late * RATE), Fraction(1, RATE)
        resampled = av.AudioResampler(sound.format.name, layout, RATE).resample(frame)
        for piece in resampled:
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    return path


def heard(path):
    """When the tone begins, and seconds of sound and of video in a file."""
    with av.open(str(path)) as container:
        pieces = []
        for frame in container.decode(audio=0):
            samples = np.abs(frame.to_ndarray())  # [channels, samples], or [1, samples * channels] of packed formats
            packed = 1 if frame.format.is_planar else len(frame.layout.channels)
            pieces.append((frame.time, samples[:, ::packed].max(0)))
        rate = container.streams.audio[0].rate
    begin = next((time + int(np.argmax(piece > 0.1)) / rate for time, piece in pieces if piece.max() > 0.1), None)
    end = pieces[-1][0] + len(pieces[-1][1]) / rate
    video = Video(path)
    return begin, end, len(list(video)) / video.fps


def written(path, source, count=30, start=0.0, fps=10):
    with VideoWriter(path, (64, 48), fps, sound=source, sound_start=start) as writer:
        for frame in ramp(count):
            writer.add(frame)
    return writer


SOURCES = {
    "a.mp4": ("aac", "aac"), "b.mp4": ("libmp3lame", "mp3float"), "a.mkv": ("libopus", "opus"),
    "b.mkv": ("pcm_s16le", "aac"), "c.mkv": ("flac", "aac"), "a.mov": ("pcm_s16le", "aac"), "a.ts": ("aac", "aac"),
    "b.ts": ("mp2", "aac"), "a.mp3": ("libmp3lame", "mp3float"), "a.wav": ("pcm_s16le", "aac"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_sound_is_kept_where_it_was(tmp_path, name):
    codec, expected = SOURCES[name]
    source = clip_with_sound(tmp_path / name, codec, video=name[-3:] not in ("mp3", "wav"))
    for start, begin in ((0.0, 2.0), (0.75, 1.25)):
        writer = written(tmp_path / "out.mp4", source, start=start)
        assert writer.notes == [] and writer.frames == 30
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert container.streams.audio[0].codec_context.name in (expected, expected.removesuffix("float"))
        at, end, length = heard(tmp_path / "out.mp4")
        assert length == 3 and abs(at - begin) < 0.06 and abs(end - 3) < 0.06


def test_sound_that_begins_late_or_ends_early(tmp_path):
    source = clip_with_sound(tmp_path / "a.mkv", "pcm_s16le", late=1.5, silent_until=0)
    written(tmp_path / "out.mp4", source)
    assert abs(heard(tmp_path / "out.mp4")[0] - 1.5) < 0.05
    source = clip_with_sound(tmp_path / "b.mp4", "aac", seconds=1.0, silent_until=0)
    written(tmp_path / "out.mp4", source)
    assert heard(tmp_path / "out.mp4")[1] < 1.2 and heard(tmp_path / "out.mp4")[2] == 3
    writer = written(tmp_path / "out.mp4", source, start=2.0)
    assert writer.notes == ["no sound in b.mp4 at that time"] and len(list(Video(tmp_path / "out.mp4"))) == 30


def test_a_file_without_sound(tmp_path):
    write_video(tmp_path / "a.mp4", ramp(4), 10)
    assert not Video(tmp_path / "a.mp4").sound
    writer = written(tmp_path / "out.mp4", tmp_path / "a.mp4")
    assert writer.notes == ["no sound in a.mp4"] and len(list(Video(tmp_path / "out.mp4"))) == 30
    (tmp_path / "b.mp4").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"sound = '.*b.mp4': .*; give a file with sound"):
        written(tmp_path / "out2.mp4", tmp_path / "b.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "out.mp4"]


def test_the_reader_says_that_there_is_sound(tmp_path):
    video = Video(clip_with_sound(tmp_path / "a.mp4"))
    list(video)
    assert video.sound and video.held


@pytest.mark.parametrize("size", [(64, 48), (1280, 960)])
def test_colours_are_tagged_and_come_back(tmp_path, size):
    picture = bars(side=size[0] // 4)
    write_video(tmp_path / "a.mp4", picture[None].repeat(2, 0), 10)
    frames, _ = read_video(tmp_path / "a.mp4")
    step = size[0] // 64
    middles = (slice(8 * step, None, 16 * step),) * 2
    assert np.abs(frames[1][middles].astype(int) - picture[middles]).max() <= 5
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)


def test_nothing_is_left_of_a_video_that_failed(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"old")
    with pytest.raises(KeyError), VideoWriter(tmp_path / "a.mp4", (64, 48), 10) as writer:
        writer.add(ramp(1)[0])
        raise KeyError("stop")
    with pytest.raises(ValueError, match="frames: none were added"), VideoWriter(tmp_path / "a.mp4", (64, 48), 10):
        pass
    wrong = pytest.raises(ValueError, match=r"frame: uint8 \(48, 64, 3\); give uint8 \(32, 64, 3\)")
    with wrong, VideoWriter(tmp_path / "a.mp4", (64, 32), 10) as writer:
        writer.add(ramp(1)[0])
    assert (tmp_path / "a.mp4").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_odd_sizes(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", (33, 17), 29.97) as writer:
        for frame in ramp(3, 17, 33):
            writer.add(frame)
    frames, fps = read_video(tmp_path / "a.mp4")
    assert frames.shape == (3, 18, 34, 3) and abs(fps - 29.97) < 0.01
