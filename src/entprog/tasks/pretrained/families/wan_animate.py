"""Wan-Animate: a reference image moved by a video of drawn poses and a video of a face.

Shape legend: B samples, F pixel frames, T latent frames, C latent channels, h w latent height and width, S side of the
face's pixels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from entprog.core.blocks import Adapter
from entprog.tasks.pretrained.families.base import Condition, Latent
from entprog.tasks.pretrained.families.wan import FRAMES, Wan

__all__ = ["WanAnimate"]


class WanAnimate(Wan):
    """WanAnimateTransformer3DModel, as WanAnimatePipeline calls it in its mode "animate" for a clip's first segment.

    The reference image is one more latent frame in front, which the network denoises, too. Further channels hold a mask
    and latents: ones and the reference's in front, zeros and those of a clip of zeros after it. Latents of drawn poses
    are added to the tokens of the other frames; the pixels of the face, at -1..1, go to face blocks, each of which runs
    after a block of the main stack. Without `model.pose = "native"` pose latents are zero, and the face is black.
    """

    networks = ("WanAnimateTransformer3DModel",)
    patterns = ("blocks.*", "face_adapter.*")
    single_stack = False

    def block_names(self, network: nn.Module) -> list[str]:
        every = int(self.network.get("inject_face_latents_blocks", 5))
        names: list[str] = []
        for i in range(int(self.network["num_layers"])):
            names += [f"blocks.{i}"] + [f"face_adapter.{i // every}"] * (i % every == 0)
        return names

    @property
    def channels(self) -> int:
        return int(self.network.get("out_channels") or self.network["latent_channels"])

    @property
    def extra(self) -> int:
        return 0  # `inputs` makes them

    @property
    def face_side(self) -> int:
        """Pixels S of the face video's side."""
        return int(self.network.get("motion_encoder_size", 512))

    @property
    def native_pose(self) -> bool:
        return True

    @property
    def native_reference(self) -> bool:
        return True

    def problem(self, *, pose: str, reference: str) -> str:
        if reference != "native":
            return (
                f'model.reference = "{reference}": Wan-Animate always has a frame for the reference image; set "native"'
            )
        return super().problem(pose=pose, reference=reference)

    def leading(self, *, reference: str) -> int:
        return 1

    def skip_adapters(self, network: nn.Module) -> Mapping[str, Adapter]:
        return {name: nothing_added for name in self.block_names(network) if name.startswith("face_adapter.")}

    def stored(self, *, pose: str, reference: str) -> tuple[str, ...]:
        return ("blank", "reference", "image_embeds", *(("control", "face") if pose == "native" else ()))

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        clip = (latent.frames - 1, *latent.shape[1:])
        found = [
            *super().conditions(latent, pose=pose, reference=reference),
            Condition("blank", clip),
            Condition("reference", (1, *latent.shape[1:]), "reference"),
        ]
        if pose == "native":
            face = (latent.pixel_frames, 3, self.face_side, self.face_side)
            found += [Condition("pose_latents", clip, "pose"), Condition("face", face, "pose")]
        return tuple(found)

    def condition(
        self, stored: Mapping[str, Tensor], text: Mapping[str, Tensor], latent: Latent, *, pose: str, reference: str
    ) -> dict[str, Tensor]:
        found = super().condition(stored, text, latent, pose=pose, reference=reference)
        found |= {"blank": stored["blank"], "reference": stored["reference"][:, :1]}
        if pose == "native":
            found |= {"pose_latents": stored["control"], "face": stored["face"].float() / 255 * 2 - 1}
        return found

    def nothing(self, name: str, condition: Mapping[str, Tensor]) -> Tensor:
        nothing = super().nothing(name, condition)
        return nothing - 1 if name == "face" else nothing

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        blank, reference = condition["blank"].to(x.dtype), condition["reference"].to(x.dtype)
        mask = x.new_zeros(*x.shape[:2], FRAMES, *x.shape[3:])
        mask[:, 0] = 1
        channels = torch.cat([mask, torch.cat([reference, blank], 1)], 2)
        found = super().inputs(torch.cat([x, channels], 2), time, condition)
        pose, face = condition.get("pose_latents", torch.zeros_like(blank)), condition.get("face")
        if face is None:
            face = x.new_full((len(x), FRAMES * (blank.shape[1] - 1) + 1, 3, self.face_side, self.face_side), -1)
        return found | {
            "pose_hidden_states": pose.to(x.dtype).transpose(1, 2),
            "face_pixel_values": face.to(x.dtype).transpose(1, 2),
        }


def nothing_added(arguments: Mapping[str, Any]) -> Tensor:
    """A skipped face block: its output is added to the video's tokens."""
    return torch.zeros_like(arguments["hidden_states"])
