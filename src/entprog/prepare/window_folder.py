"""Folders of videos of people -> a data set of windows (format 2): latents of a VAE, poses, references and texts."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from entprog.codecs.diffusers import DiffusersCodec
from entprog.data.windows import FORMAT, prompt_hash
from entprog.poses.loading import DEFAULT, open_estimator, pose_settings, wrong_pose
from entprog.prepare.batch import PrepareResult, follow, hold, prepare_files, result_of, workers_of
from entprog.prepare.folder import PEOPLE, no_videos, wrong_device, wrong_rate, wrong_workers
from entprog.prepare.inputs import shown
from entprog.prepare.layouts import list_layout
from entprog.prepare.quality import MIN_SHARPNESS, wrong_sharpness
from entprog.prepare.ranks import Ranks
from entprog.prepare.store import Row, check_folder
from entprog.prepare.window_file import EncodeImages, Encoders, prepare_windows_of
from entprog.prepare.window_store import WindowStore
from entprog.profiling.device import pick_device

EncodeText = Callable[[Sequence[str]], Mapping[str, Mapping[str, Tensor]]]
"""Prompts to their tensors by name, unpadded and without the batch axis."""


def prepare_windows(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    codec: DiffusersCodec,
    sizes: Sequence[str],
    frames: int,
    fps: float = 16.0,
    references: int = 4,
    first: bool | None = None,
    face: int = 0,
    blank: bool = False,
    control: str = "",
    controls: Mapping[Path, Path] | None = None,
    captions: Mapping[Path, str] | None = None,
    text: Mapping[str, Any] | None = None,
    encode_text: EncodeText | None = None,
    encode_images: EncodeImages | None = None,
    multiple: int = 0,
    people: str = "largest",
    max_frames: int | None = None,
    min_sharpness: float = MIN_SHARPNESS,
    holdout: float = 0.1,
    workers: int | None = 1,
    left_out: Mapping[str, int] | None = None,
    layout: str = "folder",
    device: str = "cpu",
    pose: str = DEFAULT,
    pose_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> PrepareResult:
    """Prepare videos; after an interruption, or with more inputs, another run continues where it stopped.

    Args:
        inputs: video files, and folders (searched recursively).
        out: folder of the data set; new, empty, or begun by this function with the same settings.
        codec: the VAE.
        sizes: such as "480x832", height x width.
        frames: of a window; windows begin every half window, and the last ends where the shot does.
        fps: frames a second of the windows.
        references: images of the same clip that are stored with each window; 0 for none.
        first: store what an image-to-video model sees of them, encoded whole; None: for Wan's VAE only.
        face: side in pixels of a video of the face that is stored with each window; 0 for none.
        blank: whether to store the latents of a window that is grey throughout.
        control: "" for none, "draw" for drawn poses, or the name of the metadata's column that `controls` is from.
        controls: each video's control video.
        captions: each video's caption; a video without one has "", or the caption of an earlier run.
        text: {"class": ..., "hash": ...} of the text encoders; given together with `encode_text`.
        encode_text: called once, before any video, with the prompts that are not encoded yet.
        encode_images: an image encoder for the references.
        multiple: what heights and widths must be a multiple of; 0: twice the codec's factor.
        left_out: what the inputs hold beside videos, where they were listed already.
        people, max_frames, min_sharpness, holdout, workers, layout, device, pose, pose_options: as `prepare_folder`
            takes them.

    Raises:
        ValueError: a setting or path is wrong (all are listed), or no file could be used (with the reasons).
        OSError: the disk is full; finished files are kept.
    """
    paths, out = [Path(path) for path in inputs], Path(out)
    multiple = multiple or 2 * codec.factor
    wrong = [
        *wrong_shapes(codec, sizes, frames, multiple, max_frames),
        *wrong_sharpness(min_sharpness),
        *_wrong_settings(paths, fps, references, face, people, holdout),
        *wrong_workers(workers),
        *wrong_pose(pose, pose_options),
        *wrong_device(device),
    ]
    if (text is None) != (encode_text is None):
        wrong.append("text: give the text encoders' class and hash together with encode_text, or neither")
    if wrong:
        raise ValueError("\n".join(wrong))
    device = str(pick_device(device))
    check_folder(out)
    listing = list_layout(layout, paths, out)
    if left_out is not None:
        listing = replace(listing, left_out=dict(left_out))
    files = list(listing.files)
    if not files:
        raise no_videos(paths, listing.left_out)
    driving = _controls(files, control, controls)
    known = {path.resolve(): caption for path, caption in (captions or {}).items()}
    first = codec.kind == "AutoencoderKLWan" if first is None else first
    encoders = Encoders(codec.to(device), encode_images, control, first and references > 0, face, blank)
    settings = {
        "format": FORMAT,
        **{f"codec.{key}": value for key, value in codec.about().items() if key not in ("mean", "std")},
        "text": None if text is None else dict(text),
        "sizes": list(sizes),
        "frames": frames,
        "fps": float(fps),
        "references": references,
        "first": encoders.first,
        "face": face,
        "blank": blank,
        "image_embeds": encode_images is not None,
        "control": control,
        "people": people,
        "max_frames": max_frames,
        "min_sharpness": float(min_sharpness),
        "holdout": float(holdout),
        **pose_settings(pose, pose_options),
        **({} if layout == "folder" else {"layout": layout}),
    }
    work, workers = WindowWork(settings, device, encoders, driving, pose, pose_options), workers_of(workers, device)
    if Ranks.here().rank:
        return follow(out, work, workers=workers)
    with hold(out):
        store = WindowStore(out, settings)
        # prompts are encoded first: their encoders are freed before the VAE runs
        listed = {file.resolve().as_posix(): "" for file in files}
        spoken = {path.as_posix(): caption for path, caption in known.items() if path.as_posix() in listed}
        texts = _texts(store, listed | store.captions() | spoken, encode_text)

        def captioned(row: Row) -> Row:
            before = store.replaced.get(row["source"], {}).get("caption", "")
            return row | {"caption": spoken.get(row["source"], before)}

        skipped = prepare_files(store, listing, work, workers=workers, progress=progress, complete=captioned)
        result_of(store, skipped, 0, 0)  # all dropped: an error, before anything is replaced
        for row in store.rows:
            row.setdefault("caption", "")
        by_source = store.captions() | spoken
        rows = store.finish_windows(codec=codec.about(), text=text, texts=texts, captions=by_source)
        clips, count = {row.clip for row in rows}, sum(row.frames for row in rows)
        return result_of(store, skipped, len(clips), count, len(rows))


@dataclass(frozen=True)
class WindowWork:
    """How a file becomes windows; see `work.Work`. `controls`: control videos by the videos' whole paths."""

    settings: Row
    device: str
    encoders: Encoders
    controls: Mapping[Path, Path]
    pose: str = DEFAULT
    pose_options: Mapping[str, Any] | None = None

    def open(self) -> Callable[[Path, str, Callable[[str, Mapping[str, Tensor]], None]], Row]:
        """See `work.Work`."""
        estimator = open_estimator(self.pose, self.pose_options, self.device)

        def prepare(file: Path, name: str, keep: Callable[[str, Mapping[str, Tensor]], None]) -> Row:
            control = self.controls.get(file.resolve())
            return prepare_windows_of(file, name, self.settings, estimator, self.encoders, keep, control)

        return prepare


