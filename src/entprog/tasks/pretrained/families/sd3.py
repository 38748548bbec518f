"""Stable Diffusion 3 and 3.5: an MMDiT of single images.

Shape legend: B samples, C latent channels, h w latent height and width, L text tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from entprog.tasks.pretrained.families._image import Stills
from entprog.tasks.pretrained.families.base import Condition, Latent

__all__ = ["SD3"]

CLIP_TOKENS = 77
T5_TOKENS = 256


class SD3(Stills):
    """SD3Transformer2DModel, as StableDiffusion3Pipeline calls it.

    Text is that of two CLIP encoders on channels, then T5's tokens; padding included, as the network takes no mask.
    """

    networks = ("SD3Transformer2DModel",)

    @property
    def text_length(self) -> int:
        clip = self.configs.text.get("text_encoder", {}).get("max_position_embeddings", CLIP_TOKENS)
        return int(clip) + T5_TOKENS

    @property
    def joint_tokens(self) -> int:
        return self.text_length

    def size_problem(self, latent: Latent) -> str:
        most, longest = int(self.network.get("pos_embed_max_size") or 96), max(self.tokens(latent))
        if longest > most:
            return f"{longest} tokens a side, but the model's positions reach to {most}; choose a smaller picture"
        return super().size_problem(latent)

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        return (
            Condition("text", (self.text_length, int(self.network["joint_attention_dim"])), "text"),
            Condition("pooled", (int(self.network["pooled_projection_dim"]),), "text"),
        )

    def encode_text(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        if pipeline.text_encoder_3 is None:
            raise ValueError("Stable Diffusion 3 without text_encoder_3: give a folder with all three text encoders")
        embeds, _, pooled, _ = pipeline.encode_prompt(prompt, None, None, do_classifier_free_guidance=False)
        return {"text": embeds[0], "pooled": pooled[0]}

    def padded(self, texts: Any) -> dict[str, Tensor]:
        return super().padded(texts) | ({"pooled": torch.stack([t["pooled"] for t in texts])} if texts else {})

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "hidden_states": x[:, 0],
            "timestep": time,
            "encoder_hidden_states": condition["text"],
            "pooled_projections": condition["pooled"],
        }

    def timesteps(self, scheduler: Any, steps: int, latent: Latent, device: torch.device) -> Tensor:
        if not scheduler.config.get("use_dynamic_shifting"):
            return super().timesteps(scheduler, steps, latent, device)
        scheduler.set_timesteps(steps, device=device, mu=shift_of(scheduler.config, self.tokens(latent), 1.16))
        found: Tensor = scheduler.timesteps
        return found


def shift_of(config: Mapping[str, Any], tokens: tuple[int, int, int], most: float) -> float:
    """mu of a scheduler with dynamic shifting: linear in the number of tokens; `most`: max_shift by default."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", most)
    slope = (high - low) / (many - few)
    count = tokens[0] * tokens[1] * tokens[2]
    return float(count * slope + low - slope * few)
