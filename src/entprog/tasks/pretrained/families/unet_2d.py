"""Stable Diffusion 1 and 2: a U-Net of single images.

Shape legend: B samples, T latent frames, C latent channels, h w latent height and width, L text tokens.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from entprog.tasks.pretrained.families._unet import TextUNet

__all__ = ["UNet2D"]


class UNet2D(TextUNet):
    """UNet2DConditionModel, as StableDiffusionPipeline calls it. Latent frames are images by themselves."""

    networks = ("UNet2DConditionModel",)

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        frames = x.shape[1]
        return {
            "sample": x.flatten(0, 1),
            "timestep": time.repeat_interleave(frames, 0),
            "encoder_hidden_states": condition["text"].repeat_interleave(frames, 0),
        }

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        return out.view_as(x)
