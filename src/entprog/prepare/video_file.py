"""Opens a video file and decodes it: the stream that a player shows, its frames in order, what is damaged left out."""

import errno
import os
import stat
import struct
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from entprog.prepare.deinterlace import Deinterlacer
from entprog.prepare.image import over_grey, read_image
from entprog.prepare.sniff import numbered_images

__all__ = [
    "Decoded", "Facts", "VideoError", "best_stream", "decoder_of", "describe", "frames_of", "opened", "progressive",
    "reading",
]  # fmt: skip

PICTURES = ("image2", "webp_pipe", "ico", "tty", "bin", "xbin", "adf", "idf", "svg")
PROTOCOLS = {"protocol_whitelist": "file"}
"""A playlist may name files of this machine only."""
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these leave the alpha channel out."""
BROKEN = (
    av.FFmpegError, OSError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError,
    EOFError, SyntaxError, Image.DecompressionBombError, struct.error, zlib.error,
)  # fmt: skip
"""What a damaged file makes the libraries raise."""


class VideoError(ValueError):
    """A file that is no readable video; `reason` says why, without its path."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"video: cannot read {path} ({reason})")
        self.reason = reason


@dataclass
class Facts:
    """What is known of a file while it is decoded.

    Attributes:
        rate: frames a second by the container, 25 where it has none.
        aspect: width of a pixel over its height.
        start: seconds from the start of the file to its first frame.
        sound: whether there is a sound track.
        decoded: frames decoded until now, those left out included.
        damaged: frames left out because they, or the frames that they are predicted from, are damaged.
        interlaced: frames deinterlaced.
        packets, end: packets read until now, and where the last one ends, in the stream's time base.
        oriented: a frame that says how the picture is turned, where those that are shown do not.
        notes: sentences on how the file was read.
    """

    rate: float = 25.0
    aspect: float = 1.0
    start: float = 0.0
    sound: bool = False
    decoded: int = 0
    damaged: int = 0
    interlaced: int = 0
    packets: int = 0
    end: int = 0
    oriented: av.VideoFrame | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One frame: its number, its time in seconds or None, and whether frames before it were left out as damaged."""

    frame: av.VideoFrame
    index: int
    time: float | None
    gap: bool = False


@contextmanager
def reading(path: Path, facts: Facts) -> Iterator[None]:
    """Turns what a damaged file makes the libraries raise into a VideoError."""
    try:
        yield
    except (VideoError, MemoryError):
        raise
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f" after {facts.decoded} frames" if facts.decoded else ""
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(path, f"{' '.join(str(text).split())}{place}") from error


def frames_of(path: Path, facts: Facts, rate: float) -> Generator[Decoded]:
    """The frames of a file, or of a folder of numbered pictures that are shown at `rate` frames a second.

    Raises:
        VideoError: neither.
    """
    _check(path)
    yield from _of_pictures(path, facts, rate) if path.is_dir() else _of_file(path, facts)


def _check(path: Path) -> None:
    """Refuses what would not end or cannot be opened."""
    try:
        known = os.stat(path)
    except FileNotFoundError as error:
        link = "a link to a file that does not exist" if path.is_symlink() else "it does not exist"
        raise VideoError(path, link) from error
    except OSError as error:
        raise VideoError(path, error.strerror or str(error)) from error
    if stat.S_ISDIR(known.st_mode):
        return
    if not stat.S_ISREG(known.st_mode):
        raise VideoError(path, "not a file")
    if not known.st_size:
        raise VideoError(path, "Invalid data: the file is empty, 0 bytes")


def _of_pictures(folder: Path, facts: Facts, rate: float) -> Iterator[Decoded]:
    files = numbered_images(folder)
    if not files:
        raise VideoError(folder, "a folder without numbered pictures")
    facts.rate = rate
    for index, file in enumerate(files):
        facts.decoded = index + 1
        frame = av.VideoFrame.from_ndarray(read_image(file, "frame", None), format="rgb24")
        yield Decoded(frame, index, index / rate)


def _of_file(path: Path, facts: Facts) -> Iterator[Decoded]:
    with opened(path) as container:
        name = container.format.name
        if name.endswith("_pipe") or name in PICTURES:
            yield from _of_animation(path, facts)
            return
        stream = best_stream(path, container, facts)
        describe(container, stream, facts)
        yield from progressive(_decode(path, container, stream, facts), facts)
        if facts.decoded and _cut(stream, facts):
            facts.note(f"the file ends after {facts.decoded} of {stream.frames} frames")


def _cut(stream: av.VideoStream, facts: Facts) -> bool:
    """Whether the data ends long before the file says: in packets, and in time (an AVI has packets for pauses only)."""
    last = (stream.start_time or 0) + (stream.duration or 0)
    return facts.packets < 0.9 * stream.frames and (not stream.duration or facts.end < 0.9 * last)


def opened(path: Path) -> av.container.InputContainer:
    """The file, open for reading; no other file or address that it names is followed outside this machine."""
    # an absolute path, so that FFmpeg takes no colon in it for a protocol
    return av.open(os.path.abspath(path), metadata_errors="surrogateescape", container_options=PROTOCOLS)


def decoder_of(stream: av.VideoStream) -> Any:
    """The stream's decoder, or where that one leaves the alpha channel out, one of its own."""
    if stream.metadata.get("alpha_mode") == "1" and stream.codec.name in ALPHA_DECODERS:
        return av.CodecContext.create(ALPHA_DECODERS[stream.codec.name], "r")
    return stream.codec_context


