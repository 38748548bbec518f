"""Videos with sound."""

from pathlib import Path
from typing import Any

import av
import numpy as np

from entprog.prepare.video import read_video


def with_sound(silent: Path, out: Path) -> None:
    """The same video with a tone."""
    frames, fps = read_video(silent)
    with av.open(str(out), "w") as container:
        video: Any = container.add_stream("libx264", rate=round(fps))
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        audio: Any = container.add_stream("aac", rate=24000, layout="mono")
        tone = np.sin(np.arange(int(24000 * len(frames) / fps)) * 440 * 2 * np.pi / 24000).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 24000, 0
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))
