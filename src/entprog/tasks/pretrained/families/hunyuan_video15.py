"""HunyuanVideo 1.5: text to video and image to video.

Shape legend: B samples, T latent frames, C latent channels, h w latent height and width, N tokens of a sample, L text
tokens, I image tokens, D width of the text states.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import HunyuanVideo15Transformer3DModel as Original
from torch import Tensor, nn

from entprog.tasks.pretrained.families.base import Condition, Configs, Family, Latent, lengths, stacked

__all__ = ["HunyuanVideo15"]


class HunyuanVideo15(Family):
    """HunyuanVideo15Transformer3DModel, as HunyuanVideo15Pipeline and HunyuanVideo15ImageToVideoPipeline call it.

    There are two texts, each with a mask: the prompt's states ("text"), and those of the words in quotation marks
    ("glyphs", often none). Latents of (image, 0, 0, ...) and a mask come on further channels; the states of an image
    encoder, too. All three are zero for text to video.

    A block takes and returns (hidden_states, encoder_hidden_states), video tokens [B, N, width] and the tokens of
    image, glyphs and text [B, I + L, width]: a prefix cache keeps both. Time embedding, rotary angles and mask, which
    each block gets too, are computed outside the blocks.

    Attributes:
        text_tokens, glyph_tokens: lengths that the two texts are padded to.
        image_tokens: states of the image encoder.
    """

    networks = ("HunyuanVideo15Transformer3DModel",)
    patterns = ("transformer_blocks.*",)
    posed = ("transformer_blocks.*",)
    head = ("norm_out", "proj_out")
    entrance = "x_embedder.proj"
    text_tokens = 1000
    glyph_tokens = 256
    image_tokens = 729

    def __init__(self, configs: Configs) -> None:
        super().__init__(configs)
        if self.network.get("use_meanflow"):
            raise ValueError(
                "model.pretrained: use_meanflow = true: a network distilled to few steps takes the time of the next "
                "step, too, which is not supported; take the model that is not distilled"
            )

    @property
    def patch(self) -> tuple[int, int, int]:
        side = int(self.network.get("patch_size", 1))
        return int(self.network.get("patch_size_t", 1)), side, side

    @property
    def channels(self) -> int:
        return int(self.network.get("out_channels") or 32)

    @property
    def native_reference(self) -> bool:
        return bool(self.network.get("task_type", "i2v") == "i2v")

    @property
    def text_length(self) -> int:
        return self.text_tokens

    @property
    def joint_tokens(self) -> int:
        return self.text_tokens + self.glyph_tokens + self.image_tokens

    @property
    def image_width(self) -> int:
        """Width of the image encoder's states."""
        return int(self.network.get("image_embed_dim", 1152))

    def stored(self, *, pose: str, reference: str) -> tuple[str, ...]:
        if reference != "native":
            return super().stored(pose=pose, reference=reference)
        return "reference", "image_embeds"

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        return (
            Condition("text", (self.text_tokens, int(self.network.get("text_embed_dim", 3584))), "text"),
            Condition("text_mask", (self.text_tokens,), "text"),
            Condition("glyphs", (self.glyph_tokens, int(self.network.get("text_embed_2_dim", 1472))), "text"),
            Condition("glyphs_mask", (self.glyph_tokens,), "text"),
            Condition("channels", (latent.frames, self.channels + 1, *latent.shape[2:]), "reference"),
            Condition("image_embeds", (self.image_tokens, self.image_width), "reference"),
        )

    def condition(
        self, stored: Mapping[str, Tensor], text: Mapping[str, Tensor], latent: Latent, *, pose: str, reference: str
    ) -> dict[str, Tensor]:
        batch, like = len(text["text"]), text["text"]
        channels = like.new_zeros(batch, latent.frames, self.channels + 1, *latent.shape[2:])
        embeds = like.new_zeros(batch, self.image_tokens, self.image_width)
        if reference == "native":
            embeds = stored["image_embeds"]
            channels[:, :1, :-1] = stored["reference"][:, :1]
            channels[:, 0, -1] = 1
        return dict(text) | {"channels": channels, "image_embeds": embeds}

    def encode_text(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        embeds, mask, glyphs, glyphs_mask = pipeline.encode_prompt(prompt)
        return {"text": embeds[0][mask[0].bool()], "glyphs": glyphs[0][glyphs_mask[0].bool()]}

    def padded(self, texts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, length in (("text", self.text_tokens), ("glyphs", self.glyph_tokens)):
            tokens = [text[name] for text in texts]
            found |= {name: stacked(tokens, length), f"{name}_mask": lengths(tokens, length)}
        return found

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        x = torch.cat([x, condition["channels"].to(x.dtype)], 2)
        return {
            "hidden_states": x.transpose(1, 2),
            "timestep": time.to(x.dtype),
            "encoder_hidden_states": condition["text"],
            "encoder_attention_mask": condition["text_mask"],
            "encoder_hidden_states_2": condition["glyphs"],
            "encoder_attention_mask_2": condition["glyphs_mask"],
            "image_embeds": condition["image_embeds"],
        }

    def prepared(self, network: nn.Module) -> nn.Module:
        network.__class__ = Static
        return network

    def timesteps(self, scheduler: Any, steps: int, latent: Latent, device: torch.device) -> Tensor:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1], device=device)
        return scheduler.timesteps  # type: ignore[no-any-return]


