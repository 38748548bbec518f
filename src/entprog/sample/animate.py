"""Sample: animate the person of a photo with the poses of a video.

Shape legend: F frames, H W height and width in pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entprog.codecs.pca import to_uint8
from entprog.config.load import ConfigError, updated
from entprog.config.schema import EvaluateConfig, SampleConfig
from entprog.poses.base import PoseEstimator
from entprog.prepare.crop import VISIBLE, Rectangle, keypoints_in
from entprog.sample.drive import Drive, Frames, has_sound, read_drive, stored_drive
from entprog.sample.estimator import estimator_for
from entprog.sample.output import Output, outputs, problems
from entprog.sample.panels import GUTTER, PANEL, beside, pose_panel, write_clip, write_panels
from entprog.sample.reference import Photo, cut, place, plain, read_photo
from entprog.sample.retarget import Retargeted, retarget
from entprog.sample.windows import generated, planned
from entprog.tasks.animator import Animator, Conditions, StoredReference
from entprog.tasks.base import Task
from entprog.tasks.data_record import read_data_record
from entprog.tasks.finished_run import open_run

__all__ = ["GUTTER", "PANEL", "sample", "write_panels"]

FPS = 12.0
"""Frames a second where neither the run nor its data says how many."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What a call asks for beside reference and drive; see `sample`."""

    settings: SampleConfig
    sides: tuple[int, int] | None
    frames: int | None
    fps: float | None
    retarget: bool | None
    panel: bool | None


@dataclass(frozen=True)
class Scene:
    """One reference and one drive, put together.

    Attributes:
        sides: height and width of the clip.
        image: of the reference, uint8 [H, W, 3].
        conditions: what the model takes of it.
        poses: [F, 18, 3] in 0..1 of the clip's frame.
        driving: the same before retargeting, in 0..1 of what is shown of the drive.
        frames: of the drive.
        retargeted: None where poses are taken as they are.
        notes: what was used and how, in short sentences.
    """

    sides: tuple[int, int]
    image: np.ndarray
    conditions: Conditions
    poses: np.ndarray
    driving: np.ndarray
    frames: Frames
    retargeted: Retargeted | None
    notes: list[str]


def sample(
    run: str | Path,
    *,
    reference: str | Path | Sequence[str | Path],
    drive: str | Path | Sequence[str | Path],
    out: str | Path,
    resolution: int | str | None = None,
    frames: int | None = None,
    fps: float | None = None,
    retarget: bool | None = None,
    panel: bool | None = None,
    prompt: str = "",
    pose: str | None = None,
    pose_options: Mapping[str, Any] | None = None,
    device: str = "",
    say: Say = print,
    **sampling: Any,
) -> Path | list[Path]:
    """Generate clips of the reference's person in the poses of `drive`.

    Args:
        run: a folder made by `entprog train`.
        reference: an image file, a clip of the run's data by name (its first frame), or "FOLDER:CLIP" of another
            prepared folder. Of a photo the part around the person is taken, as `entprog prepare` cuts it: a rectangle
            of the photo's aspect, or a square where the task makes squares. Several: each is animated with each drive.
        drive: a video file, whose poses are estimated as `entprog prepare` does (of its longest shot), or a clip by
            name. Several as above.
        out: a file that ends in .mp4 for a single clip. Else a folder: gets NAME.mp4 and NAME.gif (with panels side by
            side) and the generated frames as frames/0000.png ...
        resolution: side in pixels, or "HEIGHTxWIDTH"; by default of the photo's aspect and of the area that the run was
            trained at.
        frames: at most so many; by default the whole drive. What is longer than the model's own length is made of
            overlapping windows.
        fps: frames a second at which poses are taken and the clip is played; by default that of the run's data.
        retarget: give the drive's poses the proportions, place and size of the photo's person; by default wherever the
            two are not known to be the same person.
        panel: show reference, pose, retargeted pose, generated and driving frames side by side; by default in a folder.
        prompt: what the clip shows in words, for models that take text.
        pose: the estimator that reads photo and drive; by default that of the run's data, or else "blazepose".
        pose_options: its options, over those that the data set records.
        device: "auto", "cpu", "cuda" or "cuda:N"; empty for where the run trained.
        say: is given one line a clip that says what was used.
        sampling: keys of [sample], such as seed; what is left out or None is as in the run.

    Returns:
        The path of the mp4; a list of them where several references or drives were given.

    Raises:
        ValueError: the run, a reference or a drive can't be used; the message says what to give instead.
    """
    run, out = Path(run), Path(out)
    given, driving = _listed(reference), _listed(drive)
    wrong = problems(given, driving, out, frames, fps)
    try:
        sides = None if resolution is None else updated(EvaluateConfig(), "evaluate", {"resolution": resolution}).sides
    except ConfigError as error:
        wrong += [text.removeprefix("evaluate.") for text in error.problems]
    if wrong:
        raise ConfigError(wrong)
    estimator, finder = estimator_for(run, pose, pose_options)
    photos = {name: read_photo(Path(name), estimator) for name in dict.fromkeys(given) if Path(name).is_file()}
    config, task = open_run(run, device=device)
    settings = updated(config.sample, "sample", sampling)
    animator = task.animator(prompt)
    if animator is None or task.codec is None:
        raise ValueError(f"run = {str(run)!r}: its task {config.task!r} makes no clips")
    if why := task.guidance_problem(settings):
        raise ValueError(f"guided_by = {settings.guided_by!r}: {why}")
    if why := animator.check(sides or animator.sides):
        shown = f"{animator.sides[0]}x{animator.sides[1]}" if resolution is None else resolution
        raise ValueError(f"resolution = {shown}: {why}")
    request = Request(settings, sides, frames, fps, retarget, panel)
    rate, doubt = (fps, "") if fps else _rate(run, animator)
    drives = [_drive(name, animator, request, rate, estimator) for name in driving]
    references = [photos.get(name) or animator.stored_reference(name, sides or animator.sides) for name in given]
    pairs = [(one, other) for one in references for other in drives]
    files = outputs(out, [f"{plain(one.name)}-{other.name}" for one, other in pairs])
    for (one, other), file in zip(pairs, files, strict=True):
        scene = _scene(one, other, animator, request)
        say(f"{file.target.name}: " + "; ".join([*_used(one, other, scene, animator), *filter(None, [doubt, finder])]))
        _write(task, animator, scene, other, file, request)
    written = [file.target for file in files]
    single = isinstance(reference, str | Path) and isinstance(drive, str | Path)
    return written[0] if single else written


