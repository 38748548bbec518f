"""What the Wan pipelines of diffusers feed their networks, and what a data set would hold of the same clip."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from entprog.codecs.diffusers import DiffusersCodec
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.families.base import Family, Latent
from entprog.tasks.pretrained.folder import read_configs
from tiny_pipelines import saved

FRAMES = 9
PROMPT = "a person dances in the room"
STEPS = 4
NETWORKS = ("transformer", "transformer_2")


@dataclass(frozen=True)
class Use:
    """A way to use a tiny pipeline.

    Attributes:
        folder: the tiny pipeline's name.
        pose, reference: as in `[model]`.
        pipeline: the class that calls the network so; empty for that of model_index.json.
        sides: height and width in pixels.
    """

    folder: str
    pose: str = "none"
    reference: str = "none"
    pipeline: str = ""
    sides: tuple[int, int] = (32, 48)


USES = {
    "wan-2.1-t2v": Use("wan-2.1-t2v"),
    "wan-2.1-i2v": Use("wan-2.1-i2v", reference="native"),
    "wan-2.2-i2v": Use("wan-2.2-i2v", reference="native"),
    "wan-2.2-t2v-a14b": Use("wan-2.2-t2v-a14b"),
    "wan-2.2-ti2v-5b": Use("wan-2.2-ti2v-5b", sides=(64, 96)),
    "wan-2.2-ti2v-5b, image": Use(
        "wan-2.2-ti2v-5b", reference="native", pipeline="WanImageToVideoPipeline", sides=(64, 96)
    ),
    "wan-vace": Use("wan-vace", pose="native", reference="native"),
    "wan-vace, pose": Use("wan-vace", pose="native"),
    "wan-vace, text": Use("wan-vace"),
    "wan-animate": Use("wan-animate", pose="native", reference="native"),
}


@dataclass(frozen=True)
class Call:
    """One call of a network by a pipeline."""

    component: str
    arguments: dict[str, Any]

    @property
    def time(self) -> float:
        """In the scheduler's unit; of a time a token the last token's."""
        return float(self.arguments["timestep"].flatten()[-1])


@dataclass(frozen=True)
class Captured:
    """All calls of one sampling, and what a data set would hold.

    Attributes:
        calls: each step's with the prompt, then that with the empty prompt.
        stored: [1, ...], one reference, float32.
        latents: the clip that the pipeline ends with, [1, T, C, h, w], without a frame in front.
    """

    calls: tuple[Call, ...]
    stored: dict[str, Tensor]
    latents: Tensor


@cache
def family(name: str, component: str = "") -> Family:
    return family_of(read_configs(saved(name), component))


@cache
def network(name: str, component: str = "transformer") -> nn.Module:
    cls = getattr(diffusers, str(family(name, component).network["_class_name"]))
    return cls.from_pretrained(saved(name), subfolder=component)  # type: ignore[no-any-return]


def latent(name: str) -> Latent:
    """The size of what the network gets in a use."""
    use = USES[name]
    known = family(use.folder)
    factor = int(known.configs.codec["scale_factor_spatial"])
    frames = (FRAMES - 1) // 4 + 1 + known.leading(reference=use.reference)
    return Latent(frames, known.channels, use.sides[0] // factor, use.sides[1] // factor, FRAMES)


def pixels(count: int, height: int, width: int, seed: int) -> np.ndarray:
    """Random frames [F, H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def images(frames: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in frames]


@cache
def captured(name: str, guidance: float = 2.0) -> Captured:
    """Sample once with diffusers' pipeline."""
    use, known = USES[name], family(USES[name].folder)
    pipeline = _pipeline(use)
    image, poses, faces = pixels(1, *use.sides, 1), pixels(FRAMES, *use.sides, 2), pixels(FRAMES, 16, 16, 3)
    given: dict[str, Any] = {"num_frames": FRAMES}
    if use.folder == "wan-animate":
        given = {"segment_frame_length": FRAMES, "pose_video": images(poses), "face_video": images(faces)}
    elif use.pose == "native":
        given["video"] = images(poses)
    if use.reference == "native":
        given |= {"reference_images": images(image)} if use.folder == "wan-vace" else {"image": images(image)[0]}
    calls: list[Call] = []
    for component in NETWORKS:
        if (module := getattr(pipeline, component, None)) is not None:
            module.register_forward_pre_hook(_noting(calls, component), with_kwargs=True)
    out = pipeline(
        prompt=PROMPT, height=use.sides[0], width=use.sides[1], num_inference_steps=STEPS, guidance_scale=guidance,
        output_type="latent", generator=torch.Generator().manual_seed(0), **given,
    )  # fmt: skip
    codec = DiffusersCodec(pipeline.vae)
    stored = {
        "control": codec.encode(poses), "reference": codec.encode(image), "first": codec.encode_first(image[0], FRAMES),
        "blank": codec.encode_pixels(torch.full((FRAMES, 3, *use.sides), 0.5)),
        "face": torch.from_numpy(faces).movedim(-1, 1),
    }  # fmt: skip
    if known.clip:
        stored["image_embeds"] = pipeline.encode_image(images(image)[0])[0].detach()
    ended = out.frames.transpose(1, 2)
    if use.folder == "wan-animate":  # this pipeline gives the VAE's own numbers
        ended = (ended - codec.mean.view(-1, 1, 1)) / codec.std.view(-1, 1, 1)
    ended = ended[:, known.leading(reference=use.reference) :]
    return Captured(tuple(calls), {key: value[None] for key, value in stored.items()}, ended)


def condition(name: str, text: Tensor | None = None, *, stored_as: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What the family makes of the stored tensors of a use; text [1, L, D], zeros by default.

    Args:
        stored_as: the precision of numbers on disk.
    """
    use, known = USES[name], family(USES[name].folder)
    every = captured(name).stored
    every = {key: v.to(stored_as).float() if v.is_floating_point() else v for key, v in every.items()}
    stored = {key: every[key] for key in known.stored(pose=use.pose, reference=use.reference)}
    if text is None:
        text = torch.zeros(1, known.text_length, int(known.network["text_dim"]))
    return known.condition(stored, {"text": text}, latent(name), pose=use.pose, reference=use.reference)


def _pipeline(use: Use) -> Any:
    found = diffusers.DiffusionPipeline.from_pretrained(saved(use.folder))
    if use.pipeline:
        parts = {key: value for key, value in found.components.items() if value is not None}
        own = {key: found.config[key] for key in ("boundary_ratio", "expand_timesteps")}
        found = getattr(diffusers, use.pipeline)(**parts, **own)
    found.set_progress_bar_config(disable=True)
    return found


def _noting(calls: list[Call], component: str) -> Any:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert not args
        copies = {key: v.detach().clone() if isinstance(v, Tensor) else v for key, v in kwargs.items()}
        calls.append(Call(component, copies))

    return note
