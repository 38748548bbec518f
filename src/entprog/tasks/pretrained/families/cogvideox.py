"""CogVideoX 1.0 and 1.5: text to video and image to video.

Shape legend: B samples, T latent frames, C latent channels, h w latent height and width, N tokens of a sample, L text
tokens, D width of the text states.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor

from entprog.tasks.pretrained.families.base import Condition, Family, Latent

__all__ = ["CogVideoX"]

OFS = 2.0
"""The constant that CogVideoXImageToVideoPipeline gives to models with `ofs_embed_dim` (1.5 I2V)."""


class CogVideoX(Family):
    """CogVideoXTransformer3DModel, as CogVideoXPipeline and CogVideoXImageToVideoPipeline call it.

    Latents are [B, T, C, h, w] in the network, too. Image-to-video models take (image latents, 0, 0, ...) on further
    channels. Models with `use_rotary_positional_embeddings` (5B, 1.5) get cosines and sines for each token.

    A block takes and returns (hidden_states, encoder_hidden_states), video tokens [B, N, width] and text tokens
    [B, L, width]: a prefix cache keeps both. The time embedding and the rotary angles, which each block gets too, are
    computed outside the blocks.
    """

    networks = ("CogVideoXTransformer3DModel",)
    patterns = ("transformer_blocks.*",)
    posed = ("transformer_blocks.*",)
    head = ("norm_final", "norm_out", "proj_out")
    entrance = "patch_embed.proj"

    @property
    def patch(self) -> tuple[int, int, int]:
        side = int(self.network.get("patch_size", 2))
        return int(self.network.get("patch_size_t") or 1), side, side

    @property
    def text_length(self) -> int:
        return int(self.network.get("max_text_seq_length", 226))

    @property
    def joint_tokens(self) -> int:
        return self.text_length

    @property
    def extra(self) -> int:
        """Channels beside the noised latents: those of the image."""
        return int(self.network["in_channels"]) - self.channels

    @property
    def native_reference(self) -> bool:
        return self.extra > 0

    def stored(self, *, pose: str, reference: str) -> tuple[str, ...]:
        return ("reference",) if reference in ("native", "frame") else ()

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        text = Condition("text", (self.text_length, int(self.network.get("text_embed_dim", 4096))), "text")
        if not self.extra:
            return (text,)
        return text, Condition("channels", (latent.frames, self.extra, *latent.shape[2:]), "reference")

    def condition(
        self, stored: Mapping[str, Tensor], text: Mapping[str, Tensor], latent: Latent, *, pose: str, reference: str
    ) -> dict[str, Tensor]:
        found = dict(text)
        if self.extra:
            batch, shape = len(text["text"]), (latent.frames, self.extra, *latent.shape[2:])
            found["channels"] = text["text"].new_zeros(batch, *shape)
            if reference == "native":
                image = stored["reference"][:, :1]
                found["channels"] = image.new_zeros(batch, *shape)
                found["channels"][:, :1] = image * self._image_scale
        return found

    @property
    def _image_scale(self) -> float:
        """Factor of the image's latents. The models with `invert_scale_latents` in the VAE's configuration were trained
        with image latents divided by `scaling_factor`; stored latents are multiplied by it."""
        if not self.configs.codec.get("invert_scale_latents"):
            return 1.0
        return 1 / float(self.configs.codec["scaling_factor"]) ** 2

    def encode_text(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        """All `text_length` states: the encoder runs without a mask, so those of padding tokens are not zero."""
        embeds, _ = pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=self.text_length
        )
        return {"text": embeds[0]}

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        latent = Latent(*x.shape[1:])
        if "channels" in condition:
            x = torch.cat([x, condition["channels"].to(x.dtype)], 2)
        found: dict[str, Any] = {"hidden_states": x, "timestep": time, "encoder_hidden_states": condition["text"]}
        if self.network.get("use_rotary_positional_embeddings"):
            found["image_rotary_emb"] = self._angles(latent, x.device)
        if self.network.get("ofs_embed_dim"):
            found["ofs"] = x.new_full((1,), OFS)
        return found

    def _angles(self, latent: Latent, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines [N, head width] of the tokens: 1.0 stretches the grid into the one that it was trained on,
        1.5 takes a corner of it."""
        frames, rows, columns = self.tokens(latent)
        largest = self._grid
        settings: dict[str, Any] = {"crops_coords": centred((rows, columns), largest)}
        if self.patch[0] > 1 or self.network.get("patch_size_t"):
            settings = {"crops_coords": None, "grid_type": "slice", "max_size": largest}
        return get_3d_rotary_pos_embed(  # type: ignore[return-value]
            embed_dim=int(self.network["attention_head_dim"]), grid_size=(rows, columns), temporal_size=frames,
            device=device, **settings,
        )  # fmt: skip

    @property
    def _grid(self) -> tuple[int, int]:
        """Rows and columns of tokens at the size of the configuration."""
        side = self.patch[1]
        return int(self.network.get("sample_height", 60)) // side, int(self.network.get("sample_width", 90)) // side

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        return out

    def control(self, latents: Tensor) -> Tensor:
        """[B T, C, h, w] for the convolution of 1.0; [B, N, C patch] for the linear layer of 1.5."""
        if not self.network.get("patch_size_t"):
            return latents.flatten(0, 1)
        frames, rows, columns = self.patch
        split = latents.unflatten(4, (-1, columns)).unflatten(3, (-1, rows)).unflatten(1, (-1, frames))
        return split.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4).flatten(1, 3)

    def sampler(self, scheduler: Any) -> Any:
        """DDIM over the same table in the place of CogVideoXDPMScheduler, whose step takes earlier predictions."""
        if type(scheduler).__name__ == "CogVideoXDPMScheduler":
            return CogVideoXDDIMScheduler.from_config(scheduler.config)
        return scheduler

    def size_problem(self, latent: Latent) -> str:
        frames = self.patch[0]
        if latent.frames % frames:
            return f"{latent.frames} latent frames, but a token holds {frames}: choose frames = {4 * frames} k - 3"
        height, width = (
            int(self.network.get(key, size)) for key, size in (("sample_height", 60), ("sample_width", 90))
        )
        learned = self.network.get("use_learned_positional_embeddings")
        if learned and (latent.height, latent.width) != (height, width):
            return f"positions are learned for latents of {height}x{width}, not {latent.height}x{latent.width}"
        sliced = self.network.get("patch_size_t")
        if sliced and (latent.height > height or latent.width > width):
            return (
                f"positions reach latents of {height}x{width}, not {latent.height}x{latent.width}: take a smaller size"
            )
        return ""


def centred(grid: tuple[int, int], largest: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Top left and bottom right corner of a grid (rows, columns), scaled to just fit in the middle of `largest`."""
    (rows, columns), (height, width) = grid, largest
    if rows / columns > height / width:
        size = height, round(height / rows * columns)
    else:
        size = round(width / columns * rows), width
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return (top, left), (top + size[0], left + size[1])