def _listed(given: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(given)] if isinstance(given, str | Path) else [str(one) for one in given]


def _rate(run: Path, animator: Animator) -> tuple[float, str]:
    """Frames a second of what the run was trained on, and what to say where that is not known."""
    if known := (read_data_record(run) or {}).get("fps"):
        return float(known), ""
    if animator.rate:
        return animator.rate, ""
    return FPS, f"the run's data set is gone, so {FPS:g} frames a second are assumed (--fps for another)"


def _drive(name: str, animator: Animator, request: Request, rate: float, estimator: PoseEstimator) -> Drive:
    if Path(name).exists():
        return read_drive(Path(name), rate, request.frames, estimator)
    clip = animator.stored_clip(name, request.sides or animator.sides)
    return stored_drive(clip, request.fps or rate)


def _scene(one: Photo | StoredReference, drive: Drive, animator: Animator, request: Request) -> Scene:
    """Reference and poses in one frame."""
    sides = request.sides or animator.sides
    if isinstance(one, Photo) and request.sides is None and not drive.conditions:
        sides = animator.like(one.aspect)
    where = place(drive.keypoints, *drive.size, sides, square=animator.square) if drive.path else (0, 0, *drive.size)
    count = min(len(drive), request.frames or len(drive))
    driving = keypoints_in(drive.keypoints[:count], where)
    if isinstance(one, Photo):
        points = one.keypoints
    else:
        points = None if one.keypoints is None else one.keypoints * np.array([sides[1], sides[0], 1], np.float32)
    found, notes = _retargeted(one, points, drive, count, request)
    if isinstance(one, Photo):
        here = _around(one, found, sides, animator.square)
        image = cut(one.pixels, here, sides)
        conditions = animator.reference(image)
    else:
        here, image, conditions = (0, 0, sides[1], sides[0]), to_uint8(one.shown), one.conditions
    poses = driving if found is None else keypoints_in(found.keypoints, here)
    frames = Frames(drive, where, sides, face=0 if drive.conditions else animator.face)
    if frames.face and not frames.boxes:
        raise ValueError(f"drive = {str(drive.path)!r}: no face is seen, which this model needs; give another video")
    return Scene(sides, image, conditions, poses, driving, frames, found, notes)


