"""Tiny video files of every kind, written by PyAV, and the pictures that a player shows of them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

LUMA = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Kr and Kb of the matrices BT.709, BT.601 and BT.2020 (codes of ITU-T H.273)."""
BARS = [
    (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 30, 40), (20, 180, 60), (40, 60, 220), (240, 220, 30),
    (220, 170, 140), (90, 60, 50), (30, 200, 210), (180, 40, 190), (64, 64, 64),
]  # fmt: skip

CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi", ".mts": "mpegts",
    ".m2ts": "mpegts", ".ts": "mpegts", ".mpg": "mpeg", ".vob": "vob", ".wmv": "asf", ".flv": "flv", ".3gp": "3gp",
    ".gif": "gif", ".apng": "apng", ".mxf": "mxf", ".y4m": "yuv4mpegpipe", ".nut": "nut", ".h264": "h264",
}  # fmt: skip


def bars(colours=BARS, side: int = 16) -> np.ndarray:
    """Squares of flat colours, four in a row: uint8 [3 side, 4 side, 3]."""
    grid = np.array(colours, np.uint8).reshape(-1, 4, 3)
    return grid.repeat(side, 0).repeat(side, 1)


def ramp(count: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames that tell their number by their brightness, with a white corner at the upper left."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames += (np.arange(count) * 8 % 256).astype(np.uint8)[:, None, None, None]
    frames[:, : height // 3, : width // 3] = 255
    return frames


def numbers(frames) -> list[int]:
    return [round(float(frame[-8:, -8:].mean()) / 8) for frame in frames]


def yuv(picture: np.ndarray, matrix: int, full: bool, depth: int) -> list[np.ndarray]:
    """Y, Cb and Cr of R'G'B' in 0..1 at full resolution, by the formulas of the standards."""
    kr, kb = LUMA[matrix]
    red, green, blue = np.moveaxis(np.asarray(picture, np.float64), -1, 0)
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
    scale = 2.0 ** (depth - 8)
    if full:
        top, middle = 2**depth - 1, 2 ** (depth - 1)
        planes = [y * top, cb * top + middle, cr * top + middle]
    else:
        planes = [y * 219 * scale + 16 * scale, *((c * 224 + 128) * scale for c in (cb, cr))]
    return [np.clip(np.round(plane), 0, 2**depth - 1) for plane in planes]


def frame_of(planes: list[np.ndarray], name: str) -> av.VideoFrame:
    """A frame of the given planes; chroma is reduced to the format's size by its mean."""
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], name)
    for plane, values in zip(frame.planes, planes, strict=True):
        down, across = values.shape[0] // plane.height, values.shape[1] // plane.width
        values = values.reshape(plane.height, down, plane.width, across).mean((1, 3)).round()
        kind = np.dtype("<u2" if frame.format.components[0].bits > 8 else np.uint8)
        rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
        rows[:, : plane.width] = values.astype(kind)
    return frame


def encode(
    path: Path,
    frames,
    codec: str = "ffv1",
    name: str = "bgr0",
    *,
    rate: int = 10,
    stamps=None,
    options: dict[str, str] | None = None,
    settings=None,
    muxing: dict[str, str] | None = None,
    format_of: str = "",
    **colour: int,
) -> Path:
    """Write frames, uint8 RGB(A) arrays or av frames, as a file; `stamps`: their times in milliseconds.

    Args:
        settings: called with the stream before anything is written.
        format_of: a name whose suffix says the container, where `path` has none.
        colour: matrix, full, transfer, primaries: codes of ITU-T H.273 to tag the file with.
    """
    container_format = CONTAINERS.get(Path(format_of or path).suffix.lower())
    with av.open(str(path), "w", format=container_format, options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=1000 if stamps is not None else rate, options=options or {})
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        first = frames[0]
        stream.width, stream.height = (
            (first.width, first.height) if isinstance(first, av.VideoFrame) else (first.shape[1], first.shape[0])
        )
        stream.pix_fmt = name
        tag(stream.codec_context, **colour)
        if settings is not None:
            settings(stream)
        for number, given in enumerate(frames):
            frame = given
            if not isinstance(given, av.VideoFrame):
                kind = "rgba" if given.shape[-1] == 4 else "rgb24"
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(given), format=kind).reformat(format=name)
            tag(frame, **colour)
            frame.pts = number if stamps is None else stamps[number]
            frame.time_base = Fraction(1, rate if stamps is None else 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def tag(target, matrix: int = 2, full: bool | None = None, transfer: int = 2, primaries: int = 2) -> None:
    target.colorspace, target.color_trc, target.color_primaries = matrix, transfer, primaries
    target.color_range = 0 if full is None else 1 + full
