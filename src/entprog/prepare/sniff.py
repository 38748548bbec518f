"""Which files are videos: by their suffix, and by their first bytes."""

import os
import re
import stat
from pathlib import Path

__all__ = ["EXTENSIONS", "IMAGE_EXTENSIONS", "NUMBERED", "looks_like_video", "numbered_images"]

EXTENSIONS = (
    ".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif", ".3g2", ".3gp", ".amv", ".apng", ".asf", ".dav", ".divx",
    ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".mj2", ".mjpeg",
    ".mjpg", ".mod", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb",
    ".tod", ".ts", ".vob", ".wmv", ".wtv", ".xvid", ".y4m",
)  # fmt: skip
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
NUMBERED = re.compile(r"^(.*?)(\d+)$")
HEAD = 65536


def looks_like_video(path: str | Path) -> bool:
    """Whether the first bytes of a file are those of a video container; reads at most 64 KiB.

    A container that may hold sound alone (Ogg, MP4, Matroska, ASF) counts. False for whatever is no readable file.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as stream:
            head = stream.read(HEAD)
    except OSError:
        return False
    return _iso(head) or _riff(head) or _other(head)


def _iso(head: bytes) -> bool:
    """MP4, MOV and their kin; not HEIF and AVIF pictures, not files that say that they are sound."""
    if head[4:8] == b"ftyp":
        return head[8:12] not in (b"heic", b"heix", b"mif1", b"avif", b"M4A ", b"M4B ", b"crx ", b"jp2 ")
    return head[4:8] in (b"moov", b"mdat", b"wide", b"pnot") or (head[4:8] in (b"free", b"skip") and b"mdat" in head)


def _riff(head: bytes) -> bool:
    """AVI, and WebP and PNG that hold more than one picture."""
    if head[:4] == b"RIFF":
        return head[8:11] == b"AVI" or (head[8:16] == b"WEBPVP8X" and bool(head[20:21]) and bool(head[20] & 2))
    return head[:8] == b"\x89PNG\r\n\x1a\n" and b"acTL" in head.split(b"IDAT", 1)[0]


def _other(head: bytes) -> bool:
    starts = (
        b"\x1a\x45\xdf\xa3", b"GIF87a", b"GIF89a", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3",
        b"\x00\x00\x00\x01\x67", b"\x00\x00\x00\x01\x27", b"\x00\x00\x00\x01\x40\x01",
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\x06\x0e\x2b\x34", b".RMF", b"DKIF", b"YUV4MPEG2", b"nut/multimedia",
        b"\xb7\xd8\x00\x20\x37\x49\xda\x11", b"DHAV",
    )  # fmt: skip
    if head.startswith(starts):
        return True
    if head[:4] == b"OggS":
        return b"theora" in head[:4096] or b"BBCD" in head[:4096] or b"OVP80" in head[:4096]
    if head[:3] == b"\x1f\x07\x00":  # DV
        return True
    for size, first in ((188, 0), (192, 4), (204, 0)):  # MPEG transport streams, of broadcast and of camcorders
        if len(head) > first + 4 * size and all(head[first + i * size] == 0x47 for i in range(5)):
            return True
    return False


def numbered_images(folder: str | Path) -> list[Path]:
    """The pictures of a folder that are one video as numbered files (0001.png ...), in the order of their numbers.

    Empty where there are fewer than two, or where the names differ in more than the number.
    """
    files: list[tuple[int, Path]] = []
    names = set()
    for file in Path(folder).iterdir():
        if file.suffix.lower() not in IMAGE_EXTENSIONS or file.name.startswith("."):
            continue
        found = NUMBERED.match(file.stem)
        if found is None:
            return []
        names.add((found[1], file.suffix.lower()))
        files.append((int(found[2]), file))
    numbers = {number for number, _ in files}
    if len(files) < 2 or len(names) != 1 or len(numbers) != len(files):
        return []
    return [file for _, file in sorted(files)]
