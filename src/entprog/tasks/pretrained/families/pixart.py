"""PixArt-alpha and PixArt-Sigma: transformers of single images that take T5's text.

Shape legend: B samples, C latent channels, h w latent height and width, L text tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from entprog.tasks.pretrained.families._image import Stills
from entprog.tasks.pretrained.families.base import Condition, Latent, lengths

__all__ = ["PixArt"]

ALPHA_TOKENS, SIGMA_TOKENS = 120, 300
LARGE = 128
"""The `sample_size` of the models of PixArt-alpha that are given the size of the image."""


class PixArt(Stills):
    """PixArtTransformer2DModel, as PixArtAlphaPipeline and PixArtSigmaPipeline call it."""

    networks = ("PixArtTransformer2DModel",)

    @property
    def sigma(self) -> bool:
        """Whether this is PixArt-Sigma, which takes longer texts and no image sizes."""
        return self.configs.index.get("_class_name") == "PixArtSigmaPipeline"

    @property
    def text_length(self) -> int:
        return SIGMA_TOKENS if self.sigma else ALPHA_TOKENS

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        return (
            Condition("text", (self.text_length, int(self.network["caption_channels"])), "text"),
            Condition("text_mask", (self.text_length,), "text"),
        )

    def encode_text(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        embeds, mask, _, _ = pipeline.encode_prompt(prompt, False, max_sequence_length=self.text_length)
        return {"text": embeds[0][mask[0].bool()]}

    def padded(self, texts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        if not texts:
            return {}
        return super().padded(texts) | {"text_mask": lengths([text["text"] for text in texts], self.text_length)}

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "hidden_states": x[:, 0],
            "timestep": time,
            "encoder_hidden_states": condition["text"],
            "encoder_attention_mask": condition["text_mask"],
            "added_cond_kwargs": self._size(x),
        }

    def _size(self, x: Tensor) -> dict[str, Tensor | None]:
        """Height and width in pixels and their ratio, where the model is given them."""
        if self.sigma or int(self.network["sample_size"]) != LARGE:
            return {"resolution": None, "aspect_ratio": None}
        factor = 2 ** (len(self.configs.codec.get("block_out_channels", (0,) * 4)) - 1)
        height, width = (side * factor for side in x.shape[-2:])
        return {
            "resolution": x.new_tensor([height, width]).expand(len(x), -1),
            "aspect_ratio": x.new_tensor([height / width]).expand(len(x), -1),
        }
