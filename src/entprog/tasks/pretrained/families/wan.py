"""Wan 2.1 and 2.2: text to video, image to video, and the 5B model of both (TI2V).

Shape legend: B samples, T latent frames, C latent channels, h w latent height and width, N tokens of a latent frame,
L text tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from entprog.tasks.pretrained.families.base import Condition, Family, Latent

__all__ = ["Wan"]

TEXT_TOKENS = 512
IMAGE_TOKENS = 257
HIGH_NOISE, LOW_NOISE = "transformer", "transformer_2"
"""The two experts of Wan 2.2 A14B."""
FRAMES = 4
"""Pixel frames of a latent frame; the mask of an image-to-video model has a channel for each."""


class Wan(Family):
    """WanTransformer3DModel, as WanPipeline and WanImageToVideoPipeline call it.

    Image-to-video models take a mask and the latents of (image, 0, 0, ...) on further channels, those of Wan 2.1 the
    image's CLIP states, too. TI2V-5B (`expand_timesteps`) takes a time for each token: the first latent frame is the
    clean reference at time 0, outside the loss; without a reference it makes video from text. The two experts of
    Wan 2.2 A14B train one at a time, each on its part of the noise levels (`boundary_ratio`).
    """

    networks = ("WanTransformer3DModel",)
    posed = ("blocks.*",)

    @property
    def patch(self) -> tuple[int, int, int]:
        frames, rows, columns = self.network.get("patch_size", (1, 2, 2))
        return frames, rows, columns

    @property
    def text_length(self) -> int:
        return TEXT_TOKENS

    @property
    def extra(self) -> int:
        """Channels beside the noised latents: mask and image latents."""
        return int(self.network["in_channels"]) - self.channels

    @property
    def clip(self) -> int:
        """Width of the CLIP states of the image; 0 where the model takes none."""
        return int(self.network.get("image_dim") or 0)

    @property
    def per_token(self) -> bool:
        """Whether the model takes a time for each token (TI2V-5B)."""
        return bool(self.configs.index.get("expand_timesteps"))

    @property
    def native_reference(self) -> bool:
        return self.extra > 0 or self.per_token

    def first_counted(self, *, reference: str) -> int:
        return max(super().first_counted(reference=reference), int(self.per_token and reference == "native"))

    def part(self) -> tuple[float, float]:
        boundary = self.configs.index.get("boundary_ratio")
        if boundary is None:
            return 0.0, 1.0
        return (0.0, float(boundary)) if self.configs.component == LOW_NOISE else (float(boundary), 1.0)

    @property
    def experts(self) -> bool:
        """Whether two networks share the noise levels (Wan 2.2 A14B)."""
        index = self.configs.index
        listed = ((index.get(expert) or [None])[0] for expert in (HIGH_NOISE, LOW_NOISE))
        return index.get("boundary_ratio") is not None and all(listed)

    def component_at(self, time: float) -> str:
        if not self.experts:
            return self.configs.component
        steps = int(self.configs.scheduler.get("num_train_timesteps", 1000))
        return HIGH_NOISE if time >= float(self.configs.index["boundary_ratio"]) * steps else LOW_NOISE

    def notes(self) -> tuple[str, ...]:
        if not self.experts:
            return ()
        low, high = self.part()
        other = HIGH_NOISE if self.configs.component == LOW_NOISE else LOW_NOISE
        return (
            f"this model has two networks: {self.configs.component} denoises levels {low:g} to {high:g} and trains, "
            f'{other} stays as it is; train it in a run of its own, with model.component = "{other}"',
        )

    def problem(self, *, pose: str, reference: str) -> str:
        if self.extra not in (0, FRAMES + self.channels):
            return (
                f"model.pretrained: config.json has in_channels = {self.network['in_channels']}: a model of text has "
                f"{self.channels}, one of images {FRAMES + 2 * self.channels}; others are called in other ways"
            )
        if self.network.get("pos_embed_seq_len"):
            return (
                "model.pretrained: config.json has pos_embed_seq_len: a model of a first and a last image, but a data "
                "set holds one image; use an image-to-video model"
            )
        return super().problem(pose=pose, reference=reference)

    def size_problem(self, latent: Latent) -> str:
        most, longest = int(self.network.get("rope_max_seq_len", 1024)), max(self.tokens(latent))
        if longest <= most:
            return ""
        return f"{longest} tokens along one axis, but the model's positions reach to {most}; choose a smaller clip"

    def stored(self, *, pose: str, reference: str) -> tuple[str, ...]:
        if reference != "native":
            return super().stored(pose=pose, reference=reference)
        first = ("reference",) if self.per_token else ("first",)
        return (*first, "image_embeds") if self.clip else first

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        found = [Condition("text", (self.text_length, int(self.network["text_dim"])), "text")]
        if reference == "native" and self.per_token:
            found.append(Condition("first", (1, *latent.shape[1:])))
        elif self.extra:
            found.append(Condition("channels", (latent.frames, self.extra, *latent.shape[2:]), "reference"))
        if self.clip:
            found.append(Condition("image_embeds", (IMAGE_TOKENS, self.clip), "reference"))
        return tuple(found)

    def condition(
        self, stored: Mapping[str, Tensor], text: Mapping[str, Tensor], latent: Latent, *, pose: str, reference: str
    ) -> dict[str, Tensor]:
        found = dict(text)
        if reference == "native" and self.per_token:
            return found | {"first": stored["reference"][:, :1]}
        batch, like = len(text["text"]), text["text"]
        if self.extra:  # without a reference: mask and latents of nothing
            found["channels"] = like.new_zeros(batch, latent.frames, self.extra, *latent.shape[2:])
            if "first" in stored:
                found["channels"] = with_mask(stored["first"])
        if self.clip:
            found["image_embeds"] = stored.get("image_embeds", like.new_zeros(batch, IMAGE_TOKENS, self.clip))
        return found

    @torch.no_grad()
    def encode_text(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        embeds, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS)
        return {"text": unpadded(embeds[0])}

    def encode_image(self, pipeline: Any, image: Any) -> Tensor:
        states: Tensor = pipeline.encode_image(image)
        return states[0]

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        if self.per_token:
            x, time = self._given(x, time, condition.get("first"))
        if "channels" in condition:
            x = torch.cat([x, condition["channels"].to(x.dtype)], 2)
        found = {"hidden_states": x.transpose(1, 2), "timestep": time, "encoder_hidden_states": condition["text"]}
        if "image_embeds" in condition:
            found["encoder_hidden_states_image"] = condition["image_embeds"]
        return found

    def _given(self, x: Tensor, time: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latents with the clean first frame, and the time of each token [B, T N]."""
        frames, rows, columns = self.tokens(Latent(*x.shape[1:]))
        times = time.view(-1, 1, 1).repeat(1, frames, rows * columns)
        if first is not None:
            x = torch.cat([first.to(x.dtype), x[:, 1:]], 1)
            times[:, 0] = 0
        return x, times.flatten(1)

    def keep(self, x: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        if "first" not in condition:
            return x
        return torch.cat([condition["first"].to(x.dtype), x[:, 1:]], 1)


def with_mask(first: Tensor) -> Tensor:
    """Mask and latents of (image, 0, 0, ...), [B, T, 4 + C, h, w], as WanImageToVideoPipeline puts them together."""
    mask = first.new_zeros(*first.shape[:2], FRAMES, *first.shape[3:])
    mask[:, 0] = 1
    return torch.cat([mask, first], 2)


def unpadded(embeds: Tensor) -> Tensor:
    """Text states [L, D] up to the last token: the pipeline fills the rest with zeros."""
    used = embeds.abs().sum(-1).nonzero()
    return embeds[: int(used[-1]) + 1].clone() if len(used) else embeds[:1].clone()