def _of_animation(path: Path, facts: Facts) -> Iterator[Decoded]:
    """An animated picture of a kind that FFmpeg reads only the first frame of (WebP)."""
    try:
        image = Image.open(path)
    except Image.UnidentifiedImageError as error:
        raise VideoError(path, "not a video") from error
    with image:
        count, time = getattr(image, "n_frames", 1), 0.0
        if count < 2 or image.format == "TIFF":
            raise VideoError(path, f"a picture ({image.format}), not a video")
        for index in range(count):
            image.seek(index)
            array = over_grey(np.asarray(image.convert("RGBA")))
            if index == 0:
                facts.rate = 1000 / max(float(image.info.get("duration") or 100), 1.0)
            facts.decoded = index + 1
            yield Decoded(av.VideoFrame.from_ndarray(array, format="rgb24"), index, time)
            time += max(float(image.info.get("duration") or 100), 1.0) / 1000


def best_stream(path: Path, container: av.container.InputContainer, facts: Facts) -> av.VideoStream:
    """The stream that a player shows: marked as default, then the largest, then the first; no cover picture, and a
    stream of one frame only where there is no other.
    """
    found: list[av.VideoStream] = []
    pictures, unknown = 0, 0
    for stream in container.streams.video:
        kinds = av.stream.Disposition
        if stream.disposition & (kinds.attached_pic | kinds.timed_thumbnails | kinds.still_image):
            pictures += 1
        elif stream.codec_context is None:
            unknown += 1
        else:
            found.append(stream)
    if not found:
        if unknown:
            raise VideoError(path, "its video codec is not known to FFmpeg")
        if pictures:
            raise VideoError(
                path, "no video in it, only a cover picture" + (" and sound" * bool(container.streams.audio))
            )
        raise VideoError(path, "no video in it" + (", only sound" * bool(container.streams.audio)))

    def rank(stream: av.VideoStream) -> tuple[bool, bool, int, int]:
        moves, marked = stream.frames != 1, bool(stream.disposition & kinds.default)
        return moves, marked, stream.width * stream.height, -stream.index

    best = max(found, key=rank)
    if len(found) > 1:
        others = [stream for stream in found if rank(stream)[0] == rank(best)[0]]
        why = "marked as default" if best.disposition & kinds.default else "the largest"
        why = why if len(others) > 1 else "the only one of several frames"
        facts.note(f"video stream {found.index(best) + 1} of {len(found)} used, {why}")
    return best


