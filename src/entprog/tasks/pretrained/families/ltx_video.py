"""LTX-Video: text to video and image to video with one network.

Shape legend: B samples, T latent frames, C latent channels, h w latent height and width, N tokens of a sample, L text
tokens, D width of the text states.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entprog.tasks.pretrained.families.base import Condition, Family, Latent, lengths, stacked

__all__ = ["LTXVideo"]

TEXT_TOKENS = 128
FRAME_RATE = 25.0
"""The default of LTXPipeline."""


class LTXVideo(Family):
    """LTXVideoTransformer3DModel, as LTXPipeline and LTXImageToVideoPipeline call it.

    Latents are packed into tokens [B, N, C patch]; sizes and the pixels and seconds that a token covers come beside
    them. With `reference = "native"` the first latent frame is the clean reference at time 0, outside the loss, and the
    network takes a time for each token. What stands in the places of padding of the text has no effect.

    A block takes video tokens [B, N, width] and returns them alone; a prefix cache keeps nothing else. The text is the
    same for all blocks.
    """

    networks = ("LTXVideoTransformer3DModel",)
    patterns = ("transformer_blocks.*",)
    posed = ("transformer_blocks.*",)
    head = ("scale_shift_table", "proj_out")
    entrance = "proj_in"

    @property
    def patch(self) -> tuple[int, int, int]:
        side = int(self.network.get("patch_size", 1))
        return int(self.network.get("patch_size_t", 1)), side, side

    @property
    def channels(self) -> int:
        frames, rows, columns = self.patch
        return int(self.network.get("out_channels") or self.network["in_channels"]) // (frames * rows * columns)

    @property
    def native_reference(self) -> bool:
        return True

    def first_counted(self, *, reference: str) -> int:
        return int(reference == "native")

    @property
    def frames_factor(self) -> int:
        return int(self.configs.codec.get("temporal_compression_ratio") or self._factor("patch_size_t", 1))

    @property
    def text_length(self) -> int:
        return TEXT_TOKENS

    def stored(self, *, pose: str, reference: str) -> tuple[str, ...]:
        return ("reference",) if reference in ("native", "frame") else ()

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        found = (
            Condition("text", (TEXT_TOKENS, int(self.network.get("caption_channels", 4096))), "text"),
            Condition("text_mask", (TEXT_TOKENS,), "text"),
        )
        return (*found, Condition("first", (1, *latent.shape[1:]))) if reference == "native" else found

    def condition(
        self, stored: Mapping[str, Tensor], text: Mapping[str, Tensor], latent: Latent, *, pose: str, reference: str
    ) -> dict[str, Tensor]:
        return dict(text) | ({"first": stored["reference"][:, :1]} if reference == "native" else {})

    def encode_text(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        embeds, mask, _, _ = pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS
        )
        return {"text": embeds[0][mask[0].bool()]}

    def padded(self, texts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        tokens = [text["text"] for text in texts]
        return {"text": stacked(tokens, TEXT_TOKENS), "text_mask": lengths(tokens, TEXT_TOKENS)}

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        latent = Latent(*x.shape[1:])
        if "first" in condition:
            x = self.keep(x, condition)
            frames, rows, columns = self.tokens(latent)
            time = time.view(-1, 1, 1).repeat(1, frames, rows * columns)
            time[:, 0] = 0
            time = time.flatten(1)
        rows, columns, seconds = *self._pixels, self._seconds
        return {
            "hidden_states": self._packed(x),
            "timestep": time,
            "encoder_hidden_states": condition["text"],
            "encoder_attention_mask": condition["text_mask"].bool(),
            "num_frames": latent.frames,
            "height": latent.height,
            "width": latent.width,
            "rope_interpolation_scale": (seconds, rows, columns),
        }

    @property
    def _pixels(self) -> tuple[int, int]:
        """Pixel rows and columns of a latent."""
        factor = int(self.configs.codec.get("spatial_compression_ratio") or self._factor("patch_size", 4))
        return factor, factor

    @property
    def _seconds(self) -> float:
        """Seconds of a latent frame."""
        return self.frames_factor / (self.frame_rate or FRAME_RATE)

    def _factor(self, patch: str, default: int) -> int:
        halvings = sum(self.configs.codec.get("spatio_temporal_scaling", (True, True, True, False)))
        return int(self.configs.codec.get(patch, default)) * 2**halvings

    def _packed(self, x: Tensor) -> Tensor:
        """Tokens [B, N, C patch] of latents [B, T, C, h, w]."""
        frames, rows, columns = self.patch
        split = x.unflatten(4, (-1, columns)).unflatten(3, (-1, rows)).unflatten(1, (-1, frames))
        return split.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4).flatten(1, 3)

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        cut = out.unflatten(2, (-1, *self.patch)).unflatten(1, self.tokens(Latent(*x.shape[1:])))
        return cut.permute(0, 1, 5, 4, 2, 6, 3, 7).flatten(6).flatten(4, 5).flatten(1, 2)

    def control(self, latents: Tensor) -> Tensor:
        """[B, N, C patch]."""
        return self._packed(latents)

    def keep(self, x: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        if "first" not in condition:
            return x
        return torch.cat([condition["first"].to(x.dtype), x[:, 1:]], 1)

    def timesteps(self, scheduler: Any, steps: int, latent: Latent, device: torch.device) -> Tensor:
        config = scheduler.config
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        slope = (high - low) / (many - few)
        mu = latent.frames * latent.height * latent.width * slope + (low - slope * few)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device=device)
        return scheduler.timesteps  # type: ignore[no-any-return]
