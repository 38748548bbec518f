"""Video files -> frames, through PyAV (FFmpeg inside, no program needed)."""

import math
from bisect import insort
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from entprog.prepare.picture import Player
from entprog.prepare.sniff import EXTENSIONS, looks_like_video, numbered_images
from entprog.prepare.video_file import Decoded, Facts, VideoError, frames_of, reading
from entprog.prepare.video_writer import VideoWriter, write_gif, write_video

__all__ = [
    "EXTENSIONS", "LONGEST_PAUSE", "Video", "VideoError", "VideoWriter", "looks_like_video", "numbered_images",
    "read_video", "write_gif", "write_video",
]  # fmt: skip

LONGEST_PAUSE = 2.0
"""Seconds between two frames; a larger gap is a pause or a broken timestamp: the usual interval takes its place."""
SAME = 2
"""Largest difference of 8-bit values between two frames that count as the same picture."""
GRID = 128
"""Rows of the grid of pixels at which the green of two frames is compared."""
NOTED_REPEATS = 0.1


class Video:
    """The frames of a video as a player shows them, decoded one by one: iterate for uint8 RGB arrays [H,W,3].

    The stream that players choose; its colours converted to sRGB (matrix and range as tagged, HLG and PQ to SDR),
    alpha over grey, interlaced frames deinterlaced, rotation, mirroring and non-square pixels applied, damaged frames
    left out. With `fps`, the frame nearest in time is returned for each time k / fps (so frames are left out or
    repeated); without, each decoded frame. Iterating again restarts and returns the same frames.

    Attributes, complete after the iteration:
        decoded: frames that were decoded (never an estimate from duration x rate), damaged ones included.
        index: number of the decoded frame that was returned last, from 0.
        fps: frames a second of the returned frames.
        size: (width, height) of the returned frames; full_size: the same without `short_side`.
        rotation: degrees counterclockwise that were applied, one of -90, 0, 90, 180; mirrored: and whether the
            picture was mirrored left to right before.
        breaks: returned frames that begin after a pause, after damaged frames, or where a held picture begins or
            ends: motion is not continuous there.
        held: ranges (start, end) of returned frames that repeat one picture for longer than `longest_pause`.
        repeated: returned frames that show the same picture as the one before.
        start: seconds from the start of the file to the first frame.
        sound: whether the file has a sound track.
        notes: sentences on what a user should know of how the file was read.

    Raises:
        VideoError: not a readable video. Raised while iterating.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float | None = None,
        short_side: int | None = None,
        rate: float = 30.0,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        """
        Args:
            path: a video file, or a folder of numbered pictures (0001.png ...).
            fps: frames a second to return; None returns each decoded frame.
            short_side: frames with a longer short side are reduced to it (area average).
            rate: frames a second of a folder of pictures.
            longest_pause: seconds between two frames; longer pauses are cut out. A large value keeps the whole
                length, with the frame before the pause repeated, as sound needs it.
        """
        for name, value in (("fps", fps), ("rate", rate), ("longest_pause", longest_pause)):
            if value is not None and not (math.isfinite(value) and value > 0):
                kind = "a length of time" if name == "longest_pause" else "a frame rate"
                raise ValueError(f"{name}: {value} is not {kind}; give a number above 0")
        self.path, self.wanted, self.short_side = Path(path), fps, short_side
        self.rate, self.longest_pause = rate, longest_pause
        self.fps = fps or 0.0
        self._reset()

    def _reset(self) -> None:
        self._facts = Facts()
        self._player = Player(self._facts, self.short_side)
        self.index, self.start, self.repeated, self._given, self._rate = -1, 0.0, 0, 0, 0.0
        self.breaks: list[int] = []
        self.held: list[tuple[int, int]] = []
        self._pauses: list[tuple[float, float]] = []
        self._skipped: list[tuple[int, float]] = []
        self._before: np.ndarray | None = None
        self._run = 0

    decoded = property(lambda self: self._facts.decoded)
    sound = property(lambda self: self._facts.sound)
    size = property(lambda self: self._player.size)
    full_size = property(lambda self: self._player.full_size)
    rotation = property(lambda self: self._player.rotation)
    mirrored = property(lambda self: self._player.mirrored)

    @property
    def notes(self) -> list[str]:
        facts, notes = self._facts, list(self._facts.notes)
        if facts.interlaced:
            notes.append(f"{facts.interlaced} interlaced frames deinterlaced")
        if facts.damaged:
            notes.append(f"{facts.damaged} corrupt frames left out")
        notes += [f"pause of {length:.1f} s cut at {time:.1f} s" for time, length in self._pauses[:3]]
        if len(self._pauses) > 3:
            notes.append(f"{len(self._pauses) - 3} more pauses cut")
        for first, last in self.held[:3]:
            notes.append(f"picture held for {(last - first) / self.fps:.1f} s at {first / self.fps:.1f} s")
        if len(self.held) > 3:
            notes.append(f"{len(self.held) - 3} more pictures held")
        if self._given and self.repeated > NOTED_REPEATS * self._given:
            slow = f" ({self._rate:.3g} frames a second in the file)" if 0 < self._rate < 0.95 * self.fps else ""
            notes.append(f"{self.repeated} of {self._given} frames repeat the one before{slow}")
        return notes

    def __iter__(self) -> Generator[np.ndarray]:
        self._reset()
        try:
            with reading(self.path, self._facts), closing(frames_of(self.path, self._facts, self.rate)) as frames:
                yield from self._each(frames) if self.wanted is None else self._resampled(frames)
        finally:
            self._end_run()

    def _each(self, frames: Iterator[Decoded]) -> Iterator[np.ndarray]:
        previous: Decoded | None = None
        for decoded in frames:
            self.fps = self._facts.rate
            cut = False
            if previous is not None:
                step, cut = self._step(previous, decoded)
                if cut and previous.time is not None and decoded.time is not None:
                    self._skip(self._given, decoded.time - previous.time - step)
            self.start = (decoded.time or 0.0) if previous is None else self.start
            yield from self._show(decoded, 1, cut)
            previous = decoded

    def _resampled(self, frames: Iterator[Decoded]) -> Iterator[np.ndarray]:
        # frame i covers the times nearer to it than to frame i + 1, hence one frame of delay
        previous: Decoded | None = None
        clock, cut = 0.0, False
        for number, decoded in enumerate(frames):
            if previous is None:
                self.start = decoded.time or 0.0
            else:
                step, pause = self._step(previous, decoded)
                count = self._instants(clock + step / 2) - self._given
                yield from self._show(previous, count, cut)
                cut = pause or (cut and count <= 0)
                if previous.time is not None and decoded.time is not None:
                    self._skip(self._given, decoded.time - previous.time - step)
                clock += step
                self._rate = number / clock
            previous = decoded
        if previous is not None:
            yield from self._show(previous, self._instants(clock + 0.5 / self._facts.rate) - self._given, cut)

    def _step(self, previous: Decoded, decoded: Decoded) -> tuple[float, bool]:
        """Seconds between two frames, and whether motion is not continuous between them."""
        usual = min(1 / self._facts.rate, self.longest_pause)
        if decoded.time is None or previous.time is None:
            return usual, decoded.gap
        step = decoded.time - previous.time
        if step > self.longest_pause and not decoded.gap:
            self._pauses.append((previous.time - self.start, step))
        long = abs(step) > self.longest_pause / (4 if decoded.gap else 1)
        return (usual if long or step <= 0 else step), long or decoded.gap

    def _skip(self, number: int, seconds: float) -> None:
        if seconds > 1e-3:
            self._skipped.append((number, seconds))

    def skipped(self, number: int) -> float:
        """Seconds of the file that are left out before the returned frame `number`, as pauses that were cut."""
        return sum(seconds for first, seconds in self._skipped if first <= number)

    def _instants(self, end: float) -> int:
        """How many times k / fps are before `end`, with a small tolerance, as times are rounded in files."""
        return math.ceil(end * self.fps - 1e-3)

    def _show(self, decoded: Decoded, count: int, cut: bool) -> Iterator[np.ndarray]:
        """The picture of a frame `count` times; `cut`: it begins after a pause."""
        if count <= 0:
            return
        array = self._player.show(decoded.frame)
        self.index = decoded.index
        stride = max(1, min(array.shape[:2]) // GRID)
        grid = array[::stride, ::stride, 1].astype(np.int16)
        # compared with the first picture of a run, so that a slow fade is no repeat
        if self._before is None or cut or not np.abs(grid - self._before).max() <= SAME:
            self._end_run()
            self._before = grid
        else:
            self._repeat()
        if cut:
            self._break(self._given)
        for number in range(count):
            if number:
                self._repeat()
            self._given += 1
            yield array

    def _repeat(self) -> None:
        self.repeated += 1
        self._run += 1

    def _end_run(self) -> None:
        """Another picture comes next: what has repeated one picture until now is held if it is long."""
        first, last, self._run, self._before = self._given - self._run, self._given, 0, None
        if self.fps and (last - first) / self.fps > self.longest_pause:
            self.held.append((first, last))
            self._break(first)
            self._break(last)

    def _break(self, number: int) -> None:
        if number and number not in self.breaks:
            insort(self.breaks, number)


def read_video(
    path: str | Path, *, fps: float | None = None, max_frames: int | None = None
) -> tuple[np.ndarray, float]:
    """The frames of a video as uint8 [F,H,W,3] and their frame rate.

    Args:
        fps: resample to this rate by timestamps; None keeps every decoded frame.
        max_frames: stop after this many.

    Raises:
        VideoError: not a readable video, or one without frames; a ValueError.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames: {max_frames} reads nothing; give 1 or more, or None for all")
    video = Video(path, fps=fps)
    with closing(iter(video)) as reader:
        frames = list(islice(reader, max_frames))
    if not frames:
        raise VideoError(Path(path), "no frames")
    return np.stack(frames), video.fps
