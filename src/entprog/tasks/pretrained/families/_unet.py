"""What U-Nets have in common: their blocks in order of execution, and how those are skipped.

Shape legend: B samples, T latent frames, C channels, h w height and width of a level.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from entprog.core.blocks import Adapter
from entprog.tasks.pretrained.families.base import Condition, Family, Latent

__all__: list[str] = []  # no family of its own

KINDS = ("resnets", "attentions", "motion_modules")
"""The lists of a level, in the order in which each of its layers runs through them."""

CLIP_TOKENS = 77


class UNet(Family):
    """A U-Net of diffusers: residual, attention and motion blocks are skipped, ranked and frozen one by one.

    Every later block may need the output of every block on the way down (skip connections), so that a prefix can't be
    cached. The convolutions that halve or double a map stand outside all blocks.
    """

    posed = ("down_blocks.*.resnets.*", "mid_block.resnets.*", "up_blocks.*.resnets.*")
    single_stack = False
    head = ("conv_norm_out", "conv_out")
    entrance = "conv_in"
    posed_maps = True

    @property
    def channels(self) -> int:
        return int(self.network["out_channels"])

    @property
    def width(self) -> int:
        """Channels of the finest level; pose adapters take the width of each block from the block."""
        return int(self.network["block_out_channels"][0])

    def block_names(self, network: nn.Module) -> list[str]:
        found: list[str] = []
        for path in ("down_blocks", "mid_block", "up_blocks"):
            stage: Any = getattr(network, path)
            if path == "mid_block":
                found += middle(stage)
                continue
            for place, level in enumerate(stage):
                found += layers(f"{path}.{place}", level)
        return found

    def skip_adapters(self, network: nn.Module) -> Mapping[str, Adapter]:
        """Residual blocks that change the number of channels: their shortcut convolution alone."""
        found: dict[str, Adapter] = {}
        for name in self.block_names(network):
            block: Any = network.get_submodule(name)
            shortcut = getattr(getattr(block, "spatial_res_block", block), "conv_shortcut", None)
            if shortcut is not None:
                found[name] = Shortcut(shortcut)
        return found

    def size_problem(self, latent: Latent) -> str:
        """Why the network can't take samples of this size; empty where it can."""
        return ""

    def control(self, latents: Tensor) -> Tensor:
        return latents.flatten(0, 1)


class TextUNet(UNet):
    """A U-Net that takes the hidden states of a CLIP text encoder, those of padding included."""

    @property
    def text_length(self) -> int:
        return int(self.configs.text.get("text_encoder", {}).get("max_position_embeddings", CLIP_TOKENS))

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        return (Condition("text", (self.text_length, int(self.network["cross_attention_dim"])), "text"),)

    def encode_text(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        return {"text": pipeline.encode_prompt(prompt, pipeline.device, 1, False)[0][0]}

    def problem(self, *, pose: str, reference: str) -> str:
        """Why these settings can't be used with this network; empty where they can."""
        if self.network.get("addition_embed_type"):
            return (
                f"addition_embed_type = {self.network['addition_embed_type']!r} (SDXL) of config.json is not supported"
            )
        given, predicted = int(self.network["in_channels"]), self.channels
        if given != predicted:
            return f"{given} channels in and {predicted} out (inpainting, image to video) are not supported"
        return ""


def layers(path: str, level: nn.Module) -> list[str]:
    """The blocks of a level on the way down or up: layer by layer."""
    stacks = {kind: list(getattr(level, kind, None) or ()) for kind in KINDS}
    deepest = max(len(stack) for stack in stacks.values())
    return [f"{path}.{kind}.{i}" for i in range(deepest) for kind in KINDS if i < len(stacks[kind])]


def middle(stage: Any) -> list[str]:
    """The blocks of the middle: one residual block more than there are layers, and it runs first."""
    if stage is None:
        return []
    found = ["mid_block.resnets.0"]
    for i in range(len(stage.resnets) - 1):
        for kind in ("attentions", "motion_modules"):
            stack = getattr(stage, kind, None) or ()
            found += [f"mid_block.{kind}.{i}"] if i < len(stack) and stack[i] is not None else []
        found.append(f"mid_block.resnets.{i + 1}")
    return found


@dataclass(frozen=True)
class Shortcut:
    """What a residual block returns without its residual branch: its shortcut of the maps, its first argument.

    An object, not a closure, so that a copy of the network has adapters with its own shortcuts.
    """

    module: nn.Module

    def __call__(self, arguments: Mapping[str, Any]) -> Any:
        return self.module(next(iter(arguments.values())))
