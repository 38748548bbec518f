"""HunyuanVideo, text to video.

Shape legend: B samples, T latent frames, C latent channels, h w latent height and width, N tokens of a sample, L text
tokens, D width of the text states, P width of the pooled text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entprog.tasks.pretrained.families.base import Condition, Configs, Family, Latent, lengths, stacked

__all__ = ["HunyuanVideo"]

TEXT_TOKENS = 256
GUIDANCE = 6.0
"""The default of HunyuanVideoPipeline."""


class HunyuanVideo(Family):
    """HunyuanVideoTransformer3DModel, as HunyuanVideoPipeline calls it.

    Text is masked, so what stands in the places of padding has no effect; a pooled text comes beside it. Models with
    `guidance_embeds` are distilled: they take 1000 times the guidance scale, which is 1 in training.

    Blocks of both kinds take and return (hidden_states, encoder_hidden_states), video tokens [B, N, width] and text
    tokens [B, L, width]: a prefix cache keeps both. Time embedding, rotary angles and mask, which each block gets too,
    are computed outside the blocks.
    """

    networks = ("HunyuanVideoTransformer3DModel",)
    patterns = ("transformer_blocks.*", "single_transformer_blocks.*")
    posed = ("transformer_blocks.*", "single_transformer_blocks.*")
    head = ("norm_out", "proj_out")
    entrance = "x_embedder.proj"

    def __init__(self, configs: Configs) -> None:
        super().__init__(configs)
        if kind := self.network.get("image_condition_type"):
            raise ValueError(
                f"model.pretrained: image_condition_type = {kind!r}: the text encoder of HunyuanVideo I2V reads the "
                "image, too, which is not supported; take HunyuanVideo (text to video) or HunyuanVideo 1.5 (I2V)"
            )

    @property
    def patch(self) -> tuple[int, int, int]:
        side = int(self.network.get("patch_size", 2))
        return int(self.network.get("patch_size_t", 1)), side, side

    @property
    def text_length(self) -> int:
        return TEXT_TOKENS

    @property
    def joint_tokens(self) -> int:
        return TEXT_TOKENS

    @property
    def embedded_guidance(self) -> float:
        return GUIDANCE if self.network.get("guidance_embeds", True) else 0.0

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        found = (
            Condition("text", (TEXT_TOKENS, int(self.network.get("text_embed_dim", 4096))), "text"),
            Condition("text_mask", (TEXT_TOKENS,), "text"),
            Condition("pooled", (int(self.network.get("pooled_projection_dim", 768)),), "text"),
        )
        return (*found, Condition("guidance", ())) if self.embedded_guidance else found

    def condition(
        self, stored: Mapping[str, Tensor], text: Mapping[str, Tensor], latent: Latent, *, pose: str, reference: str
    ) -> dict[str, Tensor]:
        found = dict(text)
        if self.embedded_guidance:
            found["guidance"] = text["text"].new_ones(len(text["text"]))
        return found

    def encode_text(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        embeds, pooled, mask = pipeline.encode_prompt(prompt, max_sequence_length=TEXT_TOKENS)
        return {"text": embeds[0][mask[0].bool()], "pooled": pooled[0]}

    def padded(self, texts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        tokens = [text["text"] for text in texts]
        return {
            "text": stacked(tokens, TEXT_TOKENS),
            "text_mask": lengths(tokens, TEXT_TOKENS),
            "pooled": torch.stack([text["pooled"] for text in texts]),
        }

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        found = {
            "hidden_states": x.transpose(1, 2),
            "timestep": time,
            "encoder_hidden_states": condition["text"],
            "encoder_attention_mask": condition["text_mask"],
            "pooled_projections": condition["pooled"],
        }
        if "guidance" in condition:
            found["guidance"] = condition["guidance"] * 1000.0
        return found

    def timesteps(self, scheduler: Any, steps: int, latent: Latent, device: torch.device) -> Tensor:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1], device=device)
        return scheduler.timesteps  # type: ignore[no-any-return]
