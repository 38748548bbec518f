"""The picture of a frame is the one that a player shows, over a grid of what streams can carry."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from entprog.prepare.picture import orientation, oriented
from entprog.prepare.video import Video
from tiny_videos import bars, encode, frame_of, ramp, yuv

FORMATS = ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le", "yuv444p12le"]


def depth(name):
    return av.VideoFormat(name).components[0].bits


def middles(picture):
    """The middles of the squares of `bars`, where no neighbour's chroma reaches."""
    return picture[8::16, 8::16].astype(int)


def first(path, **options):
    return next(iter(Video(path, **options)))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_matrix_range_depth_and_subsampling(tmp_path, matrix, full, name):
    frame = frame_of(yuv(bars() / 255, matrix, full, depth(name)), name)
    path = encode(tmp_path / "a.mkv", [frame], "ffv1", name, matrix=matrix, full=full, transfer=1, primaries=1)
    assert np.abs(middles(first(path)) - middles(bars())).max() <= (3 if depth(name) == 8 else 1)


@pytest.mark.parametrize("name", FORMATS)
def test_reduced_frames_have_the_same_colours(tmp_path, name):
    frame = frame_of(yuv(bars(side=64) / 255, 1, False, depth(name)), name)
    path = encode(tmp_path / "a.mkv", [frame], "ffv1", name, matrix=1, full=False, transfer=1, primaries=1)
    assert np.abs(middles(first(path, short_side=48)) - middles(bars())).max() <= 1


@pytest.mark.parametrize(
    ("width", "height", "matrix"), [(640, 480, 6), (720, 576, 6), (1280, 720, 1), (608, 1080, 1), (704, 592, 1)]
)
def test_a_matrix_that_is_not_given_is_guessed_from_the_size(tmp_path, width, height, matrix):
    picture = np.full((height, width, 3), (200, 30, 40), np.uint8)
    frame = frame_of(yuv(picture / 255, matrix, False, 8), "yuv420p")
    path = encode(tmp_path / "a.mkv", [frame], "ffv1", "yuv420p")
    assert np.abs(first(path)[::40, ::40].astype(int) - picture[0, 0]).max() <= 3


@pytest.mark.parametrize("name", ["gray", "gray10le", "gray16le"])
def test_grey(tmp_path, name):
    picture = np.arange(0, 256, 4, dtype=np.uint8)[None, :, None].repeat(48, 0).repeat(3, 2)
    path = encode(tmp_path / "a.mkv", [picture], "ffv1", name)
    assert np.abs(first(path).astype(int) - picture).max() <= 2
    limited = np.round(picture[..., 0] * (219 / 255) + 16)
    path = encode(tmp_path / "b.mkv", [frame_of([limited], "gray")], "ffv1", "gray", full=False)
    assert np.abs(first(path).astype(int) - picture).max() <= 2


ALPHA = {
    "a.webm": ("libvpx-vp9", "yuva420p"),
    "b.webm": ("libvpx", "yuva420p"),
    "a.mov": ("prores_ks", "yuva444p10le"),
    "b.mov": ("qtrle", "argb"),
    "c.mov": ("png", "rgba"),
    "a.mkv": ("ffv1", "yuva420p"),
    "b.mkv": ("ffv1", "bgra"),
    "a.apng": ("apng", "rgba"),
    "a.avi": ("utvideo", "gbrap"),
}


@pytest.mark.parametrize("file", ALPHA)
def test_what_is_transparent_is_shown_over_grey(tmp_path, file):
    codec, name = ALPHA[file]
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[:] = (0, 255, 0, 0)  # green, but not to be seen
    picture[:, 32:] = (200, 60, 60, 255)
    options = {"auto-alt-ref": "0"} if codec == "libvpx" else None
    path = encode(tmp_path / file, [picture] * 3, codec, name, options=options)
    video = Video(path)
    for shown in video:
        assert np.abs(shown[4:-4, 4:28].astype(int) - 128).max() <= 8
        assert np.abs(shown[4:-4, 36:-4].astype(int) - (200, 60, 60)).max() <= 8
    assert video.decoded == 3 and "transparent parts shown over grey" in video.notes


