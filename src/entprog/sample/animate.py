"""Sample: animate the person of a picture with the poses of a video.

Shape legend: F frames, C latent channels, h w latent height and width, H W height and width in pixels.
"""

import re
import shutil
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from entprog.codecs.base import Codec
from entprog.codecs.pca import to_uint8
from entprog.config.load import updated
from entprog.config.schema import Config, EvaluateConfig, SampleConfig
from entprog.data.posemap import draw_pose, draw_pose_in
from entprog.data.shards import ClipRow, Shards
from entprog.data.source import open_data
from entprog.poses.base import FOUND_THRESHOLD
from entprog.poses.loading import default_estimator
from entprog.prepare.crop import Box, crop, person_box, resize
from entprog.prepare.file import prepare_file
from entprog.prepare.video import EXTENSIONS, write_gif, write_video
from entprog.tasks.base import Animation, HeldOutClip, Task
from entprog.tasks.finished_run import open_run

PANEL = 192
GUTTER = 4
GUTTER_GREY = 128
FPS = 12.0
LONGEST_SIDE = 1536
VIDEO_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Drive:
    """Poses to follow: keypoints [F, 18, 3], the frames [F, 3, H, W] in 0..1 that they are from, frames a second."""

    name: str
    keypoints: np.ndarray
    frames: Tensor
    fps: float


def sample(
    run: Path,
    *,
    reference: str,
    drive: str,
    out: Path,
    resolution: int | str | None = None,
    frames: int | None = None,
    prompt: str = "",
    device: str = "",
    **sampling: Any,
) -> Path:
    """Generate one clip of the reference's person in the poses of `drive`.

    Args:
        run: a folder made by `entprog train`.
        reference: an image file (cropped to a square around the person where one is found, else its middle), a
            clip of the run's data by name (its first frame), or "FOLDER:CLIP" of another prepared folder.
        drive: a video file, whose poses are estimated and cropped as `entprog prepare` does, or a clip as above.
        out: folder; gets NAME.mp4 and NAME.gif (reference | pose | generated | drive) and frames/0000.png ...
        resolution: side in pixels, or "HEIGHTxWIDTH"; by default that of the run's last phase.
        prompt: what the clip shows in words, for models that take text.
        frames: maximum number; by default that of the run's [evaluate].
        device: "auto", "cpu", "cuda" or "cuda:N"; empty for where the run trained.
        sampling: keys of [sample], such as seed; what is left out or None is as in the run.

    Returns:
        The path of the mp4.

    Raises:
        ValueError: the run, the reference or the drive can't be used; the message says what to give instead.
    """
    run, out = Path(run), Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out = {str(out)!r}: a file; give a folder")
    image = _read_image(Path(reference)) if Path(reference).is_file() else None
    sides = None if resolution is None else updated(EvaluateConfig(), "evaluate", {"resolution": resolution}).sides
    config, task = open_run(run, device=device)
    codec = task.codec
    if codec is None:
        raise ValueError(f"run = {str(run)!r}: its task {config.task!r} makes no clips")
    settings = updated(config.sample, "sample", sampling)
    clip = task.animate(Animation(image, reference, drive, sides, frames, prompt))
    if clip is not None:
        return _animated(task, clip, settings, out, Path(reference).stem)
    if prompt:
        raise ValueError(f"prompt = {prompt!r}: the task {config.task!r} takes no text; leave it out")
    size, width = sides or list(config.phases.values())[-1].sides
    if width != size:
        raise ValueError(f"resolution = {resolution!r}: the task {config.task!r} makes squares; give one side")
    if size < 16 or size % 8:
        raise ValueError(f"resolution = {size}: give a multiple of 8 from 16 up")
    count = frames or config.evaluate.frames
    if count < 1:
        raise ValueError(f"frames = {count}: give 1 or more")
    source = _Source(config)
    name, picture = read_reference(reference, size, codec, source)
    driving = read_drive(drive, size, count, codec, source)
    maps = torch.from_numpy(draw_pose(driving.keypoints, size)).movedim(-1, -3)
    conditions = {"reference": picture[None], "pose": maps[None]}
    shown = task.generate(conditions, settings, [0], progress=True)[0]
    target = out / f"{name}-{driving.name}"
    write_panels(
        target, codec.decode(picture), driving.keypoints, shown, driving.frames,
        fps=driving.fps, frames=out / "frames",
    )  # fmt: skip
    return target.with_name(target.name + ".mp4")


def _animated(task: Task, clip: HeldOutClip, settings: SampleConfig, out: Path, name: str) -> Path:
    """Generate a clip that the task has put together, and write it."""
    conditions = {name: value[None] for name, value in clip.conditions.items()}
    shown = task.generate(conditions, settings, [clip.key], progress=True)[0]
    target = out / _plain(f"{name}-{clip.clip}")
    write_panels(target, clip.reference, clip.keypoints, shown, clip.truth, fps=clip.fps, frames=out / "frames")
    return target.with_name(target.name + ".mp4")


