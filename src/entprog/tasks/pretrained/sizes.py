"""The sizes of latents by configuration files alone, and whether a model takes a size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from entprog.tasks.pretrained.families.base import Family, Latent

__all__ = ["Compression", "compression", "frames_problem", "size_problem"]


@dataclass(frozen=True)
class Compression:
    """What a VAE makes of a clip.

    Attributes:
        factor: pixels of a latent's side.
        frames: pixel frames of a latent frame, after the first; 1: each frame is encoded by itself.
    """

    factor: int
    frames: int

    def latent(self, channels: int, sides: tuple[int, int], frames: int) -> Latent:
        """The size of a clip's latents."""
        height, width = (side // self.factor for side in sides)
        return Latent((frames - 1) // self.frames + 1, channels, height, width, frames)


def compression(codec: Mapping[str, Any]) -> Compression:
    """The compression of a VAE by its config.json, built without memory.

    Raises:
        ValueError: there is none, or its class is not known.
    """
    import diffusers

    from entprog.codecs.diffusers import KNOWN

    name = str(codec.get("_class_name", ""))
    if name not in KNOWN:
        said = f"its VAE is of the class {name}" if name else "it has no vae/config.json"
        raise ValueError(f"model.pretrained: {said}; known VAEs are {', '.join(KNOWN)}")
    with torch.device("meta"):
        sizes = KNOWN[name](getattr(diffusers, name).from_config(dict(codec)))
    return Compression(int(sizes.factor), int(sizes.frames) or 1)


def frames_problem(frames: int, per: int) -> str:
    """Why a VAE of `per` frames a latent frame does not take so many; empty where it does."""
    whole, rest = divmod(frames - 1, per)
    if not rest and frames >= 1:
        return ""
    below = max(whole, 0) * per + 1
    return f"the model's VAE takes {per} * k + 1; choose {below} or {below + per}"


def size_problem(family: Family, sides: tuple[int, int], whole: Latent, factor: int) -> str:
    """Why the network does not take frames of this height and width; empty where it does.

    Args:
        whole: what the network gets, with the frames in front of the clip's own.
        factor: pixels of a latent's side.
    """
    if why := family.size_problem(whole):
        return why
    rows, columns = (factor * side for side in family.patch[1:])
    if not sides[0] % rows and not sides[1] % columns:
        return ""
    return (
        f"no multiple of {_size(rows, columns)} pixels, the size of a token (VAE {factor} x patch "
        f"{_size(*family.patch[1:])}); choose {_near(sides[0], rows)}x{_near(sides[1], columns)}"
    )


def _size(rows: int, columns: int) -> str:
    return str(rows) if rows == columns else f"{rows}x{columns}"


def _near(side: int, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple
