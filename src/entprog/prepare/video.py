"""Video files <-> frames, through PyAV (FFmpeg inside, no program needed)."""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from entprog.prepare.atomic import atomic_path

EXTENSIONS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")
LONGEST_PAUSE = 2.0
"""Seconds between two frames; a larger gap is treated as a broken timestamp and replaced by the usual interval."""


class VideoError(ValueError):
    """A file that is no readable video; `reason` says why, without its path."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"video: cannot read {path} ({reason})")
        self.reason = reason


class Video:
    """The frames of a video file, decoded one by one: iterate for uint8 RGB arrays [H,W,3].

    Rotation and non-square pixels from the file's metadata are applied. With `fps`, the frame nearest in time
    is returned for each time k / fps (so frames are left out or repeated); without, each decoded frame.
    Iterating again restarts and returns the same frames.

    Attributes, complete after the iteration:
        decoded: frames that were decoded (never an estimate from duration x rate).
        fps: frames a second of the returned frames.
        rotation: degrees counterclockwise that were applied, one of -180, -90, 0, 90, 180.
        size: (width, height) of the returned frames; full_size: the same without `short_side`.

    Raises:
        VideoError: not a readable video. Raised while iterating.
    """

    def __init__(self, path: str | Path, *, fps: float | None = None, short_side: int | None = None) -> None:
        """`short_side`: frames with a longer short side are reduced to it (area average)."""
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps: {fps} is not a frame rate; give a number above 0")
        self.path, self.wanted, self.short_side = Path(path), fps, short_side
        self.decoded, self.index, self.rotation, self.fps = 0, -1, 0, fps or 0.0
        self.size, self.full_size = (0, 0), (0, 0)
        self._pixel_aspect = 1.0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.decoded = 0
        if not self.path.exists():
            raise VideoError(self.path, "it does not exist")
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise VideoError(self.path, "no video in it")
                yield from self._frames(container)
        except av.FFmpegError as error:
            place = f" after {self.decoded} frames" if self.decoded else ""
            raise VideoError(self.path, f"{error.strerror}{place}") from error

    def _frames(self, container: av.container.InputContainer) -> Iterator[np.ndarray]:
        stream = container.streams.video[0]
        self._pixel_aspect = float(stream.sample_aspect_ratio or 1)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        if self.wanted is None:
            self.fps = rate
            for frame in container.decode(stream):
                self.decoded, self.index = self.decoded + 1, self.decoded
                yield self._array(frame)
            return
        # frame i covers the times nearer to it than to frame i + 1, hence one frame of delay
        previous, clock, stamp, given = None, 0.0, None, 0
        for frame in container.decode(stream):
            self.decoded += 1
            if previous is not None:
                step = 1 / rate if frame.time is None or stamp is None else frame.time - stamp
                step = step if 0 < step <= LONGEST_PAUSE else 1 / rate
                yield from self._repeat(previous, given, clock + step / 2)
                given = max(given, self._instants(clock + step / 2))
                clock += step
            previous, stamp, self.index = frame, frame.time, self.decoded - 1
        if previous is not None:
            yield from self._repeat(previous, given, clock + 0.5 / rate)

    def _instants(self, end: float) -> int:
        """How many times k / fps are before `end`, with a small tolerance, as times are rounded in files."""
        return math.ceil(end * self.fps - 1e-3)

    def _repeat(self, frame: av.VideoFrame, given: int, end: float) -> Iterator[np.ndarray]:
        count = self._instants(end) - given
        if count > 0:
            array = self._array(frame)
            for _ in range(count):
                yield array

    def _array(self, frame: av.VideoFrame) -> np.ndarray:
        array: np.ndarray
        width, height = max(1, round(frame.width * self._pixel_aspect)), frame.height
        full = (width, height)
        if self.short_side is not None and min(width, height) > self.short_side:
            factor = self.short_side / min(width, height)
            width, height = max(1, round(width * factor)), max(1, round(height * factor))
        if (width, height) == (frame.width, frame.height):
            array = frame.to_ndarray(format="rgb24")
        else:
            array = frame.reformat(width, height, format="rgb24", interpolation="AREA").to_ndarray()
        self.rotation = round(frame.rotation / 90) * 90
        if self.rotation:
            array = np.ascontiguousarray(np.rot90(array, self.rotation // 90))
        self.size = (array.shape[1], array.shape[0])
        self.full_size = full if self.rotation % 180 == 0 else full[::-1]
        return array


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
    frames: list[np.ndarray] = []
    for frame in video:
        if frames and frame.shape != frames[0].shape:
            raise VideoError(Path(path), f"its frames change from {frames[0].shape} to {frame.shape}")
        frames.append(frame)
        if len(frames) == max_frames:
            break
    if not frames:
        raise VideoError(Path(path), "no frames")
    return np.stack(frames), video.fps


def write_video(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Write uint8 RGB frames [F,H,W,3] as an mp4 that browsers play (H.264, index in front).

    Where FFmpeg lacks x264 it is MPEG-4 part 2. Odd sides grow by one pixel (edge repeated). The file is written
    atomically.
    """
    path, frames = Path(path), _checked(frames, fps)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"path: {path.name} is not an .mp4; give a name that ends in .mp4")
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    h264 = "libx264" in av.codecs_available
    with atomic_path(path) as partial:
        options = {"movflags": "+faststart"}
        with av.open(str(partial), "w", format="mp4", options=options) as container:
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream("libx264" if h264 else "mpeg4", rate=rate)
            stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
            stream.options = {"crf": "16", "preset": "medium"} if h264 else {"qscale": "3"}
            for array in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            container.mux(stream.encode(None))


def write_gif(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Write uint8 RGB frames [F,H,W,3] as a GIF that loops. Times are rounded to its 10 ms, without drift."""
    path, frames = Path(path), _checked(frames, fps)
    ends = [round(100 * (i + 1) / fps) * 10 for i in range(len(frames))]
    durations = [max(10, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    images = [Image.fromarray(frame) for frame in frames]
    with atomic_path(path) as partial:
        images[0].save(partial, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)


def _checked(frames: np.ndarray, fps: float) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"frames: {frames.dtype} {frames.shape}; give at least one frame, uint8 [F,H,W,3]")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: {fps} is not a frame rate; give a number above 0")
    return frames