def _around(photo: Photo, found: Retargeted | None, sides: tuple[int, int], square: bool) -> Rectangle:
    """The part of the photo that holds its person and, where poses are retargeted, the motion."""
    poses = None if photo.keypoints is None else photo.keypoints[None]
    if found is not None and poses is not None:  # the photo's own person counts beside rare positions
        poses = np.concatenate([poses.repeat(1 + len(found.keypoints) // 10, 0), found.keypoints])
    height, width = photo.pixels.shape[:2]
    return place(poses, width, height, sides, square=square)


def _retargeted(
    one: Photo | StoredReference, points: np.ndarray | None, drive: Drive, count: int, request: Request
) -> tuple[Retargeted | None, list[str]]:
    """The drive's poses with the reference's proportions, or why they are taken as they are."""
    if request.retarget is False:
        return None, ["poses as in the drive"]
    if drive.conditions:
        return None, ["poses as they are stored"] if request.retarget else []
    if points is None:
        return None, ["no person found in the photo: its middle, and poses as in the drive"]
    if request.retarget is None and isinstance(one, StoredReference) and one.subject == drive.subject:
        return None, ["poses as in the drive, of the same person"]
    found = retarget(drive.keypoints, points)
    if found is None:
        return None, ["no limb is seen in both photo and drive: poses as in the drive"]
    cut_off = Retargeted(found.keypoints[:count], found.scale, found.ratios, found.frame)
    parts = [f"{name} {found.ratios[name] / found.scale:.2f}" for name in ("torso", "shoulders", "thighs", "shins")]
    return cut_off, [f"poses retargeted (body {found.scale:.2f} of the drive's in pixels; of that {', '.join(parts)})"]


def _used(one: Photo | StoredReference, drive: Drive, scene: Scene, animator: Animator) -> list[str]:
    """What is used for a clip, in short sentences."""
    count, windows = len(scene.poses), planned(animator, len(scene.poses))
    said = [f"{count} frames"]
    if count < len(drive):
        said = [f"{count} of {len(drive)} frames (--frames {len(drive)} for all)"]
    said[0] += f" at {drive.fps:g} a second"
    if len(windows) > 1:
        shared = windows[0].length - windows[1].start
        said[0] += f", {len(windows)} windows of {animator.window}"
        said[0] += f", overlap {(shared - 1) * animator.group + 1 if animator.group > 1 else shared}" if shared else ""
    elif animator.fixed and count < animator.window:
        said[0] += f" (the model makes {animator.window}: the last pose is held)"
    part = "square" if animator.square else f"{scene.sides[1]}x{scene.sides[0]}"
    if isinstance(one, Photo) and one.keypoints is not None:
        said.append(f"{part} around the {'largest of ' + str(one.people) + ' people' if one.people > 1 else 'person'}")
    said += [*drive.notes, *scene.notes]
    neck = scene.poses[:, 1]
    outside = (neck[:, 2] >= VISIBLE) & ((neck[:, :2] < 0) | (neck[:, :2] > 1)).any(1)
    if outside.any():
        said.append(f"the person is outside the picture in {int(outside.sum())} frames")
    if has_sound(drive.path):
        said.append("sound kept")
    return said


def _write(task: Task, animator: Animator, scene: Scene, drive: Drive, file: Output, request: Request) -> None:
    panel = file.panel if request.panel is None else request.panel
    sound = drive.path if has_sound(drive.path) else None
    write_clip(
        file.target, _shown(task, animator, scene, drive, request.settings, panel), fps=drive.fps, frames=file.frames,
        gif=file.gif, sound=sound, sound_start=drive.begins,
    )  # fmt: skip


def _shown(
    task: Task, animator: Animator, scene: Scene, drive: Drive, settings: SampleConfig, panel: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each frame as it is shown, and the generated picture alone."""

    def part(first: int, count: int) -> Conditions:
        if drive.conditions:
            return {**drive.conditions, **scene.conditions}
        index = np.minimum(np.arange(first, first + count), len(scene.poses) - 1)
        faces = scene.frames.take(first, count)[1] if scene.frames.face else None
        return animator.conditions(scene.conditions, scene.poses[index], faces, scene.sides)

    number = 0
    for chunk in generated(task, animator, part, len(scene.poses), settings, progress=True):
        for picture in to_uint8(chunk):
            if not panel:
                yield picture, picture
                continue
            poses = [pose_panel(scene.driving[number], scene.sides)]
            if scene.retargeted is not None:
                poses.append(pose_panel(scene.poses[number], scene.sides))
            true = scene.frames.take(number, 1)[0][0]
            yield beside([scene.image, *poses, picture, true], scene.sides), picture
            number += 1
