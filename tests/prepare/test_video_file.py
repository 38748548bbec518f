"""Streams, damage, and files that are no video: a table of bad input."""

import errno
import os
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from entprog.prepare import video_file
from entprog.prepare.video import EXTENSIONS, Video, VideoError, looks_like_video
from tiny_videos import encode, ramp

CONTAINERS = {
    "a.mp4": ("libx264", "yuv420p"), "a.mov": ("mpeg4", "yuv420p"), "a.m4v": ("libx264", "yuv420p"),
    "a.mkv": ("libx265", "yuv420p"), "a.webm": ("libvpx-vp9", "yuv420p"), "a.avi": ("mjpeg", "yuvj420p"),
    "a.MTS": ("libx264", "yuv420p"), "a.m2ts": ("mpeg2video", "yuv420p"), "a.ts": ("libx264", "yuv420p"),
    "a.mpg": ("mpeg2video", "yuv420p"), "a.vob": ("mpeg2video", "yuv420p"), "a.wmv": ("wmv2", "yuv420p"),
    "a.flv": ("flv", "yuv420p"), "a.3gp": ("mpeg4", "yuv420p"), "a.gif": ("gif", "rgb8"),
    "a.apng": ("apng", "rgb24"), "a.mxf": ("mpeg2video", "yuv420p"), "a.y4m": ("rawvideo", "yuv420p"),
    "a.nut": ("ffv1", "yuv444p"), "b.webm": ("libsvtav1", "yuv420p"),
}  # fmt: skip
QUIET = {"libx265": {"x265-params": "log-level=none:pools=none:frame-threads=1"}, "libsvtav1": {"preset": "12"}}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_common_container(tmp_path, name):
    codec, pixels = CONTAINERS[name]
    frames = ramp(12, 64, 96)
    path = encode(tmp_path / "made", frames, codec, pixels, rate=25, options=QUIET.get(codec), format_of=name)
    path = path.rename(tmp_path / name)
    video = Video(path)
    shown = list(video)
    assert len(shown) == 12 == video.decoded and video.size == (96, 64) and not video.sound
    assert np.abs(np.stack(shown).astype(int) - frames).mean() < (16 if name == "a.gif" else 4)
    assert looks_like_video(path) and path.suffix.lower() in EXTENSIONS


def two_streams(path, sizes, default=None, cover=False):
    with av.open(str(path), "w") as container:
        streams = []
        for number, (width, height) in enumerate(sizes):
            stream = container.add_stream("mjpeg" if cover and number == 0 else "libx264", rate=10)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuvj420p" if cover and number == 0 else "yuv420p"
            if default is not None:
                stream.disposition = av.stream.Disposition.default if number == default else 0
            if cover and number == 0:
                stream.disposition = av.stream.Disposition.attached_pic
            streams.append(stream)
        for number in range(4):
            for stream in streams:
                if cover and stream is streams[0] and number:
                    continue
                frame = av.VideoFrame.from_ndarray(ramp(4, stream.height, stream.width)[number], format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "sizes", "default", "chosen", "why"),
    [
        ("a.mkv", [(32, 32), (96, 64)], None, (96, 64), "2 of 2 used, marked as default|2 of 2 used, the largest"),
        ("a.mkv", [(96, 64), (32, 32)], 1, (32, 32), "2 of 2 used, marked as default"),
        ("a.mp4", [(32, 32), (96, 64)], 1, (96, 64), "2 of 2 used, marked as default"),
        ("a.mp4", [(32, 32), (96, 64), (64, 64)], None, (32, 32), "1 of 3 used, marked as default"),
        ("a.mkv", [(32, 32), (96, 64)], 0, (32, 32), "1 of 2 used, marked as default"),
    ],
)
def test_the_stream_that_a_player_chooses(tmp_path, name, sizes, default, chosen, why):
    video = Video(two_streams(tmp_path / name, sizes, default))
    assert len(list(video)) == 4 and video.size == chosen
    assert any(part in video.notes[0] for part in why.split("|"))


def test_a_cover_picture_is_not_the_video(tmp_path):
    video = Video(two_streams(tmp_path / "a.mp4", [(200, 200), (96, 64)], cover=True))
    assert len(list(video)) == 4 and video.size == (96, 64) and video.notes == []


def sound_only(path):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def image(kind):
    return lambda path: Image.fromarray(ramp(1)[0]).save(path, format=kind)


