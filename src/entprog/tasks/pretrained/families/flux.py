"""Flux 1 (dev, schnell): an MMDiT of single images, on latents packed 2 x 2.

Shape legend: B samples, C latent channels, h w latent height and width, N image tokens, L text tokens.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entprog.tasks.pretrained.families._image import Stills
from entprog.tasks.pretrained.families.base import Condition, Latent
from entprog.tasks.pretrained.families.sd3 import shift_of

__all__ = ["Flux"]

TEXT_TOKENS = 512
GUIDANCE = 3.5
"""What FluxPipeline gives a guidance-distilled model by default."""


class Flux(Stills):
    """FluxTransformer2DModel, as FluxPipeline calls it.

    The network takes sigma, not the scheduler's 1000 sigma. Text is T5's tokens, padding included, and CLIP's pooled
    state.
    """

    networks = ("FluxTransformer2DModel",)
    entrance = "x_embedder"

    @property
    def patch(self) -> tuple[int, int, int]:
        return 1, 2, 2

    @property
    def channels(self) -> int:
        return int(self.network["in_channels"]) // 4

    @property
    def text_length(self) -> int:
        return TEXT_TOKENS

    @property
    def joint_tokens(self) -> int:
        return self.text_length

    def problem(self, *, pose: str, reference: str) -> str:
        """Why these settings can't be used with this network; empty where they can."""
        given = int(self.network["in_channels"])
        predicted = int(self.network.get("out_channels") or given)
        if given == predicted:
            return ""
        return f"Flux with {given} channels in and {predicted} out (Fill, Control) is not supported"

    @property
    def embedded_guidance(self) -> float:
        return GUIDANCE if self.network.get("guidance_embeds") else 0.0

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        return (
            Condition("text", (self.text_length, int(self.network["joint_attention_dim"])), "text"),
            Condition("pooled", (int(self.network["pooled_projection_dim"]),), "text"),
            *((Condition("guidance", ()),) if self.embedded_guidance else ()),
        )

    def condition(
        self, stored: Mapping[str, Tensor], text: Mapping[str, Tensor], latent: Latent, *, pose: str, reference: str
    ) -> dict[str, Tensor]:
        if not self.embedded_guidance:
            return dict(text)
        return dict(text) | {"guidance": text["text"].new_ones(len(text["text"]), dtype=torch.float32)}

    def encode_text(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        embeds, pooled, _ = pipeline.encode_prompt(prompt, max_sequence_length=TEXT_TOKENS)
        return {"text": embeds[0], "pooled": pooled[0]}

    def padded(self, texts: Any) -> dict[str, Tensor]:
        return super().padded(texts) | ({"pooled": torch.stack([t["pooled"] for t in texts])} if texts else {})

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        text = condition["text"]
        found = {
            "hidden_states": packed(x[:, 0]),
            "timestep": time / 1000,
            "encoder_hidden_states": text,
            "pooled_projections": condition["pooled"],
            "txt_ids": text.new_zeros(text.shape[1], 3),
            "img_ids": places(x.shape[-2] // 2, x.shape[-1] // 2, text),
        }
        if self.embedded_guidance:
            found["guidance"] = condition["guidance"]
        return found

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        batch, _, channels, height, width = x.shape
        grid = out.view(batch, height // 2, width // 2, channels, 2, 2)
        return grid.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    def control(self, latents: Tensor) -> Tensor:
        return packed(latents[:, 0])

    def timesteps(self, scheduler: Any, steps: int, latent: Latent, device: torch.device) -> Tensor:
        sigmas = None if scheduler.config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        mu = shift_of(scheduler.config, self.tokens(latent), 1.15)
        asked = {"num_inference_steps": steps} if sigmas is None else {"sigmas": sigmas}
        scheduler.set_timesteps(**asked, device=device, mu=mu)
        found: Tensor = scheduler.timesteps
        return found


def packed(x: Tensor) -> Tensor:
    """Latents [B, C, h, w] as tokens of 2 x 2 places, [B, h w / 4, 4 C]."""
    batch, channels, height, width = x.shape
    grid = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def places(rows: int, columns: int, like: Tensor) -> Tensor:
    """(0, row, column) of each token, [rows columns, 3]."""
    found = like.new_zeros(rows, columns, 3)
    found[..., 1] = torch.arange(rows, device=like.device)[:, None]
    found[..., 2] = torch.arange(columns, device=like.device)[None]
    return found.flatten(0, 1)
