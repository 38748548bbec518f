"""Pictures whose file says that they are HDR or have wide colours: cICP of PNG, nclx of AVIF. Pillow knows neither."""

import os
from pathlib import Path

import av
import numpy as np

from entprog.prepare.colour import converted
from entprog.prepare.picture import Player
from entprog.prepare.video_file import Facts

__all__ = ["hdr_picture"]

FORMATS = ("PNG", "AVIF")
"""Names that Pillow has for formats that may say so."""
HEAD = 8
"""Bytes before the first chunk of a PNG."""


def hdr_picture(path: Path, name: str | None) -> np.ndarray | None:
    """The picture as SDR, uint8 [H, W, 3], not turned; None where the file says nothing of HDR.

    Args:
        name: of the format.
    """
    if name not in FORMATS or (name == "PNG" and not _has_cicp(path)):
        return None
    try:
        with av.open(os.path.abspath(path), metadata_errors="replace") as container:
            if len(container.streams.video) != 1:  # an AVIF in tiles
                return None
            frame = next(container.decode(video=0), None)
            if frame is None or not converted(frame.color_trc, frame.color_primaries):
                return None
            return Player(Facts(), None, turned=False).show(frame)
    except av.FFmpegError:
        return None


def _has_cicp(path: Path) -> bool:
    """Whether a PNG has the chunk that codes its colours, which comes before the picture."""
    with path.open("rb") as stream:
        stream.seek(HEAD)
        while len(head := stream.read(8)) == 8 and head[4:] != b"IDAT":
            if head[4:] == b"cICP":
                return True
            stream.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False
