"""A decoded frame -> the picture that a player shows, uint8 RGB [H, W, 3]."""

import struct
from functools import cache
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from entprog.prepare.colour import HLG, PQ, ToSDR, converted
from entprog.prepare.image import GREY, over_grey
from entprog.prepare.video_file import Facts

__all__ = ["Player", "orientation", "oriented"]

UNSPECIFIED, BT709, BT601, BT2020 = 2, 1, 6, 9
KNOWN_MATRICES = (0, BT709, 4, 5, BT601, 7, BT2020)
"""Codes of ITU-T H.273 for the matrices that swscale has."""
LIMITED = 1
NAMES = {HLG: "HLG", PQ: "PQ"}
EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Within 1 of 255 of the standards' formulas. Frames of 8 bits at their own size do without, as players do: four times
as fast, and up to 3 off."""


class Player:
    """Shows the frames of one file, all at the size of the first.

    Attributes:
        size: (width, height) of the pictures; full_size: the same without `short_side`.
        rotation: degrees counterclockwise that were applied, one of -90, 0, 90, 180; mirrored: and whether the picture
            was mirrored left to right before.
    """

    def __init__(self, facts: Facts, short_side: int | None, *, turned: bool = True) -> None:
        """`turned` False: pictures as they are stored, for those who turn them themselves."""
        self.facts, self.short_side, self.turned = facts, short_side, turned
        self.size, self.full_size, self.rotation, self.mirrored = (0, 0), (0, 0), 0, False
        self._scaler = VideoReformatter()
        self._converters: dict[tuple[int, int], ToSDR] = {}

    def show(self, frame: av.VideoFrame) -> np.ndarray:
        """The picture of a frame."""
        turn, mirror = _orientation(self.facts.oriented or frame) if self.turned else (0, False)
        upright = max(1, round(frame.width * self.facts.aspect)), frame.height
        if not self.size[0]:
            self.rotation, self.mirrored = turn, mirror
            self.full_size = upright if turn % 180 == 0 else upright[::-1]
            self.size = self._reduced(self.full_size)
        width, height = self._inside(upright if turn % 180 == 0 else upright[::-1])
        array = self._coloured(frame, *((width, height) if turn % 180 == 0 else (height, width)))
        return self._centred(oriented(array, turn, mirror))

    def _reduced(self, size: tuple[int, int]) -> tuple[int, int]:
        if self.short_side is None or min(size) <= self.short_side:
            return size
        factor = self.short_side / min(size)
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))

    def _inside(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size at which a picture of `size` is shown within `self.size`."""
        if size == self.full_size:
            return self.size
        self.facts.note(
            f"frames change from {self.full_size[0]}x{self.full_size[1]} to {size[0]}x{size[1]}: scaled to the first"
        )
        factor = min(self.size[0] / size[0], self.size[1] / size[1])
        width, height = (max(1, round(side * factor)) for side in size)
        # a few pixels of another aspect ratio are a rounding of sizes to blocks
        near = abs(width / self.size[0] - 1) < 0.02 and abs(height / self.size[1] - 1) < 0.02
        return self.size if near else (width, height)

    def _centred(self, array: np.ndarray) -> np.ndarray:
        width, height = self.size
        if array.shape[:2] == (height, width):
            return array
        top, left = (height - array.shape[0]) // 2, (width - array.shape[1]) // 2
        canvas = np.full((height, width, 3), GREY, np.uint8)
        canvas[top : top + array.shape[0], left : left + array.shape[1]] = array
        return canvas

    def _coloured(self, frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
        self._set_matrix(frame)
        alpha = _has_alpha(frame.format.name)
        if converted(frame.color_trc, frame.color_primaries):
            return self._converted(frame, width, height, alpha)
        if alpha:
            straight = self._scaled(frame, frame.width, frame.height, "rgba")
            if not straight[..., 3].any():  # such as the unused fourth byte of an uncompressed AVI
                self.facts.note("frames that are transparent throughout shown as opaque")
                straight[..., 3] = 255
            if straight[..., 3].min() < 255:
                self.facts.note("transparent parts shown over grey")
            opaque = av.VideoFrame.from_ndarray(over_grey(straight), format="rgb24")
            return self._scaled(opaque, width, height, "rgb24")
        array = self._scaled(frame, width, height, "rgb24")
        if frame.format.name.startswith("gray") and frame.color_range == LIMITED:
            array = GREY_LIMITED[array]
        return array

    def _scaled(self, frame: av.VideoFrame, width: int, height: int, name: str) -> np.ndarray:
        same = (width, height) == (frame.width, frame.height)
        way = Interpolation.BILINEAR if same else Interpolation.AREA
        if name not in ("rgb24", "rgba"):
            way |= Interpolation.ACCURATE_RND  # with the other flag 16 bits overflow
        elif not same or _bits(frame.format.name) > 8:
            way |= EXACT
        made = self._scaler.reformat(frame, width, height, format=name, interpolation=way, threads=1)
        array: np.ndarray = made.to_ndarray()
        return array

    def _converted(self, frame: av.VideoFrame, width: int, height: int, alpha: bool) -> np.ndarray:
        transfer, primaries = frame.color_trc, frame.color_primaries
        if (transfer, primaries) not in self._converters:
            self._converters[transfer, primaries] = ToSDR(transfer, primaries, _peak(frame))
            self.facts.note(f"{NAMES.get(transfer, 'wide colour')} converted to SDR")
        array = self._scaled(frame, width, height, "rgba64le" if alpha else "rgb48le")
        shown = self._converters[transfer, primaries](array[..., :3])
        return over_grey(np.dstack([shown, (array[..., 3:] >> 8).astype(np.uint8)])) if alpha else shown

    def _set_matrix(self, frame: av.VideoFrame) -> None:
        """Names the matrix of YUV frames that have none, as players guess it."""
        if frame.format.is_rgb:
            return
        matrix = frame.colorspace
        if matrix in KNOWN_MATRICES and matrix != 0:
            return
        if frame.color_trc in (HLG, PQ) or frame.color_primaries == BT2020:
            frame.colorspace = BT2020
        else:
            frame.colorspace = BT709 if frame.width >= 1280 or frame.height > 576 else BT601
        if matrix not in (0, UNSPECIFIED):
            self.facts.note(f"colour matrix {matrix} is not supported: guessed from the size")


GREY_LIMITED = np.clip(np.round((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)


@cache
def _has_alpha(name: str) -> bool:
    known = av.VideoFormat(name)
    return known.has_palette or any(component.is_alpha for component in known.components)


@cache
def _bits(name: str) -> int:
    return max((component.bits for component in av.VideoFormat(name).components), default=8)


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """See `orientation`."""
    try:
        data: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # see `_side_data`; what is known then has no mirroring
        return (round(frame.rotation / 90) * 90 + 90) % 360 - 90, False
    return orientation(None if data is None else struct.unpack("=9i", bytes(data)[:36]))


def _side_data(frame: av.VideoFrame, name: str) -> bytes | None:
    """What the file says of a frame; None also beside data of a kind that PyAV does not know, such as EXIF."""
    try:
        data: Any = frame.side_data.get(name)
    except ValueError:
        return None
    return None if data is None else bytes(data)


def orientation(matrix: tuple[int, ...] | None) -> tuple[int, bool]:
    """Quarter turns of a display matrix as degrees counterclockwise (-90, 0, 90, 180), and whether it mirrors first.

    The matrix takes the point (x, y) to (a x + c y, b x + d y), y downwards; other angles become the nearest.
    """
    if matrix is None:
        return 0, False
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    mirror = a * d - b * c < 0
    if mirror:  # left and right changed first: the image of (-x, y)
        a, b = -a, -b
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (0 if a + d >= 0 else 180), mirror
    return (90 if c - b > 0 else -90), mirror


def oriented(array: np.ndarray, turn: int, mirror: bool) -> np.ndarray:
    """The picture, mirrored left to right if so, then turned counterclockwise."""
    if mirror:
        array = array[:, ::-1]
    if turn:
        array = np.rot90(array, turn // 90)
    return np.ascontiguousarray(array) if mirror or turn else array


def _peak(frame: av.VideoFrame) -> float | None:
    """cd/m2 of the brightest pixel, by the file's light level or else its mastering display."""
    light = _side_data(frame, "CONTENT_LIGHT_LEVEL")
    if light is not None:
        (brightest,) = struct.unpack("=I", light[:4])
        if 0 < brightest <= 10000:
            return float(brightest)
    screen = _side_data(frame, "MASTERING_DISPLAY_METADATA")
    if screen is not None:
        above, below, _, known = struct.unpack("=iiii", screen[72:88])
        if known and below and 0 < above / below <= 10000:
            return above / below
    return None
