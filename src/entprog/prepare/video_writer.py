"""Frames -> video files that browsers play, with the sound of another file."""

import math
import sys
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from PIL import Image

from entprog.prepare.atomic import atomic_path
from entprog.prepare.sound import Sound

__all__ = ["VideoWriter", "write_gif", "write_video"]

BT709, LIMITED = 1, 1
"""Codes of ITU-T H.273; written in the file, as players guess what is not."""


class VideoWriter:
    """Writes an mp4 that browsers play (H.264, index in front), frame by frame, as a context manager.

    Where FFmpeg lacks x264 it is MPEG-4 part 2. Odd sides grow by one pixel (edge repeated). The file is written
    atomically: it appears when the block ends without error.

    Attributes:
        frames: how many were added.
        notes: sentences on the sound, such as that there is none.
    """

    def __init__(
        self, path: str | Path, size: tuple[int, int], fps: float, sound: Path | None = None, sound_start: float = 0.0
    ) -> None:
        """
        Args:
            size: (width, height) of the frames.
            sound: a file whose sound is added, cut to the written length: copied where mp4 takes its codec, else
                encoded as AAC.
            sound_start: seconds after the first video frame of that file at which the written video begins.
        """
        self.path, self.size, self.fps = Path(path), size, fps
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"path: {self.path.name} is not an .mp4; give a name that ends in .mp4")
        if min(size) < 1:
            raise ValueError(f"size: {size[0]}x{size[1]} has no pixels; give 1x1 or more")
        _check_fps(fps)
        self.sound, self.sound_start = sound, sound_start
        self.frames, self.notes = 0, list[str]()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            partial = stack.enter_context(atomic_path(self.path))
            options = {"movflags": "+faststart"}
            self._container = stack.enter_context(av.open(str(partial), "w", format="mp4", options=options))
            self._add_stream()
            self._sound = None
            if self.sound is not None:
                self._sound = stack.enter_context(Sound(Path(self.sound), self._container, self.sound_start))
                self.notes += self._sound.notes
            self._stack = stack.pop_all()
        return self

    def _add_stream(self) -> None:
        h264 = "libx264" in av.codecs_available
        rate = Fraction(self.fps).limit_denominator(1001)
        stream = self._container.add_stream("libx264" if h264 else "mpeg4", rate=rate)
        stream.width, stream.height = (side + side % 2 for side in self.size)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16", "preset": "medium"} if h264 else {"qscale": "3"}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        self._stream = stream

    def add(self, frame: np.ndarray) -> None:
        """Write one frame, uint8 [H, W, 3]."""
        frame = np.asarray(frame)
        if frame.shape != (self.size[1], self.size[0], 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"frame: {frame.dtype} {frame.shape}; give uint8 {(self.size[1], self.size[0], 3)}"
            )
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        picture.pts, picture.time_base = self.frames, 1 / self._stream.codec_context.framerate
        self._container.mux(self._stream.encode(picture))
        self.frames += 1
        if self._sound is not None:
            self._sound.write(self.frames / self.fps)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._finish()
            except BaseException:
                self._stack.__exit__(*sys.exc_info())
                raise
        self._stack.__exit__(kind, error, trace)

    def _finish(self) -> None:
        if not self.frames:
            raise ValueError("frames: none were added; give at least one frame, uint8 [H,W,3]")
        self._container.mux(self._stream.encode(None))
        if self._sound is not None:
            self._sound.end()
            self.notes[:] = self._sound.notes


def write_video(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Write uint8 RGB frames [F,H,W,3] as `VideoWriter` does."""
    frames = _checked(frames, fps)
    with VideoWriter(path, (frames.shape[2], frames.shape[1]), fps) as writer:
        for frame in frames:
            writer.add(frame)


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
    _check_fps(fps)
    return frames


def _check_fps(fps: float) -> None:
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: {fps} is not a frame rate; give a number above 0")