def truncated(path):
    data = encode(path.with_name("whole.mp4"), ramp(12), "libx264", "yuv420p").read_bytes()
    path.write_bytes(data[: len(data) // 2])


def one_codec_unknown(path):
    data = encode(path.with_name("whole.avi"), ramp(12), "mjpeg", "yuvj420p").read_bytes()
    path.write_bytes(data.replace(b"MJPG", b"QQ9Q"))


BAD = {
    "missing": (lambda path: None, "it does not exist"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "a link to a file that does not exist"),
    "loop of links": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "zero bytes": (lambda path: path.write_bytes(b""), "Invalid data: the file is empty, 0 bytes"),
    "noise": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "Invalid data"),
    "text": (lambda path: path.write_text("a, b, c\n" * 50), "Invalid data"),
    "truncated": (truncated, "Invalid data"),
    "sound only": (sound_only, "no video in it, only sound"),
    "PNG": (image("PNG"), r"a picture \(PNG\), not a video"),
    "JPEG": (image("JPEG"), r"a picture \(JPEG\), not a video"),
    "WebP": (image("WEBP"), r"a picture \(WEBP\), not a video"),
    "BMP": (image("BMP"), r"a picture \(BMP\), not a video"),
    "TIFF": (image("TIFF"), r"a picture \(TIFF\), not a video"),
    "codec": (one_codec_unknown, "its video codec is not known|none of its frames can be decoded"),
    "folder": (lambda path: path.mkdir(), "a folder without numbered pictures"),
    "pipe": (os.mkfifo, "not a file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_video_has_a_reason(tmp_path, kind):
    make, reason = BAD[kind]
    path = tmp_path / "sub" / "a.mp4"
    path.parent.mkdir()
    make(path)
    for options in ({}, {"fps": 12, "short_side": 32}):
        with pytest.raises(VideoError, match=reason) as caught:
            list(Video(path, **options))
        assert str(tmp_path) not in caught.value.reason and "\n" not in caught.value.reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = encode(tmp_path / "a.mp4", ramp(2), "libx264", "yuv420p")
    path.chmod(0)
    with pytest.raises(VideoError, match="Permission denied"):
        list(Video(path))


@pytest.mark.parametrize(
    "error", [RuntimeError("odd"), KeyError("odd"), UnicodeDecodeError("utf-8", b"", 0, 1, "odd"), TypeError("odd"),
              OSError(errno.EIO, "odd"), ZeroDivisionError("odd")],
)  # fmt: skip
def test_whatever_a_library_raises_is_a_reason(tmp_path, monkeypatch, error):
    path = encode(tmp_path / "a.mkv", ramp(4))

    def broken(*given):
        raise error

    monkeypatch.setattr(video_file, "describe", broken)
    with pytest.raises(VideoError, match="odd"):
        list(Video(path))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError(errno.ENOSPC, "full")])
def test_what_is_no_fault_of_the_file_passes(tmp_path, monkeypatch, error):
    path = encode(tmp_path / "a.mkv", ramp(4))

    def broken(*given):
        raise error

    monkeypatch.setattr(video_file, "describe", broken)
    with pytest.raises(type(error)) as caught:
        list(Video(path))
    assert not isinstance(caught.value, VideoError)


@pytest.mark.parametrize(
    "name", ["a b.mkv", "grüße 舞.mkv", "at 12:30.mkv", "http:x.mkv", "%03d.mkv", "'\"$.mkv", "-i.mkv"]
)
def test_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.mkv").unlink(missing_ok=True)
    encode(tmp_path / "made.mkv", ramp(3)).rename(tmp_path / name)
    assert len(list(Video(name))) == 3


def test_a_name_that_is_not_utf8(tmp_path):
    encode(tmp_path / "made.mkv", ramp(3))
    os.rename(os.fsencode(tmp_path / "made.mkv"), os.fsencode(tmp_path) + b"/caf\xe9.mkv")
    (path,) = tmp_path.glob("caf*")
    assert len(list(Video(path))) == 3


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_metadata_in_another_encoding(tmp_path, name):
    codec = ("libx264", "yuv420p") if name != "a.avi" else ("mpeg4", "yuv420p")
    with av.open(str(tmp_path / name), "w") as container:
        container.metadata["title"] = "cafXYZ"
        stream = container.add_stream(codec[0], rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for array in ramp(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
    data = (tmp_path / name).read_bytes()
    assert b"cafXYZ" in data
    (tmp_path / name).write_bytes(data.replace(b"cafXYZ", b"caf\xe9\xe8\xff"))
    video = Video(tmp_path / name)
    assert len(list(video)) == 4 and video.notes == ["metadata not UTF-8"]


def noisy(count=60):
    rng = np.random.default_rng(1)
    base = rng.integers(0, 255, (96, 160, 3), dtype=np.uint8)
    return [np.roll(base, 2 * number, 1) for number in range(count)]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "mpeg2video")])
