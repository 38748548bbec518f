"""`entprog sample`: arguments and help only."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from entprog import plugins
from entprog.cli.overrides import either, plugin_options, within_limits, without_none
from entprog.toml.values import literal

__all__ = ["sample"]

POSE = f"what finds the poses: {either(plugins.names('pose'))}; by default as in the run's data."


def sample(
    run: Path,
    /,
    *,
    reference: Annotated[list[str], Parameter(consume_multiple=True, negative=())],
    drive: Annotated[list[str], Parameter(consume_multiple=True, negative=())],
    out: Path,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guided_by: Literal["text", "pose", "reference"] | None = None,
    seed: int | None = None,
    scheduler: Literal["ddim", "ddpm", "dpm++", "native"] | None = None,
    resolution: str | None = None,
    frames: int | None = None,
    fps: float | None = None,
    retarget: bool | None = None,
    panel: bool | None = None,
    prompt: str = "",
    pose: Annotated[str | None, Parameter(help=POSE)] = None,
    pose_options: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, consume_multiple=True)] = (),
    device: str = "",
) -> None:
    """Animate the person of a photo with the poses of a video.

    Writes the whole drive as one clip, with its sound. OUT is an mp4, or a
    folder: then also a GIF, the frames as PNG, and panels side by side. What is
    not given is as the run's own configuration says.

        entprog sample runs/mine --reference me.jpg --drive dance.mp4 --out clip.mp4

    Args:
        run: a folder made by entprog train.
        reference: an image, or a clip by name: CLIP of the run's data, FOLDER:CLIP of another prepared folder. Several:
            each with each drive.
        drive: whose poses to follow: a video file, or a clip by name; several as above.
        out: an mp4, or a folder for the clips.
        num_inference_steps: model calls a clip; more are slower and finer.
        guidance_scale: how strongly the clip follows reference and poses; 1 is no guidance.
        guided_by: what guidance_scale strengthens alone, with a pretrained model; its text if left out.
        seed: of the initial noise.
        scheduler: how noise is removed.
        resolution: side in pixels, or "HEIGHTxWIDTH"; by default of the photo's aspect.
        frames: at most so many; by default the whole drive.
        fps: frames a second; by default those of the run's data.
        retarget: give the poses the proportions, place and size of the photo's person.
        panel: reference, poses, generated and driving frames side by side; by default in a folder.
        prompt: what the clip shows in words, for models that take text.
        pose_options: of the pose estimator, such as detector=yolox.onnx pose_model=dwpose.onnx.
        device: "auto", "cpu", "cuda" or "cuda:N"; where the run trained if left out.
    """
    from entprog.sample.animate import sample as verb
    from entprog.sample.estimator import pose_of

    sampling = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "seed": seed}
    size: dict[str, Any] = {"resolution": None if resolution is None else literal(resolution), "frames": frames}
    numbers = {f"sample.{key}": value for key, value in sampling.items()}
    within_limits(without_none(numbers | {f"evaluate.{key}": value for key, value in size.items()}))
    given: dict[str, Any] = {**sampling, **size, "scheduler": scheduler, "prompt": prompt, "device": device}
    given |= {"guided_by": guided_by}
    given |= {"pose": pose, "pose_options": plugin_options("pose", pose or pose_of(run), pose_options)}
    given |= {"fps": fps, "retarget": retarget, "panel": panel, "say": partial(print, file=sys.stderr)}
    for path in verb(run, reference=reference, drive=drive, out=out, **given):  # type: ignore[union-attr]
        print(path)