def describe(container: av.container.InputContainer, stream: av.VideoStream, facts: Facts) -> None:
    facts.rate = float(stream.average_rate or stream.guessed_rate or 25)
    facts.sound = bool(container.streams.audio)
    aspect = float(stream.sample_aspect_ratio or 1)
    if 1 / 8 <= aspect <= 8:
        facts.aspect = aspect
    else:
        facts.note(f"pixel aspect ratio {aspect:.4g} is not plausible: taken as 1")
    texts = [*container.metadata.items(), *stream.metadata.items()]
    if any("\udc80" <= letter <= "\udcff" for pair in texts for text in pair for letter in text):
        facts.note("metadata not UTF-8")


def _decode(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, facts: Facts
) -> Iterator[Decoded]:
    """The frames that are whole: from a damaged one up to the next key frame all are left out."""
    decoder = decoder_of(stream)
    base = stream.time_base or Fraction(0)
    above, below = base.numerator, base.denominator
    index, failed, broken, gap = 0, 0, False, False
    for packet in _packets(container, stream, facts):
        if decoder is not stream.codec_context and facts.oriented is None:
            facts.oriented = _first_of(stream, packet)
        try:
            decoded = decoder.decode(packet)
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            broken, failed = facts.decoded > 0, failed + 1
            continue
        for frame in decoded:
            facts.decoded += 1
            corrupt = frame.is_corrupt
            broken = corrupt or (broken and not frame.key_frame)
            if broken:
                facts.damaged, gap = facts.damaged + 1, True
            else:
                time = None if frame.pts is None or not above else frame.pts * above / below
                yield Decoded(frame, index, time, gap)
                gap = False
            index += 1
    if failed and not facts.decoded:
        raise VideoError(path, "none of its frames can be decoded")


def _first_of(stream: av.VideoStream, packet: av.Packet | None) -> av.VideoFrame | None:
    """A frame by the stream's own decoder: another one knows nothing of the container, and so not how to turn it."""
    try:
        return next(iter(stream.codec_context.decode(packet)), None)
    except av.FFmpegError:
        return None


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream, facts: Facts
) -> Iterator[av.Packet | None]:
    """The packets of a stream and then None, which makes the decoder give its last frames."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            if not facts.decoded or isinstance(error, MemoryError):
                raise
            facts.note(f"nothing read after frame {facts.decoded}: {error.strerror}")
            packet = None
        if packet is None or (packet.size == 0 and packet.dts is None and packet.pts is None):
            yield None
            return
        facts.packets += 1
        facts.end = max(facts.end, (packet.pts or packet.dts or 0) + (packet.duration or 0))
        if packet.has_sidedata("encryption_info"):
            raise VideoError(Path(container.name), "encrypted")
        if packet.size:  # an AVI repeats a frame by an empty packet
            yield packet


def progressive(frames: Iterator[Decoded], facts: Facts) -> Iterator[Decoded]:
    """The same frames, interlaced ones deinterlaced (yadif, one frame for two fields)."""
    deinterlacer: Deinterlacer[Decoded] | None = None
    for decoded in frames:
        frame = decoded.frame
        if deinterlacer is None and frame.interlaced_frame and min(frame.width, frame.height) >= 4:
            deinterlacer = Deinterlacer(frame)
        if deinterlacer is not None and not deinterlacer.takes(frame):
            yield from _replaced(deinterlacer.rest())
            deinterlacer = Deinterlacer(frame) if min(frame.width, frame.height) >= 4 else None
        if deinterlacer is None:
            yield decoded
            continue
        facts.interlaced += frame.interlaced_frame
        yield from _replaced(deinterlacer.push(frame, decoded))
    if deinterlacer is not None:
        yield from _replaced(deinterlacer.rest())


def _replaced(pairs: Iterator[tuple[av.VideoFrame, Decoded]]) -> Iterator[Decoded]:
    for frame, decoded in pairs:
        yield Decoded(frame, decoded.index, decoded.time, decoded.gap)