def _texts(
    store: WindowStore, captions: Mapping[str, str], encode_text: EncodeText | None
) -> dict[str, Mapping[str, Tensor]]:
    """Tensors of every caption and of "" by prompt hash; those that the data set has are not encoded again."""
    if encode_text is None:
        return {}
    texts: dict[str, Mapping[str, Tensor]] = dict(store.texts())
    missing = [prompt for prompt in dict.fromkeys(["", *captions.values()]) if prompt_hash(prompt) not in texts]
    encoded = encode_text(missing) if missing else {}
    lacking = [prompt for prompt in missing if not encoded.get(prompt)]
    if lacking:
        raise ValueError(f"encode_text: gave nothing for {len(lacking)} prompts (first {lacking[0]!r})")
    return texts | {prompt_hash(prompt): encoded[prompt] for prompt in missing}


def _controls(files: list[Path], control: str, controls: Mapping[Path, Path] | None) -> dict[Path, Path]:
    """The control video of each file, by its resolved path.

    Raises:
        ValueError: some have none (the first is named), or theirs does not exist.
    """
    if control in ("", "draw"):
        return {}
    found = {path.resolve(): Path(other) for path, other in (controls or {}).items()}
    without = [file for file in files if file.resolve() not in found]
    gone = [file for file in files if file.resolve() in found and not found[file.resolve()].is_file()]
    wrong = []
    if without:
        wrong.append(
            f"control: {without[0]}{_others(without)} has no {control!r} in the metadata; add it, or use --control draw"
        )
    if gone:
        first = found[gone[0].resolve()]
        wrong.append(f"control: {first} ({control!r} of {gone[0].name}){_others(gone)} does not exist; check the paths")
    if wrong:
        raise ValueError("\n".join(wrong))
    return found


