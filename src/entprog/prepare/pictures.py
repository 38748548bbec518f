"""Small pictures of videos, with poses drawn over them: for the data set's report and the studio.

Shape legend: F frames, h w height and width in pixels.
"""

import io
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from entprog.data.posemap import draw_pose_in
from entprog.prepare.crop import resize
from entprog.prepare.picture import Player
from entprog.prepare.video import Video, VideoError
from entprog.prepare.video_file import Decoded, Facts, best_stream, decoder_of, describe, opened, progressive

SHORT_FILE = 400
"""Decoded frames; longer files are read by seeking."""
FURTHEST = 600
"""Frames that are decoded after a seek before it is given up."""
NEAR = 1.0
"""Seconds; a wanted frame that is nearer than this to the last one is decoded, not sought."""
OPAQUE = 110.0
GAP = 2


class Budget:
    """Time that may be spent: `left()` is False once it is over."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> bool:
        return time.monotonic() < self.end


def frames_at(
    path: Path, numbers: Sequence[int], *, fps: float, short_side: int, decoded: int, budget: Budget
) -> dict[int, np.ndarray]:
    """Frames of a video by their number at `fps`, uint8 [h,w,3] by number; those that can't be had are left out.

    Short files are read as `prepare` reads them. In long ones the times number / fps are sought, so that the time
    this takes does not grow with the length; after a pause in the file's timestamps these may be neighbours.

    Args:
        numbers: ascending.
        short_side: larger frames are reduced to it.
        decoded: how many frames the file has.
    """
    read = _by_reading if path.is_dir() or decoded <= SHORT_FILE else _by_seeking
    found: dict[int, np.ndarray] = {}
    try:
        for number, frame in read(path, numbers, fps, short_side, budget):
            found[number] = frame
    except (VideoError, av.FFmpegError, OSError, OverflowError):
        return found
    return found


def poster(path: Path, *, short_side: int) -> np.ndarray | None:
    """One frame, about a third into the video; None where it can't be read."""
    try:
        if path.is_dir():
            return next(iter(Video(path, short_side=short_side)), None)
        with _Shown(path, short_side) as video:
            if video.container.duration and video.container.duration > av.time_base:
                video.container.seek(int((video.container.start_time or 0) + video.container.duration / 3))
            return next((video.show(decoded) for decoded in video.frames()), None)
    except (VideoError, av.FFmpegError, OSError, OverflowError):
        return None


def _by_reading(
    path: Path, numbers: Sequence[int], fps: float, short_side: int, budget: Budget
) -> Iterator[tuple[int, np.ndarray]]:
    wanted = set(numbers)
    frames = islice(Video(path, fps=fps, short_side=short_side), max(wanted, default=-1) + 1)
    for number, frame in enumerate(frames):
        if not budget.left():
            return
        if number in wanted:
            yield number, frame


def _by_seeking(
    path: Path, numbers: Sequence[int], fps: float, short_side: int, budget: Budget
) -> Iterator[tuple[int, np.ndarray]]:
    with _Shown(path, short_side) as video:
        start, at = None, float("-inf")
        frames = video.frames()
        for number in numbers:
            if start is None:
                first = next(frames, None)
                if first is None or first.time is None:
                    return
                start = at = first.time
                if number == 0:
                    yield 0, video.show(first)
                    continue
            time_wanted = start + number / fps
            if time_wanted - at > NEAR:
                frames = video.frames(time_wanted)
            previous: Decoded | None = None
            for decoded in islice(frames, FURTHEST):
                if decoded.time is None or not budget.left():
                    return
                at = decoded.time
                if at >= time_wanted - 1e-3:
                    if previous is not None and time_wanted - (previous.time or 0.0) < at - time_wanted:
                        decoded = previous
                    yield number, video.show(decoded)
                    break
                previous = decoded


class _Shown:
    """A file whose frames are sought and shown as `Video` shows them; a context manager.

    Raises:
        VideoError: there is no video in it.
    """

    def __init__(self, path: Path, short_side: int) -> None:
        self.path, self.facts = path, Facts()
        self._player = Player(self.facts, short_side)

    def show(self, decoded: Decoded) -> np.ndarray:
        """The picture of a frame."""
        return self._player.show(decoded.frame)

    def __enter__(self) -> "_Shown":
        self.container = opened(self.path)
        try:
            self._stream = best_stream(self.path, self.container, self.facts)
            describe(self.container, self._stream, self.facts)
            self._stream.thread_type = "AUTO"
            self._decoder = decoder_of(self._stream)
        except BaseException:
            self.container.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def frames(self, time: float | None = None) -> Iterator[Decoded]:
        """The frames from here on, or from the key frame before `time` on; interlaced ones deinterlaced."""
        if time is not None:
            self.container.seek(int(time / (self._stream.time_base or 1)), stream=self._stream)
        if self._decoder is not self._stream.codec_context:
            self._decoder.flush_buffers()
        return progressive(self._decoded(), self.facts)

    def _decoded(self) -> Iterator[Decoded]:
        for packet in self.container.demux(self._stream):
            for frame in self._decoder.decode(packet if packet.size else None):
                if frame.time_base is None:
                    frame.time_base = self._stream.time_base
                yield Decoded(frame, -1, frame.time)
            if not packet.size:
                return


def with_pose(frames: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Frames uint8 [F,h,w,3] with poses [F,18,3] drawn over them; x and y in 0..1 of width and height."""
    drawn = draw_pose_in(keypoints, *frames.shape[1:3]).astype(np.float32)
    cover = (drawn.max(-1, keepdims=True) / OPAQUE).clip(0, 1)
    return np.round(frames * (1 - cover) + drawn).clip(0, 255).astype(np.uint8)


def resized(frames: np.ndarray, height: int) -> np.ndarray:
    """Frames uint8 [F,h,w,3] at this height, in their aspect."""
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    return resize(torch.from_numpy(np.ascontiguousarray(frames)), (height, width)).numpy()


def beside(frames: np.ndarray) -> np.ndarray:
    """Frames [F,h,w,3] side by side with a white gap, [h, F*(w + 2) - 2, 3]."""
    gap = np.full((len(frames), frames.shape[1], GAP, 3), 255, np.uint8)
    joined = np.concatenate([frames, gap], 2)
    return np.concatenate(list(joined), 1)[:, :-GAP]


def jpeg(picture: np.ndarray, quality: int = 80) -> bytes:
    """A picture uint8 [h,w,3] as a JPEG file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()
