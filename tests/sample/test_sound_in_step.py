"""Sound of a drive whose pause is cut out: what is heard and what is seen in the clip belong together."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from entprog.prepare.video import Video
from entprog.sample import animate, drive, estimator, sample
from entprog.sample.panels import PANEL
from stand_in import StandIn, painted
from untrained_run import untrained_run

RATE, SOUND = 10, 16000
SIZE = (96, 64)
PAUSE = 3.0
BEFORE, AFTER, FLASH = 5, 12, 6
"""Frames before and after the pause, and the one of those after it at which a lamp is lit and a tone begins."""
LAMP = 10
"""Columns of the lamp at the left."""


class OnePerson(StandIn):
    """Someone stands still in all frames; nobody is found in photos."""

    def __init__(self) -> None:
        super().__init__(lambda i: ((32, 24, 14), 1))

    def single(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(1, 18, 3), torch.zeros(1)


def paused(path: Path, codec: str, first: float) -> Path:
    """Someone and a lamp, with a pause in between. The file's clock begins at `first`."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=1000)
        video.width, video.height, video.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        audio: Any = container.add_stream(codec, rate=SOUND, layout="mono")
        people = painted(BEFORE + AFTER, SIZE, lambda i: [((32 + i % 3, 24, 14), (200, 40, 40))])
        people[:, :, :LAMP] = 0
        people[BEFORE + FLASH :, :, :LAMP] = 255
        for number, pixels in enumerate(people):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = round(1000 * (first + number / RATE + PAUSE * (number >= BEFORE)))
            container.mux(video.encode(frame))
        times = np.arange(round(SOUND * (first + PAUSE + (BEFORE + AFTER) / RATE))) / SOUND
        tone = np.sin(times * 500 * 2 * np.pi) * (times >= first + PAUSE + (BEFORE + FLASH) / RATE)
        sound = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts = SOUND, 0
        for piece in av.AudioResampler(format=audio.format, layout="mono", rate=SOUND).resample(sound):
            container.mux(audio.encode(piece))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return path


def onset(path: Path) -> float:
    """Seconds after the first picture at which the tone begins."""
    with av.open(str(path)) as container:
        begin = float(container.streams.video[0].start_time * container.streams.video[0].time_base)
        for frame in container.decode(audio=0):
            loud = np.abs(frame.to_ndarray().reshape(-1)) > 0.1
            if loud.any():
                return float(frame.time + int(loud.argmax()) / frame.sample_rate - begin)
    raise AssertionError("nothing is heard")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(
    ("name", "codec", "first", "longest"),
    [
        ("a.mp4", "aac", 0.0, 2.0),
        ("a.mkv", "pcm_s16le", 0.0, 2.0),
        ("a.mkv", "pcm_s16le", 0.7, 2.0),
        ("a.mkv", "pcm_s16le", 0.7, 60.0),
    ],
)
def test_the_tone_is_heard_when_the_lamp_is_lit(
    name: str, codec: str, first: float, longest: float, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the pause cut out the second piece, which is the longer one, is animated; else all of it with its pause."""
    monkeypatch.setattr(estimator, "default_estimator", OnePerson)
    monkeypatch.setattr(animate, "generated", lambda *given, **_: [torch.zeros(given[3], 3, 16, 16)])
    monkeypatch.setattr(drive, "LONGEST_PAUSE", longest)
    Image.new("RGB", (64, 96), (90, 90, 90)).save(tmp_path / "me.png")
    said: list[str] = []
    written = sample(
        run, reference=tmp_path / "me.png", drive=paused(tmp_path / name, codec, first), out=tmp_path / "clip.mp4",
        fps=RATE, panel=True, say=said.append,
    )  # fmt: skip
    assert isinstance(written, Path)
    shown = [float(frame[60:130, -PANEL + 4 : -PANEL + 16].mean()) for frame in Video(written)]
    wanted = AFTER if longest < PAUSE else BEFORE + AFTER + round(PAUSE * RATE)
    assert abs(len(shown) - wanted) <= 3, said  # an mp4's usual interval is its mean, in which the pause counts
    lit = next(number for number, light in enumerate(shown) if light > 128)
    assert lit > 0 and onset(written) == pytest.approx(lit / RATE, abs=0.06), said