def test_damaged_frames_are_left_out_and_said(tmp_path, name, codec):
    options = {"g": "15", "bf": "0"} | ({"keyint_min": "15", "sc_threshold": "0"} if codec == "libx264" else {})
    path = encode(tmp_path / name, noisy(), codec, "yuv420p", rate=25, options=options)
    whole = list(Video(path))
    data = bytearray(path.read_bytes())
    middle, length = len(data) // 2, len(data) // 30
    data[middle : middle + length] = bytes(length)
    path.write_bytes(data)
    video = Video(path)
    frames = list(video)
    assert 25 <= len(frames) < 60 and len(whole) == 60
    assert any("corrupt frames left out" in note for note in video.notes) and len(video.breaks) >= 1
    exact = {frame.tobytes() for frame in whole}
    assert all(frame.tobytes() in exact for frame in frames)  # nothing is returned that was smeared
    assert np.array_equal(frames, list(video))


def test_a_file_that_ends_early(tmp_path):
    path = encode(
        tmp_path / "a.mp4", noisy(40), "libx264", "yuv420p", rate=25,
        options={"g": "5"}, muxing={"movflags": "+faststart"},
    )  # fmt: skip
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    video = Video(path)
    count = len(list(video))
    assert 15 <= count < 30 and any(note.startswith("the file ends after") for note in video.notes)


def test_an_edit_list_is_followed(tmp_path):
    """Packets before the first shown frame, as cutting without encoding leaves them."""
    source = encode(tmp_path / "a.mp4", ramp(24), "libx264", "yuv420p", options={"g": "8", "bf": "2"})
    with av.open(str(source)) as given, av.open(str(tmp_path / "b.mp4"), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                shift = int(1.1 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                made.mux(packet)
    frames = list(Video(tmp_path / "b.mp4"))
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert len(frames) == sum(1 for _ in container.decode(video=0)) and len(frames) < 24


def test_a_playlist_does_not_reach_the_network(tmp_path):
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(VideoError):
        list(Video(tmp_path / "a.mp4"))


def poster_first(path, count=8):
    """A still picture of one frame, marked as default, before a smaller video."""
    with av.open(str(path), "w") as out:
        still, video = out.add_stream("mjpeg", rate=12), out.add_stream("mpeg4", rate=12)
        still.width, still.height, still.pix_fmt = 128, 96, "yuvj420p"
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for stream, frames in ((still, ramp(1, 96, 128)), (video, ramp(count))):
            for k, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                picture.pts = k
                out.mux(stream.encode(picture))
            out.mux(stream.encode())
    return path


def test_a_video_comes_before_a_still_picture(tmp_path):
    video = Video(poster_first(tmp_path / "a.mp4"))
    assert len(list(video)) == 8
    assert "video stream 2 of 2 used, the only one of several frames" in video.notes


def test_an_encrypted_file_is_called_that(tmp_path):
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0" * 32, "encryption_kid": "1" * 32}
    with av.open(str(tmp_path / "a.mp4"), "w", options=options) as out:
        stream = out.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in ramp(8):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    with pytest.raises(VideoError, match="encrypted"):
        list(Video(tmp_path / "a.mp4"))


@pytest.mark.parametrize("packets,end,duration,cut", [
    (60, 60, 60, False), (24, 24, 60, True), (60, 108, 108, False), (24, 24, None, True),
])  # fmt: skip
def test_a_file_is_cut_where_packets_and_time_end_early(packets, end, duration, cut):
    """Not where an edit list hides frames, nor where an AVI has pauses in the place of frames."""
    stream = SimpleNamespace(frames=108 if end == 108 else 60, start_time=0, duration=duration)
    assert video_file._cut(stream, video_file.Facts(packets=packets, end=end)) == cut
