"""One video file -> windows of one person in it, encoded by a VAE, or the reason why there are none.

As in `file`, the file is read twice. A window is encoded by itself, since a slice of a longer video's latents differs
with a causal VAE.

Shape legend: n windows, F frames, T latent frames, C latent channels, h w latent height and width, H W pixels, K
reference images, L D tokens and width of an image's embedding.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from entprog.codecs.diffusers import DiffusersCodec
from entprog.data.posemap import draw_pose_in
from entprog.data.windows import OF_REFERENCES, STORED
from entprog.poses.base import PoseEstimator
from entprog.prepare.crop import (
    Box,
    Rectangle,
    crop,
    cut_out,
    face_boxes,
    fill_gaps,
    keypoints_in,
    person_rectangle,
    resize,
)
from entprog.prepare.outcome import EndedEarlyError, Outcome, finished, left_out, parts_of, unreadable
from entprog.prepare.person import Person, Piece, Row, find_person
from entprog.prepare.quality import Reason, wrong_size
from entprog.prepare.video import Video, VideoError

Size = tuple[int, int]
Keep = Callable[[str, dict[str, Tensor]], None]
EncodeImages = Callable[[Tensor], Tensor]
"""uint8 images [K,3,H,W] to embeddings [K,L,D]."""

SHARED = (*OF_REFERENCES, "blank")
"""Tensors that all windows of a clip share."""
CLIP_BYTES = 256 * 2**20
"""A clip is cut where its windows would take more memory."""
MAPS = 8
"""Pose maps drawn at once, which limits the memory."""


@dataclass(frozen=True)
class Encoders:
    """What turns frames into tensors: the codec, and an image encoder where one is used.

    Attributes:
        control: what "control" holds: "" nothing, "draw" drawn poses, else a second video of the same person.
        first: whether to store what an image-to-video model sees of each reference, encoded whole.
        face: side in pixels of the videos of the face that are stored; 0 for none.
        blank: whether to store the latents of a window that is grey throughout (0 in -1..1).
    """

    codec: DiffusersCodec
    images: EncodeImages | None = None
    control: str = ""
    first: bool = False
    face: int = 0
    blank: bool = False


@dataclass(frozen=True)
class WindowClip:
    """Neighbouring windows of one piece, which share reference images.

    Attributes:
        starts: first frame of each window in the file.
        references: frames of the reference images.
        boxes: the rectangle for each size, at full size of the frames.
        keypoints: of the piece, [n,18,3] in pixels of the full frame; the first is of frame `offset`.
        faces: of the piece, a square for each frame.
        points: of the piece, keypoints of hands and face as `keypoints`, by the name that is stored.
    """

    starts: tuple[int, ...]
    references: tuple[int, ...]
    boxes: dict[Size, Rectangle]
    keypoints: np.ndarray = field(repr=False)
    offset: int
    faces: list[Box] = field(default_factory=list, repr=False)
    points: dict[str, np.ndarray] = field(default_factory=dict, repr=False)


class ControlError(ValueError):
    """A control video that does not fit its video."""


def window_starts(frames: int, length: int) -> list[int]:
    """First frames of windows of `length` frames at a stride of half of that, the last flush with the end."""
    last = frames - length
    return [*range(0, last, -(-length // 2)), last] if last >= 0 else []


def prepare_windows_of(
    file: Path,
    name: str,
    settings: Row,
    estimator: PoseEstimator,
    encoders: Encoders,
    keep: Keep,
    control: Path | None = None,
) -> Row:
    """One file's row for prepare.jsonl; each clip's tensors go to `keep(clip, tensors)` as soon as they are there.

    Tensors are named "SIZE/NAME" (NAME of STORED), stacked over the windows; those of SHARED are once a clip.
    The row says the first frame of each window ("starts") and the rectangles ("crops").

    Never raises for the file's content: the row then says why it was dropped.

    Args:
        control: the control video.

    Raises:
        ValueError: the codec gives no finite numbers.
    """
    row, person = find_person(file, name, settings, estimator, settings["frames"])
    row |= {"starts": {}, "crops": {}}
    if person is None:
        return row
    outcomes = [outcome for piece in person.pieces for outcome in _outcomes(piece, person.size, settings, encoders)]
    clips = parts_of(outcomes, name)
    try:
        encoded = _encode(file, control, list(clips.values()), settings, encoders, person)
        for clip_name, tensors in zip(clips, encoded, strict=True):
            keep(clip_name, tensors)
    except ControlError as error:
        return row | {"reason": str(error)}
    except (VideoError, EndedEarlyError) as error:
        return unreadable(row, error)
    row["starts"] = {clip_name: list(clip.starts) for clip_name, clip in clips.items()}
    row["crops"] = {
        clip_name: {_size(size): list(box) for size, box in clip.boxes.items()} for clip_name, clip in clips.items()
    }
    return finished(row, outcomes, clips, person.remarks)


def _sides(size: str) -> Size:
    height, width = size.split("x")
    return int(height), int(width)


def _size(sides: Size) -> str:
    return f"{sides[0]}x{sides[1]}"


def _outcomes(piece: Piece, frame: Size, settings: Row, encoders: Encoders) -> list[Outcome[WindowClip]]:
    """What becomes of a piece: its clips, in order, or why it gives none. `frame`: its (width, height)."""
    if piece.reason is not None:
        return [left_out(piece, piece.reason)]
    boxes = dict[Size, Rectangle]()
    for size in map(_sides, settings["sizes"]):
        box = person_rectangle(piece.keypoints[piece.found], *frame, size[1] / size[0])
        small = wrong_size(0 if box is None else box[2], size[1] / 2)
        if box is None or small is not None:
            return [left_out(piece, small or Reason("person too small"))]
        boxes[size] = box
    keypoints = fill_gaps(piece.keypoints, piece.found)
    others = {"hand_keypoints": piece.hands, "face_keypoints": piece.face}
    points = {name: fill_gaps(values, piece.found) for name, values in others.items() if values is not None}
    faces = face_boxes(keypoints) if encoders.face else []
    if encoders.face and not faces:
        return [left_out(piece, Reason("no face found"))]
    length, count = settings["frames"], settings["references"]
    together = _together(list(boxes), length, encoders)
    starts, outcomes = [piece.start + start for start in window_starts(piece.end - piece.start, length)], []
    for i in range(0, len(starts), together):
        some = tuple(starts[i : i + together])
        references = reference_frames(some, length, count)
        clip = WindowClip(some, references, boxes, keypoints, piece.start, faces, points)
        outcomes.append(Outcome(some[0], some[-1] + length, piece.after, None, clip, piece.subject))
    return outcomes


def _together(sizes: list[Size], length: int, encoders: Encoders) -> int:
    """How many windows are one clip, so that it takes no more than CLIP_BYTES."""
    codec = encoders.codec
    latents = codec.latent_frames(length) * codec.channels * sum(h * w for h, w in sizes) // codec.factor**2
    window_bytes = 2 * latents * (2 if encoders.control else 1) + 3 * length * encoders.face**2 * len(sizes)
    return max(1, CLIP_BYTES // window_bytes)


def reference_frames(starts: tuple[int, ...], length: int, count: int) -> tuple[int, ...]:
    """The frames of a clip's reference images, spread evenly over it."""
    frames = starts[-1] + length - starts[0]
    return tuple(starts[0] + (2 * i + 1) * frames // (2 * count) for i in range(count))


def _encode(
    file: Path, control: Path | None, clips: list[WindowClip], settings: Row, encoders: Encoders, person: Person
) -> Iterator[dict[str, Tensor]]:
    """The second reading: each clip's tensors, in order."""
    frames = iter(person.frames or Video(file, fps=settings["fps"]))
    length, position = settings["frames"], -1
    controls = None if control is None else _control_frames(control, settings["fps"], person.size)
    seen: dict[Size, dict[int, tuple[np.ndarray, np.ndarray | None]]] = {}
    faces: dict[int, Tensor] = {}
    blanks: dict[Size, Tensor] = {}
    for clip in clips:
        wanted: dict[Size, dict[int, np.ndarray]] = {size: {} for size in clip.boxes}
        encoded: dict[str, list[Tensor]] = {}
        for start in clip.starts:
            kept = {size: {i: pair for i, pair in seen.get(size, {}).items() if i >= start} for size in clip.boxes}
            seen, faces = kept, {i: face for i, face in faces.items() if i >= start}
            while position < start + length - 1:
                frame, position = _next(frames), position + 1
                driving = None if controls is None else next(controls)
                for size, box in clip.boxes.items() if position >= start else ():
                    seen[size][position] = (
                        cut_out(frame, box, size), None if driving is None else cut_out(driving, box, size)
                    )  # fmt: skip
                if clip.faces and position >= start:
                    faces[position] = _face(frame, clip.faces[position - clip.offset], encoders.face)
            for size in clip.boxes:
                wanted[size] |= {i: seen[size][i][0] for i in clip.references if i in seen[size]}
                window = [seen[size][i] for i in range(start, start + length)]
                for name, value in _window(window, clip, start, size, encoders).items():
                    encoded.setdefault(f"{_size(size)}/{name}", []).append(value)
                if clip.faces:
                    face = torch.stack([faces[i] for i in range(start, start + length)])
                    encoded.setdefault(f"{_size(size)}/face", []).append(face)
        tensors = {name: torch.stack(values) for name, values in encoded.items()}
        for size in clip.boxes if encoders.blank else ():
            blanks[size] = blanks[size] if size in blanks else _blank(encoders.codec, length, size)
            tensors[f"{_size(size)}/blank"] = blanks[size]
        for size in clip.boxes if clip.references else ():
            images = torch.from_numpy(np.stack([wanted[size][i] for i in clip.references]))
            found = reference_tensors(images, length, encoders)
            tensors |= {f"{_size(size)}/{name}": value for name, value in found.items()}
        yield tensors


def _next(frames: Iterator[np.ndarray]) -> np.ndarray:
    frame = next(frames, None)
    if frame is None:
        raise EndedEarlyError("it has fewer frames at the second reading")
    return frame


def _face(frame: np.ndarray, box: Box, side: int) -> Tensor:
    """The square's pixels, uint8 [3,side,side]."""
    return resize(torch.from_numpy(crop(frame, box))[None], side)[0].movedim(-1, 0).contiguous()


def _control_frames(path: Path, fps: float, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The frames of the control video.

    Raises:
        ControlError: while iterating: unreadable, of another size, or at its end.
    """
    video, count = Video(path, fps=fps), 0
    try:
        for frame in video:
            if video.full_size != size:
                other, own = (f"{w}x{h}" for w, h in (video.full_size, size))
                raise ControlError(
                    f"control video is {other}, but the video is {own} (width x height); make them alike"
                )
            yield frame
            count += 1
    except VideoError as error:
        raise ControlError(f"control video is unreadable: {error.reason}") from error
    raise ControlError(f"control video is shorter: {count} frames; it needs one for each of the video")


def _window(
    frames: list[tuple[np.ndarray, np.ndarray | None]], clip: WindowClip, start: int, size: Size, encoders: Encoders
) -> dict[str, Tensor]:
    """The tensors of one window but those of the references."""
    pixels = torch.from_numpy(np.stack([frame for frame, _ in frames]))
    own = slice(start - clip.offset, start - clip.offset + len(frames))
    pose = keypoints_in(clip.keypoints[own], clip.boxes[size])
    found = {"latents": _half(encoders.codec.encode(pixels), "latents"), "pose": torch.from_numpy(pose)}
    for name, values in clip.points.items():
        found[name] = torch.from_numpy(keypoints_in(values[own], clip.boxes[size]))
    if encoders.control == "draw":
        maps = np.concatenate([draw_pose_in(pose[i : i + MAPS], *size) for i in range(0, len(pose), MAPS)])
        found["control"] = _half(encoders.codec.encode(maps), "control")
    elif encoders.control:
        driving = np.stack([control for _, control in frames if control is not None])
        found["control"] = _half(encoders.codec.encode(driving), "control")
    return found


def reference_tensors(images: Tensor, frames: int, encoders: Encoders) -> dict[str, Tensor]:
    """The tensors of reference images uint8 [K,H,W,3]."""
    codec = encoders.codec
    planes = images.movedim(-1, 1).contiguous()
    found = {"reference": _half(torch.stack([codec.encode(image[None]) for image in images]), "reference")}
    if encoders.first:
        found["first"] = _half(torch.stack([codec.encode_first(image, frames) for image in images]), "first")
    found["image"] = planes
    if encoders.images is not None:
        found["image_embeds"] = _half(encoders.images(planes), "image_embeds")
    assert set(found) <= set(OF_REFERENCES)
    return found


def _blank(codec: DiffusersCodec, frames: int, size: Size) -> Tensor:
    """Latents [T,C,h,w] of a grey video."""
    return _half(codec.encode_pixels(torch.full((frames, 3, *size), 0.5)), "blank")


def _half(values: Tensor, name: str) -> Tensor:
    """As they are stored.

    Raises:
        ValueError: not finite.
    """
    half = values.to(STORED[name]).cpu()
    if not bool(torch.isfinite(half).all()):
        raise ValueError(f"codec: {name} are not finite; use dtype float32, or another VAE")
    return half
