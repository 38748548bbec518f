"""AnimateDiff: a U-Net of images with motion modules between its blocks.

Shape legend: B samples, T latent frames, C latent channels, h w latent height and width, L text tokens.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from entprog.tasks.pretrained.families._unet import TextUNet
from entprog.tasks.pretrained.families.base import Latent

__all__ = ["UNetMotion"]


class UNetMotion(TextUNet):
    """UNetMotionModel, as AnimateDiffPipeline calls it: the text is repeated for each frame."""

    networks = ("UNetMotionModel",)

    def size_problem(self, latent: Latent) -> str:
        """Why the network can't take samples of this size; empty where it can."""
        most = int(self.network.get("motion_max_seq_length", 32))
        if latent.frames <= most:
            return ""
        return f"its motion modules know {most} frames at most, not {latent.frames}; set frames = {most} or fewer"

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        text = condition["text"].repeat_interleave(x.shape[1], 0)
        return {"sample": x.transpose(1, 2), "timestep": time, "encoder_hidden_states": text}
