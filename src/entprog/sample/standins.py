"""Stand-ins, until they are in prepare/: `image.read_image` and `video.VideoWriter`, with the same signatures."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

GREY = 128


def read_image(path: Path, field: str = "reference", most: int = 1536) -> np.ndarray:
    """uint8 [H, W, 3], rotated by its metadata, at most `most` pixels a side; transparent parts over grey."""
    try:
        with Image.open(path) as opened:
            turned = ImageOps.exif_transpose(opened)
            if turned.mode.startswith("I"):
                values = np.asarray(turned, np.float64)
                turned = Image.fromarray((values / (257 if values.max() > 255 else 1)).round().astype(np.uint8))
            if "A" in turned.getbands() or "transparency" in turned.info:
                image = turned.convert("RGBA")
                turned = Image.alpha_composite(Image.new("RGBA", image.size, (GREY, GREY, GREY, 255)), image)
            turned.thumbnail((most, most))
            return np.array(turned.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        why = "not an image" if isinstance(error, UnidentifiedImageError) else "too many pixels"
        raise ValueError(f"{field} = {str(path)!r}: {why}; give a PNG, JPEG or WebP file") from error
    except OSError as error:
        raise ValueError(f"{field} = {str(path)!r}: cannot be read ({error}); give a whole image file") from error


class VideoWriter:
    """An mp4, frame by frame, with the sound of another file."""

    def __init__(
        self, path: Path, size: tuple[int, int], fps: float, sound: Path | None = None, sound_start: float = 0.0
    ) -> None:
        self.path, self.size, self.fps, self.sound, self.start = Path(path), size, fps, sound, sound_start
        self.silent = self.path.with_name(f".{self.path.stem}.silent.mp4")
        self.partial = self.path.with_name(f".{self.path.stem}.partial.mp4")
        self.frames = 0

    def __enter__(self) -> Self:
        self.container: Any = av.open(str(self.silent), "w", format="mp4", options={"movflags": "+faststart"})
        self.stream: Any = self.container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1001))
        self.stream.width, self.stream.height = (side + side % 2 for side in self.size)
        self.stream.pix_fmt, self.stream.options = "yuv420p", {"crf": "16", "preset": "medium"}
        return self

    def add(self, frame: np.ndarray) -> None:
        """The next frame, uint8 [H, W, 3]."""
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.container.mux(self.stream.encode(None))
            self.container.close()
            if error is None:
                self._finish()
        finally:
            self.silent.unlink(missing_ok=True)
            self.partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self.sound is None:
            self.silent.replace(self.path)
            return
        seconds = self.frames / self.fps
        with av.open(str(self.sound)) as source, av.open(str(self.silent)) as silent:
            if not source.streams.audio:
                self.silent.replace(self.path)
                return
            options = {"movflags": "+faststart"}
            with av.open(str(self.partial), "w", format="mp4", options=options) as out:
                self._join(source, silent, out, seconds)
        self.partial.replace(self.path)

    def _join(self, source: Any, silent: Any, out: Any, seconds: float) -> None:
        given = source.streams.audio[0]
        video = out.add_stream_from_template(silent.streams.video[0])
        audio = out.add_stream("aac", rate=given.rate)
        resampler = av.AudioResampler("fltp", "stereo", given.rate)
        for packet in silent.demux(silent.streams.video[0]):
            if packet.dts is not None:
                packet.stream = video
                out.mux(packet)
        left, at = round(seconds * given.rate), 0
        for frame in source.decode(given):
            if frame.time is not None and frame.time + frame.samples / given.rate <= self.start:
                continue
            for part in resampler.resample(frame):
                if left <= 0:
                    break
                part.pts, at = at, at + part.samples
                left -= part.samples
                out.mux(audio.encode(part))
        out.mux(audio.encode(None))
