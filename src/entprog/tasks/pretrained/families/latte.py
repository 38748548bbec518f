"""Latte: a video transformer with spatial and temporal blocks in turn.

Shape legend: B samples, T latent frames (one for each pixel frame), C latent channels, h w latent height and width,
L text tokens.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from entprog.tasks.pretrained.families.base import Condition, Family, Latent

__all__ = ["Latte"]

TEXT_TOKENS = 120


class Latte(Family):
    """LatteTransformer3DModel, as LattePipeline calls it with several prompts: text without mask, zeros after its end.

    Of a learned-variance output the first half counts. Pose adapters stand in the spatial blocks, whose tokens are
    those of a frame.
    """

    networks = ("LatteTransformer3DModel",)
    posed = ("transformer_blocks.*",)
    entrance = "pos_embed.proj"

    @property
    def channels(self) -> int:
        return int(self.network["in_channels"])

    @property
    def patch(self) -> tuple[int, int, int]:
        side = int(self.network["patch_size"])
        return 1, side, side

    @property
    def text_length(self) -> int:
        return TEXT_TOKENS

    def block_names(self, network: nn.Module) -> list[str]:
        stacks = ("transformer_blocks", "temporal_transformer_blocks")
        depth = len(getattr(network, stacks[0]))
        return [f"{stack}.{i}" for i in range(depth) for stack in stacks]

    def size_problem(self, latent: Latent) -> str:
        """Why the network can't take samples of this size; empty where it can."""
        known = int(self.network.get("video_length", 16))
        if latent.frames in (1, known):
            return ""
        return f"Latte takes {known} frames (video_length of config.json) or 1, not {latent.frames}"

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        return (Condition("text", (TEXT_TOKENS, int(self.network["caption_channels"])), "text"),)

    def encode_text(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        return {"text": pipeline.encode_prompt(prompt, False)[0][0]}

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "hidden_states": x.transpose(1, 2),
            "timestep": time,
            "encoder_hidden_states": condition["text"],
            "enable_temporal_attentions": True,
        }

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        return out[:, : x.shape[2]].transpose(1, 2)

    def control(self, latents: Tensor) -> Tensor:
        return latents.flatten(0, 1)