class Static(Original):  # type: ignore[misc]
    """The same network with shapes that depend on the shapes of its inputs alone, so that plans run it on fake tensors
    and a GPU need not wait for the masks.

    Tokens that are masked go behind the others by a stable sort instead of indexing with masks, bit for bit the same.
    Whether a sample has an image is asked of each sample, not of the whole batch.
    """

    config: Any
    cond_type_embed: Any
    context_embedder: Any
    context_embedder_2: Any
    image_embedder: Any
    norm_out: Any
    proj_out: Any
    rope: Any
    time_embed: Any
    transformer_blocks: Any
    x_embedder: Any

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        encoder_hidden_states_2: Tensor,
        encoder_attention_mask_2: Tensor,
        image_embeds: Tensor,
        attention_kwargs: Mapping[str, Any] | None = None,
        timestep_r: None = None,
        return_dict: bool = True,
    ) -> tuple[Tensor]:
        """See the class; always a tuple."""
        latent = hidden_states.shape[2:]
        angles, time = self.rope(hidden_states), self.time_embed(timestep)
        image = (image_embeds != 0).flatten(1).any(1, keepdim=True)
        parts = [
            (self.image_embedder(image_embeds) * image[..., None], image.expand(-1, image_embeds.shape[1])),
            (self.context_embedder_2(encoder_hidden_states_2), encoder_attention_mask_2.bool()),
            (
                self.context_embedder(encoder_hidden_states, timestep, encoder_attention_mask),
                encoder_attention_mask.bool(),
            ),
        ]
        context, mask = self._ordered(parts)
        tokens = self.x_embedder(hidden_states)
        for block in self.transformer_blocks:
            tokens, context = block(tokens, context, time, mask, angles)
        tokens = self.proj_out(self.norm_out(tokens, time))
        return (self._whole(tokens, latent),)

    def _ordered(self, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Tokens [B, I + L, width] of image, glyphs and text with their mask, masked ones behind the others."""
        states = []
        for kind, (embedded, mask) in zip((2, 1, 0), parts, strict=True):
            marked = embedded + self.cond_type_embed.weight[kind]
            # Masked text is zero; a missing image leaves the mark of its kind.
            states.append(marked if kind == 2 else marked * mask[..., None])
        whole, mask = torch.cat(states, 1), torch.cat([mask for _, mask in parts], 1)
        order = torch.argsort((~mask).int(), dim=1, stable=True)
        return whole.take_along_dim(order[..., None], 1), mask.take_along_dim(order, 1)

    def _whole(self, tokens: Tensor, latent: torch.Size) -> Tensor:
        """Latents [B, C, T, h, w] of tokens [B, N, C patch]."""
        side, frames = self.config.patch_size, self.config.patch_size_t
        grid = latent[0] // frames, latent[1] // side, latent[2] // side
        cut = tokens.unflatten(2, (-1, frames, side, side)).unflatten(1, grid)
        return cut.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)


Static.__name__ = Static.__qualname__ = Original.__name__
Static.__module__ = Original.__module__
