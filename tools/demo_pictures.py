"""The README's pictures from a finished demo: python tools/demo_pictures.py runs/demo [CLIP...]

docs/images/demo.gif: held-out clips below each other, from left to right as each run of the demo generated them, in
the order of its table, and the truth. docs/images/schedule.svg: which block trained when in the runs that trained.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from entprog.demo.arms import CLIPS
from entprog.prepare.video import read_video, write_gif
from entprog.report import collect, schedule_picture
from entprog.sample.animate import GUTTER, PANEL

OUT = Path(__file__).parents[1] / "docs" / "images"
SIDE, GAP = 144, 4
LARGEST = 2_000_000
GENERATED, TRUTH = 2, 3
"""Panels of a run's sample clips."""


def main() -> None:
    folder, chosen = Path(sys.argv[1]), sys.argv[2:]
    runs = [folder / CLIPS.before, *(folder / arm.label for arm in CLIPS.arms)]
    names = chosen or sorted(path.stem for path in (runs[0] / "samples" / "final").glob("*.mp4"))[:2]
    rows = []
    for name in names:
        clips = [read_video(run / "samples" / "final" / f"{name}.mp4") for run in runs]
        shown = [_panel(frames, GENERATED) for frames, _ in clips] + [_panel(clips[0][0], TRUTH)]
        rows.append(_joined(shown, 2))
    target = OUT / "demo.gif"
    write_gif(target, _joined(rows, 1), clips[0][1])
    size = target.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"demo_pictures.py: {target.name} has {size} bytes, more than {LARGEST}; name fewer clips")
    picture = schedule_picture([collect(run) for run in runs])
    (OUT / "schedule.svg").write_text(picture, encoding="utf-8")
    print(f"{target}: {', '.join(names)}, {size / 1e6:.2f} MB; {OUT / 'schedule.svg'}: {len(picture) / 1e3:.0f} kB")


def _panel(frames: np.ndarray, place: int) -> np.ndarray:
    left = place * (PANEL + GUTTER)
    part = frames[:, :, left : left + PANEL]
    return np.stack([np.asarray(Image.fromarray(frame).resize((SIDE, SIDE))) for frame in part])


def _joined(parts: list[np.ndarray], axis: int) -> np.ndarray:
    """Clips uint8 [F, H, W, 3] beside (2) or below (1) each other, with white between; as long as the shortest."""
    count = min(map(len, parts))
    shape = list(parts[0][:count].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part[:count], gap)][:-1], axis)


if __name__ == "__main__":
    main()
