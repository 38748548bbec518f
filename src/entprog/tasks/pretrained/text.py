"""Prompts and images -> what the network of a pretrained model is conditioned on, by its own pipeline's encoders.

Shape legend: n images, H W pixels, L tokens, D width.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from entprog.tasks.pretrained.encoders import EXTRA, Encoders
from entprog.tasks.pretrained.families.base import Family

__all__ = ["EncodedText", "encode_images", "encode_prompts", "image_states", "text_identity"]


@dataclass(frozen=True)
class EncodedText:
    """Encoded prompts.

    Attributes:
        texts: by prompt, the family's tensors by name: without batch axis and padding, on the CPU. "" is always there.
        name: the text encoders' classes.
        hash: of their classes and weights.
    """

    texts: dict[str, dict[str, Tensor]]
    name: str
    hash: str

    def about(self) -> dict[str, str]:
        """The text encoders in dataset.json."""
        return {"name": self.name, "hash": self.hash}


def encode_prompts(
    source: str | Path,
    prompts: Iterable[str],
    *,
    revision: str = "",
    component: str = "",
    family: str = "",
    device: str = "cpu",
    dtype: str = "float32",
    progress: bool = False,
) -> EncodedText:
    """Encode each different prompt once, and "", as the family's own pipeline does.

    Network and VAE are not loaded; the text encoders are freed at the end.

    Args:
        source: a whole pipeline's folder in diffusers' layout, or a hub id.
        revision: branch, tag or commit of a hub id.
        component: the network's folder; empty for the only one there is.
        family: how the network is called, as "package.module:Class"; empty: by its class.
        dtype: of the encoders and of the tensors: "float32", "bf16" or "fp16".

    Raises:
        ValueError: no such folder, no text encoder in it, one that can't be loaded whole, or a package is missing.
    """
    encoders = Encoders.open(str(source), "text", revision=revision, component=component, family=family)
    texts: dict[str, dict[str, Tensor]] = {}
    with encoders.pipeline(device=device, dtype=dtype) as pipeline:
        wanted = dict.fromkeys(("", *prompts))
        for prompt in tqdm(wanted, desc="text", unit="prompt", disable=not progress):
            try:
                encoded = encoders.family.encode_text(pipeline, prompt)
            except (NameError, ImportError) as error:  # a package that diffusers misses only when it uses it
                raise ValueError(f"--text = {str(source)!r}: {error}; {EXTRA}") from error
            texts[prompt] = {name: _checked(tensor, f"the prompt {prompt!r}") for name, tensor in encoded.items()}
    return EncodedText(texts, encoders.name, encoders.hash)


def text_identity(source: str | Path, *, revision: str = "", component: str = "") -> dict[str, str]:
    """`EncodedText.about()` without encoding anything, to compare with a data set's."""
    encoders = Encoders.open(str(source), "text", revision=revision, component=component)
    return {"name": encoders.name, "hash": encoders.hash}


def encode_images(
    source: str | Path,
    images: Tensor,
    *,
    revision: str = "",
    component: str = "",
    device: str = "cpu",
    dtype: str = "float32",
) -> Tensor:
    """Image states [n, L, D] of uint8 images [n, 3, H, W], as the family's own pipeline makes them.

    Args are those of `encode_prompts`.

    Raises:
        ValueError: as for `encode_prompts`, or the family has no image encoder, or `images` is not uint8 [n, 3, H, W].
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"images: {images.dtype} {tuple(images.shape)}; give at least one image, uint8 [n, 3, H, W]")
    encoders = Encoders.open(str(source), "image", revision=revision, component=component)
    with encoders.pipeline(device=device, dtype=dtype) as pipeline:
        return image_states(encoders.family, pipeline, images)


def image_states(family: Family, pipeline: Any, images: Tensor) -> Tensor:
    """`encode_images` by a pipeline that is loaded already (`Encoders.pipeline`)."""
    pictures = (Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images)
    states = [family.encode_image(pipeline, picture) for picture in pictures]
    return torch.stack([_checked(state, "an image") for state in states])


def _checked(tensor: Tensor, what: str) -> Tensor:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{what} gives NaN or infinite numbers in {tensor.dtype}; use dtype float32 or bf16")
    return tensor.detach().cpu().contiguous()
