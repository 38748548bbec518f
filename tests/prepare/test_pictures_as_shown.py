"""Pictures of the report and the studio, and photos, show what a player shows: HDR as SDR, alpha over grey."""

import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from data_sets import data_set, numbered, rows_in, write_rows
from entprog.prepare.colour import HLG, PQ
from entprog.prepare.contact_sheet import DataSet, frames_with_poses
from entprog.prepare.crop import crop
from entprog.prepare.image import read_image
from entprog.prepare.pictures import Budget, frames_at, poster, resized, with_pose
from entprog.prepare.video import Video
from tiny_videos import bars, encode, frame_of, tag, yuv

COUNT = 24


def hdr(transfer: int) -> Any:
    def write(path: Path) -> Path:
        frames = [
            frame_of(yuv(bars() / 255 * (0.4 + n / COUNT / 5), 9, False, 10), "yuv420p10le") for n in range(COUNT)
        ]
        return encode(path, frames, "ffv1", "yuv420p10le", matrix=9, full=False, transfer=transfer, primaries=9)

    return write


def cut_out(path: Path, codec: str, name: str) -> Path:
    """People cut out of their background: what is transparent has a hidden colour."""
    frames = []
    for n in range(COUNT):
        alpha = np.zeros((48, 64, 1), np.uint8)
        alpha[8:40, 10 + n % 8 : 40 + n % 8] = 255
        hidden = np.where(alpha > 0, bars(), np.array((0, 250, 0), np.uint8))
        frames.append(np.dstack([hidden, alpha]))
    return encode(path, frames, codec, name)


def interlaced(path: Path) -> Path:
    """Two fields of different times in a frame: the lines of a bar that moves are combed."""
    frames = []
    for n in range(COUNT):
        pixels = np.full((48, 64, 3), 60, np.uint8)
        for field in (0, 1):
            pixels[field::2, 8 + (n % 8) * 4 + field * 2 :][:, :12] = 220
        frames.append(pixels)
    options = {"flags": "+ildct+ilme", "top": "1"}
    return encode(path, frames, "mpeg2video", "yuv420p", rate=25, options=options)


KINDS = {
    "HLG": ("a.mkv", hdr(HLG)),
    "PQ": ("a.mkv", hdr(PQ)),
    "alpha in FFV1": ("a.mkv", lambda path: cut_out(path, "ffv1", "bgra")),
    "alpha in VP9": ("a.webm", lambda path: cut_out(path, "libvpx-vp9", "yuva420p")),
    "alpha in a GIF": ("a.gif", lambda path: cut_out(path, "gif", "rgb8")),
    "interlaced": ("a.mpg", interlaced),
}


