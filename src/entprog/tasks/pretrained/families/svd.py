"""Stable Video Diffusion: an image to a video, by a U-Net over space and time.

Shape legend: B samples, T latent frames (one for each pixel frame), C latent channels, h w latent height and width,
D width of the image embedding.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from entprog.tasks.pretrained.families._unet import UNet
from entprog.tasks.pretrained.families.base import Condition, Latent

__all__ = ["SVD"]

TIME_IDS = (6.0, 127.0, 0.02)
"""Frames per second less one, motion bucket, and noise on the image: StableVideoDiffusionPipeline's defaults."""


class SVD(UNet):
    """UNetSpatioTemporalConditionModel, as StableVideoDiffusionPipeline calls it.

    The image goes in twice: as its CLIP embedding, and as latents on further channels of every frame. The latter are
    not multiplied by the VAE's scaling factor. Without a reference both are zero, as in the unconditional half of
    classifier-free guidance. EDM's target is v, its time ln(sigma) / 4 (`diffusion.levels.LogNormalLevels`).
    """

    networks = ("UNetSpatioTemporalConditionModel",)

    @property
    def embedding(self) -> int:
        """Width D of the image embedding."""
        width = self.network["cross_attention_dim"]
        return int(width if isinstance(width, int) else width[0])

    @property
    def scale(self) -> float:
        """The factor by which stored latents are larger than the VAE's own."""
        return float(self.configs.codec.get("scaling_factor", 0.18215))

    @property
    def native_reference(self) -> bool:
        return True

    def stored(self, *, pose: str, reference: str) -> tuple[str, ...]:
        if reference == "native":
            return "reference", "image_embeds"
        return super().stored(pose=pose, reference=reference)

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        if reference != "native":
            return ()
        return (
            Condition("image", (1, *latent.shape[1:]), "reference"),
            Condition("image_embeds", (1, self.embedding), "reference"),
        )

    def condition(
        self, stored: Mapping[str, Tensor], text: Mapping[str, Tensor], latent: Latent, *, pose: str, reference: str
    ) -> dict[str, Tensor]:
        if reference != "native":
            return {}
        return {"image": stored["reference"].float() / self.scale, "image_embeds": stored["image_embeds"].float()}

    def encode_image(self, pipeline: Any, image: Any) -> Tensor:
        """The CLIP embedding [1, D]; the pipeline resizes pictures, but not tensors."""
        found: Tensor = pipeline._encode_image(image, pipeline.device, 1, False)[0]
        return found

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        image, embeds = condition.get("image"), condition.get("image_embeds")
        shown = torch.zeros_like(x) if image is None else image.to(x.dtype).expand_as(x)
        return {
            "sample": torch.cat([x, shown], 2),
            "timestep": time,
            "encoder_hidden_states": x.new_zeros(len(x), 1, self.embedding) if embeds is None else embeds,
            "added_time_ids": x.new_tensor(TIME_IDS).expand(len(x), -1),
        }

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        return out
