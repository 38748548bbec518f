"""Examples of pretrained models in README and docs, made small: a tiny pipeline in the place of the model they name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, SanaVideoTransformer3DModel
from PIL import Image

import tiny_vaes
from entprog.prepare.video import write_video
from entprog.synthetic import render_clip
from tiny_pipelines import saved
from tiny_pipelines.wan import randomised

__all__ = ["MODELS", "Example", "write_inputs"]

PLACEHOLDER = "MODEL"
"""In commands: the model of the page's recipe."""
FEWER: dict[str, list[str]] = {
    "prepare": ["--references", "1", "--max-frames", "9"],
    "sample": ["--frames", "6"],
    "train": ["--phases.video.steps", "2", "--ranking.samples", "2", "--evaluate.clips", "1", "--train.threads", "1"],
}
"""Options that are added to a command, by its verb."""


def sana(folder: Path) -> Path:
    """A tiny text-to-video model of a class that no family of the package calls; without text encoder."""
    network = SanaVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=4, caption_channels=16,
        num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, rope_max_seq_len=32,
    )  # fmt: skip
    randomised(network).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=8.0).save_pretrained(folder / "scheduler")
    return tiny_vaes.save(folder)


@dataclass(frozen=True)
class Model:
    """What stands in for a model.

    Attributes:
        make: gives the folder of the tiny pipeline; its argument is an empty folder that it may use.
        words: words of the example -> those that make it small.
    """

    make: Callable[[Path], Path]
    words: Mapping[str, str] = field(default_factory=dict)


MODELS = {
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": Model(lambda _: saved("wan-2.1-i2v"), {"480x832": "64x48", "81": "5"}),
    "THUDM/CogVideoX-5b-I2V": Model(
        lambda _: saved("cogvideox-5b-i2v"), {"480x720": "48x64", "49": "5", "50": "2"}
    ),
    "Efficient-Large-Model/SANA-Video_2B_480p_diffusers": Model(sana, {"480x832": "32x32", "81": "5"}),
}  # fmt: skip
"""By hub id, as the examples name it."""


@dataclass(frozen=True)
class Example:
    """A recipe of a page and the commands that belong to it, made small."""

    recipe: str
    commands: list[list[str]]
    model: Path

    @classmethod
    def of(cls, recipe: str, name: str, commands: list[list[str]], folder: Path) -> "Example":
        """The example of a recipe.

        Args:
            recipe: its text.
            name: the hub id that it names.
            commands: those of the page that belong to the recipe.
            folder: for the model; not yet there.
        """
        model = MODELS[name]
        folder.mkdir()
        path = model.make(folder)
        words = {**model.words, name: str(path), PLACEHOLDER: str(path)}
        small = [[_small(word, words) for word in command] for command in commands]
        return cls(_small(recipe, words), [[*command, *FEWER.get(command[1], [])] for command in small], path)


def _small(text: str, words: Mapping[str, str]) -> str:
    names = "|".join(re.escape(word) for word in words)
    return re.sub(rf"(?<![\w.])(?:{names})(?![\w.])", lambda found: words[found[0]], text)


def write_inputs(folder: Path) -> None:
    """The files that examples name: VIDEOS/ with captions, a driving video and a picture, of rendered people."""
    videos = folder / "VIDEOS"
    videos.mkdir()
    for subject, name in enumerate(("a", "c")):
        write_video(videos / f"{name}.mp4", render_clip(subject, subject, subject, frames=9, size=128).frames, 16)
        (videos / f"{name}.txt").write_text("a person dances\n", encoding="utf-8")
    write_video(folder / "dance.mp4", render_clip(5, 5, 5, frames=9, size=128).frames, 16)
    Image.fromarray(render_clip(6, 6, 6, frames=1, size=128).frames[0]).save(folder / "me.png")