class _Source:
    """Clips by name: of the run's own data, opened at first use, or of a prepared folder."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._own: Shards | None = None

    def find(self, field: str, name: str, else_give: str) -> tuple[Shards, ClipRow]:
        folder, colon, clip = name.rpartition(":")
        if colon and not Path(folder).is_dir():
            raise ValueError(f"{field} = {name!r}: no folder {folder!r}; give FOLDER:CLIP of a prepared folder")
        if colon:
            shards = Shards(folder)
        else:
            shards = self._own = self._own or open_data(self.config.data)
        rows = {row.clip: row for row in shards.rows}
        if clip in rows:
            return shards, rows[clip]
        near = get_close_matches(clip, rows, 3, cutoff=0.3) or sorted(rows)[:3]
        raise ValueError(
            f"{field} = {name!r}: no such file, and no such clip among {len(rows)} in {shards.folder}; "
            f"give {else_give} or a clip, such as {', '.join(near)}"
        )


def read_reference(given: str, size: int, codec: Codec, source: _Source) -> tuple[str, Tensor]:
    """A name and the latents [C, h, w] of the reference image."""
    path = Path(given)
    if path.is_file():
        square = torch.from_numpy(_square(_read_image(path)))
        return _plain(path.stem), codec.encode(resize(square[None], size))[0]
    if path.is_dir():
        raise ValueError(f"reference = {given!r}: a folder; give an image file or FOLDER:CLIP")
    shards, row = source.find("reference", given, "an image file")
    return _plain(row.clip), shards.latents(row, size, 0, 1)[0]


def read_drive(given: str, size: int, frames: int, codec: Codec, source: _Source) -> Drive:
    """The first `frames` poses of a video file or a clip."""
    path = Path(given)
    if path.is_file():
        return _drive_of_video(path, size, frames, codec)
    if path.is_dir():
        raise ValueError(f"drive = {given!r}: a folder; give a video file or FOLDER:CLIP")
    shards, row = source.find("drive", given, "a video file")
    count = min(frames, row.frames)
    shown = codec.decode(shards.latents(row, size, 0, count))
    return Drive(_plain(row.clip), shards.pose(row, 0, count), shown, row.fps)


def _drive_of_video(path: Path, size: int, frames: int, codec: Codec) -> Drive:
    """The longest shot of one person in a file, from its first frame on."""
    if path.suffix.lower() not in EXTENSIONS:
        raise ValueError(f"drive = {str(path)!r}: not a video; give a {', '.join(EXTENSIONS)} file or a clip's name")
    settings = {
        "fps": FPS,
        "people": "largest",
        "min_frames": 1,
        "max_frames": int(VIDEO_SECONDS * FPS),
        "sizes": [size],
    }
    row, clips = prepare_file(path, path.stem, settings, default_estimator(), codec.encode)
    if not clips:
        raise ValueError(
            f"drive = {str(path)!r}: {row['reason']}; give a video in which one person is seen, well lit and large"
        )
    longest = max(clips.values(), key=lambda clip: len(clip["pose"]))
    count = min(frames, len(longest["pose"]))
    shown = codec.decode(longest[f"latents_{size}"][:count])
    return Drive(_plain(path.stem), longest["pose"][:count].numpy(), shown, FPS)


def _read_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3], rotated by its metadata, at most 1536 pixels a side."""
    try:
        with Image.open(path) as opened:
            turned = ImageOps.exif_transpose(opened)
            turned.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            return np.array(turned.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"reference = {str(path)!r}: {_reason(error)}; give a PNG, JPEG or WebP file") from error
    except OSError as error:
        raise ValueError(f"reference = {str(path)!r}: cannot be read ({error}); give a whole image file") from error


def _reason(error: Exception) -> str:
    return "not an image" if isinstance(error, UnidentifiedImageError) else "too many pixels"


def _square(image: np.ndarray) -> np.ndarray:
    """The square around the person, else the middle of the picture."""
    height, width = image.shape[:2]
    keypoints, score = default_estimator().single(torch.from_numpy(image)[None])
    box: Box | None = None
    if float(score[0]) >= FOUND_THRESHOLD:
        pixels = keypoints.numpy() * np.array([width, height, 1], np.float32)
        box = person_box(pixels, width, height)
    side = min(height, width)
    return crop(image, box or ((width - side) // 2, (height - side) // 2, side))


def _plain(name: str) -> str:
    """A name that is safe in file names."""
    return re.sub(r"[^\w.-]+", "_", name)


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
    target.parent.mkdir(parents=True, exist_ok=True)
    count, (height, width) = len(generated), generated.shape[-2:]
    times = max(1, -(-PANEL // height))
    panel = (height * times, width * times)
    columns = [
        _enlarged(reference[None], panel).repeat(count, 0),
        draw_pose_in(keypoints, *panel),
        _enlarged(generated, panel),
        _enlarged(truth, panel),
    ]
    gutter = np.full((count, panel[0], GUTTER, 3), GUTTER_GREY, np.uint8)
    parts = [part for column in columns for part in (column, gutter)][:-1]
    shown = np.concatenate(parts, 2)
    _write_frames(frames, to_uint8(generated))
    write_video(target.with_name(target.name + ".mp4"), shown, fps)
    write_gif(target.with_name(target.name + ".gif"), shown, fps)


def _enlarged(images: Tensor, sides: tuple[int, int]) -> np.ndarray:
    """Images [F, 3, H, W] in 0..1 as uint8 [F, *sides, 3], bicubic."""
    size = (sides[1], sides[0])
    return np.stack([np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BICUBIC)) for i in to_uint8(images)])


def _write_frames(folder: Path, frames: np.ndarray) -> None:
    """Write uint8 [F, H, W, 3] as 0000.png ..., atomically, in place of an earlier folder."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for i, frame in enumerate(frames):
            Image.fromarray(frame).save(partial / f"{i:04d}.png")
        if folder.exists():
            if any(not re.fullmatch(r"\d{4}\.png", path.name) for path in folder.iterdir()):
                raise ValueError(f"out = {str(folder.parent)!r}: {folder.name} holds other files; choose another")
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
