"""Tiny data sets of format 2 with random latents, for a tiny pipeline."""

from pathlib import Path

import torch

from entprog.codecs.diffusers import DiffusersCodec
from entprog.data.window_writer import WindowWriter
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.families.base import Configs, Latent
from entprog.tasks.pretrained.folder import read_configs

PROMPTS = ("a person signs", "a man walks")


def write_windows(
    out: Path, model: Path, *, component: str = "", frames: int = 5, sides: tuple[int, int] = (32, 32),
    windows: int = 6, seed: int = 0,
) -> Path:  # fmt: skip
    """`windows` windows, a third of them held out, with every tensor that the model may ask for."""
    configs = read_configs(model, component)
    family = family_of(configs)
    codec = DiffusersCodec.load(model)
    random, (height, width) = torch.Generator().manual_seed(seed), sides
    writer = WindowWriter(
        out, codec=codec.about(), text={"class": "tiny", "hash": "0"} if family.text_length else None,
        sizes=[f"{height}x{width}"], frames=frames, fps=8,
    )  # fmt: skip
    length = codec.latent_frames(frames)
    for i in range(windows):
        shape = (length, codec.channels, height // codec.factor, width // codec.factor)
        tensors = {
            "latents": torch.randn(shape, generator=random), "pose": _walking(frames, i),
            "control": torch.randn(shape, generator=random), "blank": torch.randn(shape, generator=random),
            "reference": torch.randn(2, 1, *shape[1:], generator=random),
            "first": torch.randn(2, *shape, generator=random),
            "image": torch.randint(0, 256, (2, 3, height, width), generator=random, dtype=torch.uint8),
            "face": torch.randint(0, 256, (frames, 3, 16, 16), generator=random, dtype=torch.uint8),
        }  # fmt: skip
        if states := _image_states(configs):
            tensors["image_embeds"] = torch.randn(2, *states, generator=random)
        writer.add(
            tensors, caption=PROMPTS[i % 2], clip=f"clip{i}", subject=f"person{i % 3}", source=f"clip{i}.mp4",
            split="holdout" if i % 3 == 2 else "train", start=0, frames=frames, height=height, width=width,
        )  # fmt: skip
    writer.close({prompt: _text(family, prompt, random) for prompt in ("", *PROMPTS)} if family.text_length else None)
    return out


def _walking(frames: int, place: int) -> torch.Tensor:
    """Keypoints [F, 18, 3] of a figure that moves a little."""
    random = torch.Generator().manual_seed(100 + place)
    still = torch.rand(1, 18, 3, generator=random) * 0.6 + 0.2
    moving = still + 0.05 * torch.randn(frames, 18, 3, generator=random).cumsum(0)
    moving[..., 2] = 1.0
    return moving


def _image_states(configs: Configs) -> tuple[int, int] | None:
    found = family_of(configs).conditions(Latent(1, 1, 1, 1), pose="native", reference="native")
    return next(((c.shape[0], c.shape[1]) for c in found if c.name == "image_embeds"), None)


def _text(family, prompt: str, random: torch.Generator) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
    """Random text states of the family's own names and widths, a token a word."""
    tokens = len(prompt.split()) + 1
    found = {}
    for condition in family.conditions(Latent(1, 1, 1, 1), pose="none", reference="none"):
        if condition.group == "text":
            shape = (tokens, *condition.shape[1:]) if len(condition.shape) > 1 else condition.shape
            found[condition.name] = torch.randn(shape, generator=random)
    return found