def test_animated_pictures_with_transparency(tmp_path):
    pictures = []
    for number in range(4):
        picture = Image.new("RGBA", (48, 40), (0, 255, 0, 0))
        picture.paste((200, 60, 60, 255), (24, 0, 48, 40))
        picture.putpixel((40, number), (0, 0, 255, 255))
        pictures.append(picture)
    for name in ("a.gif", "a.webp", "a.png"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
        frames = list(Video(tmp_path / name))
        assert len(frames) == 4
        assert np.abs(frames[-1][20, 10].astype(int) - 128).max() <= 2 and frames[-1][20, 30, 0] > 190, name


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_a_transparent_webm_is_turned(tmp_path, codec):
    """Its alpha takes a decoder of its own, which knows nothing of the container."""
    picture = np.dstack([ramp(1)[0], np.full((48, 64), 255, np.uint8)])
    picture[30:, 40:, 3] = 0

    def settings(stream):
        stream.set_display_rotation(90)

    options = {"auto-alt-ref": "0", "deadline": "realtime", "crf": "4", "b": "4M"}
    path = encode(tmp_path / "a.webm", [picture] * 4, codec, "yuva420p", options=options, settings=settings)
    video = Video(path)
    shown = next(iter(video))
    assert shown.shape == (64, 48, 3) and video.rotation == 90
    expected = np.rot90(picture[..., :3]).astype(int)
    assert np.abs(shown - expected)[40:].mean() < 12


def test_alpha_that_is_zero_throughout_is_none(tmp_path):
    """As the unused byte of an uncompressed AVI of 32 bits."""
    picture = np.dstack([ramp(1)[0], np.zeros((48, 64), np.uint8)])
    video = Video(encode(tmp_path / "a.avi", [picture] * 2, "rawvideo", "bgra"))
    assert np.array_equal(next(iter(video)), picture[..., :3])
    assert "frames that are transparent throughout shown as opaque" in video.notes


def corner(picture):
    """Where the white corner is: (top or bottom, left or right)."""
    rows, columns = np.nonzero(picture.min(-1) > 200)
    return ("top" if rows.mean() < picture.shape[0] / 2 else "bottom"), (
        "left" if columns.mean() < picture.shape[1] / 2 else "right"
    )


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turn", [0, 90, 180, -90])
def test_the_eight_orientations(tmp_path, turn, mirror):
    picture = ramp(1)[0].copy()
    picture[:16, 21:30] = (255, 0, 0)  # right of the white corner: tells a mirrored picture from a turned one

    def settings(stream):
        stream.set_display_rotation(turn, hflip=mirror)

    path = encode(tmp_path / "a.mp4", [picture] * 2, "libx264", "yuv444p", options={"crf": "1"}, settings=settings)
    video = Video(path)
    shown = next(iter(video))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        matrix = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), "=i4") if turn or mirror else None
    expected = by_matrix(picture, matrix)
    assert shown.shape == expected.shape and np.abs(shown.astype(int) - expected).mean() < 4
    assert video.mirrored == mirror and video.size == (expected.shape[1], expected.shape[0])


def by_matrix(picture, matrix):
    """Slow and plain: each pixel goes where the display matrix takes it."""
    if matrix is None:
        return picture
    a, b, c, d = (round(matrix[place] / 65536) for place in (0, 1, 3, 4))
    height, width = picture.shape[:2]
    points = {(x, y): (a * x + c * y, b * x + d * y) for y in range(height) for x in range(width)}
    left, top = (min(point[axis] for point in points.values()) for axis in (0, 1))
    right, bottom = (max(point[axis] for point in points.values()) for axis in (0, 1))
    shown = np.zeros((bottom - top + 1, right - left + 1, 3), np.uint8)
    for (x, y), (u, v) in points.items():
        shown[v - top, u - left] = picture[y, x]
    return shown


