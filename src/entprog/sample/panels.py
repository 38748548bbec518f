"""Panels side by side, and the files of a clip: mp4, GIF and single frames.

Shape legend: F frames, H W height and width in pixels.
"""

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from entprog.codecs.pca import to_uint8
from entprog.data.posemap import draw_pose_in
from entprog.prepare.video import write_gif
from entprog.prepare.video_writer import VideoWriter

__all__ = ["GUTTER", "PANEL", "beside", "frame_folder", "pose_panel", "write_clip", "write_panels"]

PANEL = 192
"""Least height of a panel: smaller clips are enlarged by a whole number."""
GUTTER = 4
GUTTER_GREY = 128
GIF_FRAMES = 120
"""Longer clips have no GIF, which would be kept in memory whole."""


def beside(panels: Sequence[np.ndarray], sides: tuple[int, int]) -> np.ndarray:
    """Images uint8 [H, W, 3] of `sides`, or already enlarged, as one image with gutters."""
    height, width = sides
    times = max(1, -(-PANEL // height))
    gutter = np.full((height * times, GUTTER, 3), GUTTER_GREY, np.uint8)
    columns = [_enlarged(panel, (height * times, width * times)) for panel in panels]
    return np.concatenate([part for column in columns for part in (column, gutter)][:-1], 1)


def pose_panel(keypoints: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """A pose [18, 3] in 0..1, drawn at the size that `beside` enlarges to."""
    times = max(1, -(-PANEL // sides[0]))
    return draw_pose_in(keypoints, sides[0] * times, sides[1] * times)


def _enlarged(image: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == sides:
        return image
    return np.asarray(Image.fromarray(image).resize((sides[1], sides[0]), Image.Resampling.BICUBIC))


def write_clip(
    target: Path,
    shown: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    fps: float,
    frames: Path | None,
    gif: bool,
    sound: Path | None = None,
    sound_start: float = 0.0,
) -> int:
    """Write TARGET (mp4) frame by frame, and beside it a GIF and the single frames; returns how many there are.

    Args:
        shown: of each frame what TARGET shows and the generated picture, uint8 [H, W, 3].
        frames: folder of the generated pictures, 0000.png ...; an existing one is replaced.
        gif: also write a GIF, unless the clip is longer than `GIF_FRAMES`.
        sound: a file whose sound is kept from `sound_start` seconds on.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    count, kept = 0, []
    with ExitStack() as stack:
        folder = stack.enter_context(frame_folder(frames)) if frames is not None else None
        writer: VideoWriter | None = None
        for view, picture in shown:
            if writer is None:
                size = (view.shape[1], view.shape[0])
                writer = stack.enter_context(VideoWriter(target, size, fps, sound=sound, sound_start=sound_start))
            writer.add(view)
            if folder is not None:
                Image.fromarray(picture).save(folder / f"{count:04d}.png")
            count += 1
            if gif and count <= GIF_FRAMES + 1:
                kept.append(view)
    if gif and 0 < len(kept) <= GIF_FRAMES:
        write_gif(target.with_suffix(".gif"), np.stack(kept), fps)
    return count


@contextmanager
def frame_folder(folder: Path) -> Iterator[Path]:
    """A folder to write frames to, which takes the place of an earlier one when the block ends without error.

    Raises:
        ValueError: an earlier one holds other files.
    """
    if folder.exists() and any(not re.fullmatch(r"\d{4,}\.png", path.name) for path in folder.iterdir()):
        raise ValueError(f"out = {str(folder.parent)!r}: {folder.name} holds other files; choose another")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_panels(
    target: Path,
    reference: Tensor,
    keypoints: np.ndarray,
    generated: Tensor,
    truth: Tensor,
    *,
    fps: float,
    frames: Path,
) -> None:
    """Write TARGET.mp4 and TARGET.gif with the panels reference | pose | generated | truth, and plain frames.

    Args:
        target: path without suffix; its folder is made.
        reference: [3, H, W] in 0..1. keypoints: [F, 18, 3]. generated, truth: [F, 3, H, W] in 0..1.
        frames: folder of the generated frames at their own size, 0000.png ...; an existing one is replaced.
    """
    sides = (generated.shape[-2], generated.shape[-1])
    image, pictures = to_uint8(reference), to_uint8(generated)
    columns = zip(keypoints, pictures, to_uint8(truth), strict=True)
    shown = ((_four(image, pose, picture, true, sides), picture) for pose, picture, true in columns)
    write_clip(target.with_name(f"{target.name}.mp4"), shown, fps=fps, frames=frames, gif=True)


def _four(
    image: np.ndarray, pose: np.ndarray, picture: np.ndarray, true: np.ndarray, sides: tuple[int, int]
) -> np.ndarray:
    return beside([image, pose_panel(pose, sides), picture, true], sides)