def _others(files: list[Path]) -> str:
    return f" and {len(files) - 1} more" if len(files) > 1 else ""


def size_multiple(folder: str | Path, codec: DiffusersCodec) -> int:
    """What heights and widths must be a multiple of: the codec's factor times the transformer's patch.

    A pipeline's folder says its patch in transformer/config.json; elsewhere it is taken to be 2.
    """
    path, patch = Path(folder) / "transformer" / "config.json", 2
    if path.is_file():
        said = json.loads(path.read_text(encoding="utf-8")).get("patch_size", 1)
        patch = int(said[-1]) if isinstance(said, list) else int(said or 1)
    return codec.factor * patch


def wrong_shapes(
    codec: DiffusersCodec, sizes: Sequence[str], frames: int, multiple: int, max_frames: int | None = None
) -> list[str]:
    """What is wrong with the sizes and the frames of the windows, a line each."""
    return [*_wrong_sizes(sizes, codec, multiple), *_wrong_frames(frames, codec, max_frames)]


def _wrong_sizes(sizes: Sequence[str], codec: DiffusersCodec, multiple: int) -> list[str]:
    wrong = []
    if not sizes or len(set(sizes)) < len(sizes):
        wrong.append(f'sizes: {list(sizes)}; give different ones, such as "480x832" (height x width)')
    for size in sizes:
        sides = size.split("x")
        if len(sides) != 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
            wrong.append(f'sizes: {size!r}; give height x width, such as "480x832"')
            continue
        nearest = "x".join(str(max(1, round(int(side) / multiple)) * multiple) for side in sides)
        if nearest != size:
            wrong.append(f"sizes: {size} must be a multiple of {multiple} for {codec.name}; use {nearest}")
    return wrong


def _wrong_frames(frames: int, codec: DiffusersCodec, max_frames: int | None) -> list[str]:
    wrong = []
    try:
        codec.latent_frames(max(frames, 0))
    except ValueError as error:
        wrong.append(str(error))
    if frames < 1 and not wrong:
        wrong.append(f"frames: {frames}; give 1 or more")
    if max_frames is not None and max_frames < frames:
        wrong.append(f"max_frames: {max_frames} is below frames, {frames}; no window could be kept")
    return wrong


def _wrong_settings(
    inputs: list[Path], fps: float, references: int, face: int, people: str, holdout: float
) -> list[str]:
    wrong = []
    if not inputs:
        wrong.append("inputs: none given; give video files or folders")
    wrong += [f"inputs: {shown(path)} does not exist; check the path" for path in inputs if not os.path.lexists(path)]
    wrong += wrong_rate(fps)
    for name, value in (("references", references), ("face", face)):
        if value < 0:
            wrong.append(f"{name}: {value}; give 0 or more")
    if people not in PEOPLE:
        wrong.append(f"people: {people!r}; give one of {', '.join(PEOPLE)}")
    if not 0 <= holdout < 1:
        wrong.append(f"holdout: {holdout}; give a share from 0 to below 1")
    return wrong
