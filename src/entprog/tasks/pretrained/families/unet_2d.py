"""Stable Diffusion 1 and 2: a U-Net of single images, with a reference image by shared self-attention.

Shape legend: B samples, T latent frames, C latent channels, h w latent height and width, L text tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from entprog.tasks.pretrained.families._shared_attention import SharedAttention
from entprog.tasks.pretrained.families._unet import TextUNet
from entprog.tasks.pretrained.families.base import Condition, Latent

__all__ = ["UNet2D"]


class UNet2D(TextUNet):
    """UNet2DConditionModel, as StableDiffusionPipeline calls it. Latent frames are images by themselves.

    With `model.reference = "native"`, the reference image runs through the same U-Net at time 0, as frame 0 of the
    sample, and the self-attention of the other frames has its keys and values, too (as AnimateAnyone's does, whose
    second U-Net for the reference no class of diffusers has). Without a reference, the calls are the pipeline's.
    """

    networks = ("UNet2DConditionModel",)

    @property
    def native_reference(self) -> bool:
        return True

    def leading(self, *, reference: str) -> int:
        return int(reference == "native")

    def prepared(self, network: nn.Module) -> nn.Module:
        network.set_attn_processor(SharedAttention())  # type: ignore[operator]
        return network

    def stored(self, *, pose: str, reference: str) -> tuple[str, ...]:
        return ("reference",) if reference in ("native", "frame") else ()

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        found = super().conditions(latent, pose=pose, reference=reference)
        if reference != "native":
            return found
        return (*found, Condition("first", (1, *latent.shape[1:]), "reference"))

    def condition(
        self, stored: Mapping[str, Tensor], text: Mapping[str, Tensor], latent: Latent, *, pose: str, reference: str
    ) -> dict[str, Tensor]:
        if reference != "native":
            return dict(text)
        return dict(text) | {"first": stored["reference"][:, :1].float()}

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        frames = x.shape[1]
        times = time.view(-1, 1).repeat(1, frames)
        found: dict[str, Any] = {"encoder_hidden_states": condition["text"].repeat_interleave(frames, 0)}
        if "first" in condition:
            x, times[:, 0] = self.keep(x, condition), 0
            found["cross_attention_kwargs"] = {"reference_frames": frames}
        return found | {"sample": x.flatten(0, 1), "timestep": times.flatten()}

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        return out.view_as(x)

    def keep(self, x: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        if "first" not in condition:
            return x
        return torch.cat([condition["first"].to(x.dtype), x[:, 1:]], 1)
