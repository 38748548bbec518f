"""Self-attention that also sees a reference frame: the Siamese way to show an image to a U-Net of images.

Shape legend: B samples, T frames of a sample (the reference first), N places of a map, D width.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

__all__ = ["SharedAttention"]


class SharedAttention(AttnProcessor2_0):
    """diffusers' attention; with `reference_frames` = T, self-attention has the keys and values of frame 0, too.

    States are [B T, N, D]. Frame 0 sees itself alone: its own keys twice, which is the same. Without
    `reference_frames`, and for cross-attention, the result is that of `AttnProcessor2_0` to the bit.
    """

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, temb: Tensor | None = None, reference_frames: int = 0,
    ) -> Tensor:  # fmt: skip
        if reference_frames and encoder_hidden_states is None:
            samples = hidden_states.unflatten(0, (-1, reference_frames))
            shown = samples[:, :1].expand_as(samples).flatten(0, 1)
            encoder_hidden_states = torch.cat([hidden_states, shown], 1)
        found: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return found
