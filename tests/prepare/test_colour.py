"""HDR and wide-gamut pictures to SDR: the way back from pictures whose truth is known."""

import numpy as np
import pytest

from entprog.prepare import colour
from entprog.prepare.colour import HLG, KNEE, PQ, ToSDR, roll_off, srgb_decode, srgb_encode
from entprog.prepare.video import Video
from tiny_videos import bars, encode, frame_of, yuv

TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
"""Linear BT.709 to BT.2020, as ITU-R BT.2087 prints it."""


def pq_encode(nits):
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = (np.asarray(nits, float) / 10000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def hlg_encode(nits):
    """Display light [..., 3] on a screen of 1000 cd/m2 -> HLG signal (BT.2100, gamma 1.2)."""
    display = np.asarray(nits, float) / 1000
    luminance = display @ np.array([0.2627, 0.6780, 0.0593])
    scene = display * np.maximum(luminance, 1e-9)[..., None] ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


ENCODE = {"hlg": (hlg_encode, HLG), "pq": (pq_encode, PQ)}


@pytest.mark.parametrize("name", ["yuv420p10le", "yuv422p10le", "yuv444p12le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("kind", ENCODE)
def test_an_sdr_picture_in_an_hdr_file_comes_out_as_it_was(tmp_path, kind, full, name):
    function, transfer = ENCODE[kind]
    signal = function(srgb_decode(bars() / 255) @ TO_2020.T * 203)
    frame = frame_of(yuv(signal, 9, full, 12 if "12" in name else 10), name)
    path = encode(tmp_path / "a.mkv", [frame] * 2, "ffv1", name, matrix=9, full=full, transfer=transfer, primaries=9)
    video = Video(path)
    shown = list(video)[1][8::16, 8::16].astype(int)
    error = np.abs(shown - bars()[8::16, 8::16])
    below = srgb_decode(bars()[8::16, 8::16] / 255).max(-1) < KNEE
    assert error[below].max() <= 4 and error[below].mean() <= 1 and error.max() <= 13
    assert video.notes[0] == f"{kind.upper()} converted to SDR"


def test_the_tags_of_a_phone_are_enough(tmp_path):
    """HEVC, 10 bits, limited range, and a frame that is reduced while it is read."""
    signal = hlg_encode(srgb_decode(bars(side=32) / 255) @ TO_2020.T * 203)
    frame = frame_of(yuv(signal, 9, False, 10), "yuv420p10le")
    options = {"crf": "4", "x265-params": "log-level=none:pools=none:frame-threads=1"}
    path = encode(
        tmp_path / "a.mov", [frame] * 2, "libx265", "yuv420p10le", options=options,
        matrix=9, full=False, transfer=HLG, primaries=9,
    )  # fmt: skip
    video = Video(path, short_side=48)
    shown = list(video)[0][8::16, 8::16].astype(int)
    assert video.full_size == (128, 96) and np.abs(shown - bars()[8::16, 8::16]).mean() < 3


def test_diffuse_white_of_hlg_is_white_of_pq():
    """BT.2408: 75 % HLG and 58 % PQ are both 203 cd/m2."""
    signal = np.round(np.array([0.75, 0.5807]) * 65535).astype(np.uint16)
    hlg = ToSDR(HLG, 9)(np.full((1, 1, 3), signal[0]))
    pq = ToSDR(PQ, 9)(np.full((1, 1, 3), signal[1]))
    assert abs(int(hlg.mean()) - int(pq.mean())) <= 1 and 240 <= hlg.min() <= 248


def test_highlights_stay_apart_and_keep_their_colour():
    nits = np.array([100, 203, 300, 500, 800, 1000.0])
    colours = nits[:, None] * np.array([1.0, 0.8, 0.5])
    for kind, (function, transfer) in ENCODE.items():
        shown = ToSDR(transfer, 9)(np.round(np.clip(function(colours @ TO_2020.T), 0, 1) * 65535).astype(np.uint16)[None])
        red, green, blue = np.moveaxis(shown[0].astype(int), -1, 0)
        assert (np.diff(green)[:-1] > 0).all() and (np.diff(blue)[:-1] > 0).all() and np.diff(red).min() >= 0, kind
        assert (red >= green).all() and (green > blue).all() and red[-1] >= 253, kind


def test_the_curve_of_highlights():
    light = np.linspace(0, 5, 5001)
    curve = roll_off(light, 5.0)
    assert np.array_equal(curve[light <= KNEE], light[light <= KNEE]) and abs(curve[-1] - 1) < 1e-9
    assert (np.diff(curve) > 0).all() and abs(np.diff(curve).max() / 0.001 - 1) < 0.01
    assert np.array_equal(roll_off(light, 0.9), light)


def test_the_brightest_pixel_that_a_file_names_sets_the_curve(tmp_path):
    options = {
        "x265-params": "log-level=none:pools=none:frame-threads=1:max-cll=4000,400:"
        "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(40000000,50)",
        "crf": "4",
    }
    signal = pq_encode(np.full((64, 64, 3), 1000.0))
    frame = frame_of(yuv(signal, 9, False, 10), "yuv420p10le")
    colours = {"matrix": 9, "full": False, "transfer": PQ, "primaries": 9}
    path = encode(tmp_path / "a.mkv", [frame], "libx265", "yuv420p10le", options=options, **colours)
    bright = list(Video(path))[0]
    options["x265-params"] = "log-level=none:pools=none:frame-threads=1"
    path = encode(tmp_path / "b.mkv", [frame], "libx265", "yuv420p10le", options=options, **colours)
    expected = round(float(srgb_encode(roll_off(np.array(1000 / 203), 4000 / 203))) * 255)
    assert abs(int(bright[32, 32, 0]) - expected) <= 2 and list(Video(path))[0].min() >= 253


@pytest.mark.parametrize("primaries", [9, 11, 12])
def test_wide_primaries(tmp_path, primaries):
    """SDR with BT.2020 or P3 primaries: greys stay, colours become stronger."""
    matrix = np.linalg.inv(colour.to_bt709(primaries))
    light = srgb_decode(bars() / 255) @ matrix.T
    signal = srgb_encode(np.clip(light, 0, 1))
    frame = frame_of(yuv(signal, 9, False, 10), "yuv444p10le")
    path = encode(
        tmp_path / "a.mkv", [frame], "ffv1", "yuv444p10le", matrix=9, full=False, transfer=14, primaries=primaries
    )
    video = Video(path)
    assert np.abs(list(video)[0][8::16, 8::16].astype(int) - bars()[8::16, 8::16]).max() <= 4
    assert video.notes[0] == "wide colour converted to SDR"


def test_the_matrices_are_those_of_the_standards():
    assert np.abs(np.linalg.inv(colour.to_bt709(9)) - TO_2020).max() < 1e-3
    assert np.abs(colour.to_bt709(1) - np.eye(3)).max() < 1e-12


def test_a_slow_plain_conversion_agrees():
    """The look-up tables, rows at a time, against the formulas in double precision."""
    signal = np.random.default_rng(0).integers(0, 65536, (70, 31, 3)).astype(np.uint16)
    for transfer in (HLG, PQ):
        value = signal / 65535
        if transfer == HLG:
            scene = colour.hlg_decode(value)
            light = scene * (scene @ np.array([0.2627, 0.6780, 0.0593]))[..., None] ** 0.2 * 1000 / 203
        else:
            light = colour.pq_decode(value) / 203
        most = light.max(-1, keepdims=True)
        light = light * roll_off(most, 1000 / 203) / most
        truth = srgb_encode(np.clip(light @ colour.to_bt709(9).T, 0, 1)) * 255
        assert np.abs(ToSDR(transfer, 9)(signal) - truth).max() <= 0.6


def test_linear_light(tmp_path):
    signal = np.round(srgb_decode(bars() / 255) * 65535).astype(np.uint16)
    assert np.abs(ToSDR(8, 1)(signal).astype(int) - bars()).max() <= 1