def test_any_display_matrix_of_right_angles():
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for a, b, c, d in [(s, 0, 0, t) for s in (1, -1) for t in (1, -1)] + [
        (0, s, t, 0) for s in (1, -1) for t in (1, -1)
    ]:
        matrix = tuple(65536 * value for value in (a, b, 0, c, d, 0, 0, 0, 16384))
        assert np.array_equal(oriented(picture, *orientation(matrix)), by_matrix(picture, matrix)), (a, b, c, d)


@pytest.mark.parametrize(("aspect", "size"), [("4:3", (85, 48)), ("1:2", (32, 48)), ("0:1", (64, 48))])
def test_pixels_that_are_not_square(tmp_path, aspect, size):
    path = encode(
        tmp_path / "a.mp4", ramp(2), "libx264", "yuv420p", options={"aspect": aspect},
        settings=lambda stream: setattr(stream.codec_context, "sample_aspect_ratio", fraction(aspect)),
    )  # fmt: skip
    video = Video(path)
    frames = list(video)
    assert video.size == size and frames[0].shape == (size[1], size[0], 3)


def fraction(text):
    above, below = text.split(":")
    return Fraction(int(above), int(below))


@pytest.mark.parametrize(
    "size", [(4, 4), (1, 1), (3, 5), (65, 47), (2, 200), pytest.param((7680, 4320), marks=pytest.mark.slow)]
)
def test_sizes(tmp_path, size):
    picture = np.full((size[1], size[0], 3), (200, 90, 40), np.uint8)
    name = "png" if size[0] < 7680 else "mjpeg"
    path = encode(tmp_path / "a.mov", [picture], name, "rgb24" if name == "png" else "yuvj420p")
    video = Video(path, short_side=256, fps=12)
    frames = list(video)
    assert len(frames) == 1 and video.full_size == size and min(video.size) == min(256, *size)
    assert np.abs(frames[0].astype(int) - picture[0, 0]).max() <= 4


def test_interlaced_frames_are_deinterlaced(tmp_path):
    """A square that moves from field to field: woven together its edges are combs, one line yes, one line no."""
    fields = []
    for number in range(16):
        picture = np.full((64, 96, 3), 40, np.uint8)
        picture[16:48, 6 + 4 * number : 26 + 4 * number] = 220
        fields.append(picture)
    woven = []
    for top, bottom in zip(fields[::2], fields[1::2], strict=True):
        frame = top.copy()
        frame[1::2] = bottom[1::2]
        woven.append(frame)
    options = {"flags": "+ildct+ilme", "qscale": "2"}
    path = encode(tmp_path / "a.mpg", woven, "mpeg2video", "yuv422p", rate=25, options=options)
    video = Video(path)
    frames = list(video)
    assert len(frames) == 8 and video.notes == ["8 interlaced frames deinterlaced"]

    def comb(picture):
        lines = picture[16:48, :, 0].astype(int)
        return np.abs(lines[1:-1] - (lines[:-2] + lines[2:]) / 2).mean()

    assert max(map(comb, frames)) < 0.5 * min(map(comb, woven))
    assert [int(frame[32, :, 0].argmax() > 0) for frame in frames] == [1] * 8
    assert all(np.array_equal(a, b) for a, b in zip(frames, video, strict=True))


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path):
    small, large, upright = (np.full((*size, 3), 200, np.uint8) for size in ((48, 64), (96, 128), (128, 96)))
    data = b"".join(
        encode(tmp_path / f"{part}.ts", [picture] * 4, "mpeg2video", "yuv420p", rate=25).read_bytes()
        for part, picture in enumerate((small, large, upright))
    )
    (tmp_path / "all.ts").write_bytes(data)
    video = Video(tmp_path / "all.ts")
    frames = list(video)
    # FFmpeg drops a frame at each seam
    assert len(frames) == video.decoded == 10 and {frame.shape for frame in frames} == {(48, 64, 3)}
    assert frames[4][:, 2].mean() > 190 and abs(frames[9][:, 2].mean() - 128) < 3 and frames[9][:, 32].mean() > 190
    assert any("frames change from 64x48 to 128x96" in note for note in video.notes)