def difference(one: np.ndarray, two: np.ndarray) -> float:
    assert one.shape == two.shape
    return float(np.abs(one.astype(int) - two).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_frames_read_by_seeking_and_posters_are_as_a_player_shows_them(kind: str, tmp_path: Path) -> None:
    name, write = KINDS[kind]
    path = write(tmp_path / name)
    video = Video(path)
    shown = list(video)
    assert video.notes or kind == "alpha in a GIF"
    wanted = [0, 3, 11, 20]
    within = 3 if kind == "interlaced" else 0  # a frame is deinterlaced by those around it, which a seek leaves out
    for decoded in (COUNT, 9999):
        found = frames_at(path, wanted, fps=video.fps, short_side=48, decoded=decoded, budget=Budget(60))
        assert list(found) == wanted
        for number, frame in found.items():
            assert difference(frame, shown[number]) <= within, f"{number} of {decoded}"
    picture = poster(path, short_side=48)
    assert picture is not None and min(difference(picture, frame) for frame in shown) <= within


@pytest.mark.parametrize(
    ("name", "codec", "pixels"), [("a.png", "png", "rgb48be"), ("a.avif", "libsvtav1", "yuv420p10le")]
)
@pytest.mark.parametrize("transfer", [HLG, PQ])
def test_hdr_photos_are_shown_as_sdr(name: str, codec: str, pixels: str, transfer: int, tmp_path: Path) -> None:
    """A frame of an HDR video that was saved as a picture looks as the video does."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    tags = {"transfer": transfer, "primaries": 9}
    signal = np.round(bars(side=32) / 255 * 0.6 * 65535).astype(np.uint16)
    frame = av.VideoFrame.from_ndarray(signal, format="rgb48le")
    video = encode(tmp_path / "a.mkv", [frame.reformat(format="gbrp12le")], "ffv1", "gbrp12le", matrix=0, **tags)
    if name.endswith("png"):
        saved, matrix = frame.reformat(format=pixels), 0
    else:
        saved, matrix = frame_of(yuv(signal / 65535, 9, False, 10), pixels), 9
    options = {} if codec == "png" else {"crf": "4", "preset": "8"}
    muxing = {"update": "1"} if codec == "png" else {}
    kind = "image2" if codec == "png" else "avif"
    with av.open(str(tmp_path / name), "w", format=kind, options=muxing) as container:
        stream = container.add_stream(codec, rate=1, options=options)
        stream.width, stream.height, stream.pix_fmt = saved.width, saved.height, pixels
        for target in (stream.codec_context, saved):
            tag(target, matrix=matrix, full=codec == "png", **tags)
        saved.pts = 0
        container.mux(stream.encode(saved))
        container.mux(stream.encode(None))
    shown = next(iter(Video(video)))
    assert difference(read_image(tmp_path / name), shown) < (1 if codec == "png" else 3)
    Image.fromarray(bars()).save(tmp_path / "sdr.png")
    np.testing.assert_array_equal(read_image(tmp_path / "sdr.png"), bars())


@pytest.mark.parametrize("transfer", [HLG, PQ])
def test_an_hdr_photo_is_turned_by_its_exif(transfer: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(bars()).save(tmp_path / "a.png", exif=exif.tobytes())
    usual, content = read_image(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()
    chunk = b"cICP" + bytes([9, transfer, 0, 1])
    chunk = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    shown = read_image(tmp_path / "a.png")
    assert shown.shape == usual.shape == (64, 48, 3) and not np.array_equal(shown, usual)
    lit = usual.max(-1) == 255
    assert shown[lit].max(-1).min() > shown[usual.max(-1) < 128].max(-1).max(), "the same squares in the same places"


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_motion_jpeg_whose_frames_have_exif(turn: int, tmp_path: Path) -> None:
    """As cameras write it; PyAV 18 does not know this kind of data beside a frame."""
    exif = Image.Exif()
    exif[0x112] = turn
    Image.fromarray(bars()).save(tmp_path / "a.jpg", quality=95, subsampling="4:2:0", exif=exif.tobytes())
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(3):
            packet = av.Packet((tmp_path / "a.jpg").read_bytes())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 10)
            packet.is_keyframe = True
            container.mux(packet)
    shown = list(Video(tmp_path / "a.avi"))
    assert len(shown) == 3 and difference(shown[0], read_image(tmp_path / "a.jpg")) < 5


@pytest.mark.parametrize("kind", ["HLG", "alpha in FFV1"])
def test_clips_in_the_report_are_as_a_player_shows_them(kind: str, tmp_path: Path) -> None:
    out = data_set(tmp_path, {"one": numbered(30)})
    path = KINDS[kind][1](tmp_path / "a.mkv")
    row = rows_in(out)[0] | {"source": str(path), "size": [64, 48], "crops": {"one": [8, 0, 48]}}
    row["pieces"][0] |= {"start": 2, "end": 14}
    write_rows(out, [row])
    data = DataSet(out)
    data.codec = type("Other", (), {"hash": "of another codec"})()  # so that only the source is shown
    found, note = frames_with_poses(data, "one", [0, 5], height=48, budget=Budget(60))
    assert found is not None and note == ""
    shown = resized(np.stack([crop(frame, (8, 0, 48)) for frame in Video(path, fps=12)]), 48)[[2, 7]]
    np.testing.assert_array_equal(found, with_pose(shown, data.stored.pose(data.stored.rows[0], 0, 1).repeat(2, 0)))
