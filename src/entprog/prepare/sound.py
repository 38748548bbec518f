"""The sound of one file, added to a video that is being written."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np

__all__ = ["Sound"]

COPIED = ("aac", "mp3", "opus", "ac3", "eac3")
"""Codecs that an mp4 takes and players know; others are encoded as AAC."""
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
SPECK = 0.05
"""Seconds of silence or overlap between two pieces of sound below which timestamps count as rounded."""


class Sound:
    """Copies or encodes the sound of a file as far as it is asked; a context manager that closes that file.

    Args:
        path: the file with the sound.
        container: the video being written, before its first packet.
        start: seconds after the first video frame of `path` at which the written video begins.

    Raises:
        ValueError: the file cannot be read.
    """

    def __init__(self, path: Path, container: av.container.OutputContainer, start: float) -> None:
        self.path, self.notes, self._out = path, list[str](), container
        try:
            self._container = av.open(os.path.abspath(path), metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"sound = {str(path)!r}: {error.strerror}; give a file with sound") from error
        source = self._container.streams.best("audio")
        self._stream = None
        if source is None or source.codec_context is None:
            self.notes.append(f"no sound in {path.name}")
            return
        self._source, self._origin = source, _beginning(self._container, source) + start
        self._copied = source.codec_context.name.removesuffix("float") in COPIED
        if self._copied:
            self._stream = container.add_stream_from_template(source)
        else:
            rate = min(RATES, key=lambda known: abs(known - source.codec_context.sample_rate))
            layout = "mono" if source.codec_context.layout.nb_channels == 1 else "stereo"
            self._stream = container.add_stream("aac", rate=rate, layout=layout)
            self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
            self._rate, self._channels = rate, 1 if layout == "mono" else 2
        self._pieces = self._packets() if self._copied else self._samples()
        self._next: tuple[float, av.Packet | np.ndarray] | None = next(self._pieces, None)
        self._written, self._until, self._position = 0, 0.0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def write(self, until: float) -> None:
        """Add what is heard before `until`, seconds from the beginning of the written video."""
        if self._stream is None:
            return
        self._until = until
        while self._next is not None and self._next[0] < until:
            time, piece = self._next
            if isinstance(piece, np.ndarray):
                self._encode(time, piece)
            else:
                piece.stream = self._stream
                self._out.mux(piece)
                self._written += 1
            self._next = next(self._pieces, None)

    def end(self) -> None:
        """Flush the encoder."""
        if self._stream is None:
            return
        if not self._copied:
            self._out.mux(self._stream.encode(None))
        if not self._written:
            self.notes.append(f"no sound in {self.path.name} at that time")

    def _packets(self) -> Iterator[tuple[float, av.Packet]]:
        base = self._source.time_base
        shift = round(self._origin / base)
        for packet in self._demuxed():
            if packet.pts is None or not packet.size:
                continue
            packet.pts -= shift
            packet.dts = packet.pts
            if packet.pts >= 0:
                yield float(packet.pts * base), packet

    def _demuxed(self) -> Iterator[av.Packet]:
        packets = self._container.demux(self._source)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                self.notes.append(f"sound of {self.path.name}: {error.strerror}, the rest is left out")
                return

    def _samples(self) -> Iterator[tuple[float, np.ndarray]]:
        """Pieces of sound, float [channels, samples], and when they begin."""
        for packet in self._demuxed():
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                time = None if frame.pts is None else float(frame.pts * frame.time_base) - self._origin
                for piece in self._resampler.resample(frame):
                    yield (self._position / self._rate if time is None else time), piece.to_ndarray()
                    time = None

    def _encode(self, time: float, piece: np.ndarray) -> None:
        """Add a piece where it belongs: silence before it, or its head cut off; nothing after the end."""
        begin = round(time * self._rate)
        if abs(begin - self._position) <= SPECK * self._rate and self._written:
            begin = self._position
        if begin > self._position:
            self._add(np.zeros((self._channels, begin - self._position), np.float32))
        piece = piece[:, max(0, self._position - begin) :]
        left = max(0, round(self._until * self._rate) - self._position)
        if piece.shape[1] > left and self._next is not None:
            # the rest waits for the next frame of the video
            rest, piece = piece[:, left:], piece[:, :left]
            self._pieces = _before((self._position + left) / self._rate, rest, self._pieces)
        self._add(piece)

    def _add(self, samples: np.ndarray) -> None:
        if not samples.shape[1]:
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", self._stream.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._position, Fraction(1, self._rate)
        self._out.mux(self._stream.encode(frame))
        self._position += samples.shape[1]
        self._written += 1


def _before(
    time: float, piece: np.ndarray, others: Iterator[tuple[float, np.ndarray]]
) -> Iterator[tuple[float, np.ndarray]]:
    yield time, piece
    yield from others


def _beginning(container: av.container.InputContainer, source: av.AudioStream) -> float:
    """Seconds at which the first video frame of the file is shown, or its sound begins where there is no video."""
    for stream in (container.streams.best("video"), source):
        if stream is not None and stream.start_time is not None:
            return float(stream.start_time * stream.time_base)
    return 0.0
