"""`entprog prepare --codec`: videos, what is said of them, and a pretrained model's own encoders -> windows."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from torch import Tensor

from entprog.codecs.diffusers import DiffusersCodec
from entprog.config.load import ConfigError
from entprog.prepare.folder import PrepareResult, wrong_device
from entprog.prepare.layouts import list_layout
from entprog.prepare.metadata import captions
from entprog.prepare.quality import MIN_SHARPNESS
from entprog.prepare.window_folder import prepare_windows, size_multiple, wrong_shapes
from entprog.profiling.device import pick_device
from entprog.tasks.pretrained.families import family_class, family_of
from entprog.tasks.pretrained.families.base import Family
from entprog.tasks.pretrained.folder import ModelFolder

__all__ = ["prepare_data"]

FACE = 512
"""Side in pixels of a video of the face, where the model does not say it."""


def prepare_data(
    inputs: Sequence[Path],
    out: Path,
    *,
    codec: str,
    text: str = "",
    family: str = "",
    sizes: Sequence[str],
    frames: int,
    fps: float,
    references: int,
    control: str = "",
    metadata: Path | None = None,
    dtype: str = "float32",
    tiling: bool = False,
    people: str = "largest",
    max_frames: int | None = None,
    min_sharpness: float = MIN_SHARPNESS,
    holdout: float = 0.1,
    workers: int | None = 1,
    layout: str = "folder",
    device: str = "cpu",
    pose: str = "blazepose",
    pose_options: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> PrepareResult:
    """See `prepare_windows`; captions and control videos are read as `prepare.metadata` says.

    Args:
        codec: a pipeline's folder, a VAE's folder, or a hub id.
        text: a pipeline's folder or hub id with text encoders; "": no captions are stored.
        family: how the model's network is called, as "package.module:Class"; empty: by its class.
        control: "", "draw", or a column of the metadata.
        pose: the pose estimator and its options, as `prepare_folder` takes them.
        dtype: of the VAE's and the encoders' computation.
        say: is given what the metadata left out, and what the model needs but prepare cannot make, a line each.

    Raises:
        ValueError: see `DiffusersCodec.load`, `prepare.metadata.captions` and `prepare_windows`.
    """
    samples = captions(inputs, metadata, "" if control == "draw" else control)
    vae = DiffusersCodec.load(codec, dtype=dtype, tiling=tiling, field="--codec")
    model, calls = _family(family, codec, text)
    multiple = size_multiple(codec, vae) if calls is None else vae.factor * max(calls.patch[1:])
    # before the text encoders' files are read
    if wrong := [*wrong_shapes(vae, sizes, frames, multiple, max_frames), *wrong_device(device)]:
        raise ConfigError(wrong)
    device = str(pick_device(device))
    needed = None if calls is None else _needed(calls)
    face = 0
    if calls is not None and "face" in _needed(calls):
        face = int(calls.network.get("motion_encoder_size") or FACE)
    for note in (*samples.notes, *_missing(needed, control, references)):
        say(note)
    with ExitStack() as stack:
        about, encode_text = _text(text, device, dtype, family)
        wanted = "image_embeds" in (needed or ()) and references > 0 and calls is not None and _sees(calls)
        return prepare_windows(
            inputs if layout != "folder" else [sample.video for sample in samples.rows] or inputs,
            out,
            codec=vae,
            sizes=sizes,
            frames=frames,
            fps=fps,
            references=references,
            first=None if needed is None else "first" in needed,
            face=face,
            blank="blank" in (needed or ()),
            control=control,
            controls={sample.video: sample.control for sample in samples.rows if sample.control is not None},
            captions={sample.video: sample.caption for sample in samples.rows},
            text=about,
            encode_text=encode_text,
            encode_images=image_encoder(model, device, dtype, stack, family) if wanted else None,
            multiple=multiple,
            people=people,
            min_sharpness=min_sharpness,
            max_frames=max_frames,
            holdout=holdout,
            workers=workers,
            left_out=list_layout(layout, list(map(Path, inputs)), Path(out)).left_out,
            layout=layout,
            device=device,
            pose=pose,
            pose_options=pose_options,
        )


def _family(own: str, *sources: str) -> tuple[str, Family | None]:
    """The first of these folders or hub ids that holds a network of a known family, and how it is called.

    Raises:
        ValueError: a family of the user's can't be used.
    """
    if own:
        family_class(own, "--family")
    for source in filter(None, sources):
        try:
            return source, family_of(ModelFolder.open(source, weights=False).configs, own)
        except ValueError:  # a VAE alone, or a network of no family that is known: its VAE can be used
            continue
    return "", None


def _needed(family: Family) -> set[str]:
    """Tensors that the network may ask for."""
    return {name for reference in ("native", "frame") for name in family.stored(pose="native", reference=reference)}


def _sees(family: Family) -> bool:
    """Whether the pipeline has an image encoder."""
    return any(family.configs.index.get("image_encoder", ()))


def _missing(needed: set[str] | None, control: str, references: int) -> list[str]:
    """Notes on what the model needs for its own pose and reference path, and what is not stored."""
    notes = []
    if "control" in (needed or ()) and not control:
        notes.append('this model has a pose path of its own (pose = "native"), which needs --control draw or a column')
    if (needed or set()) & {"first", "reference", "image", "image_embeds"} and not references:
        notes.append('references = 0: this model has inputs for a reference image (reference = "native"), now unused')
    return notes


def _text(text: str, device: str, dtype: str, family: str) -> tuple[dict[str, str] | None, Any]:
    """The text encoders' class and hash, and the function that encodes prompts."""
    if not text:
        return None, None
    from entprog.tasks.pretrained.text import encode_prompts, text_identity

    def encode(prompts: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        return encode_prompts(text, prompts, family=family, device=device, dtype=dtype, progress=True).texts

    return text_identity(text), encode


class ImageEncoder:
    """Encodes reference images by a model's own image encoder, which is loaded at the first call.

    In another process it is loaded again: one that was sent there would not record its hidden states.
    """

    def __init__(self, model: str, device: str, dtype: str, family: str = "") -> None:
        """Raises ValueError where the model has no image encoder that can be used."""
        from entprog.tasks.pretrained.encoders import Encoders

        self.given = model, device, dtype, family
        self.encoders = Encoders.open(model, "image", family=family)
        self._opened, self._stack = None, ExitStack()

    def __call__(self, images: Tensor) -> Tensor:
        from entprog.tasks.pretrained.text import image_states

        if self._opened is None:
            _, device, dtype, _ = self.given
            self._opened = self._stack.enter_context(self.encoders.pipeline(device=device, dtype=dtype))
        return image_states(self.encoders.family, self._opened, images)

    def __reduce__(self) -> tuple[type["ImageEncoder"], tuple[str, str, str, str]]:
        return ImageEncoder, self.given

    def close(self) -> None:
        """Free the encoder."""
        self._opened = None
        self._stack.close()


def image_encoder(model: str, device: str, dtype: str, stack: ExitStack, family: str = "") -> ImageEncoder:
    """The function that encodes reference images, until `stack` closes."""
    return stack.enter_context(closing(ImageEncoder(model, device, dtype, family)))
