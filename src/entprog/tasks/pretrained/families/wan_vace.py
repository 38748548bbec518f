"""Wan-VACE: video with a control video and reference images.

Shape legend: B samples, T latent frames, C latent channels, h w latent height and width, M mask channels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from entprog.core.blocks import Adapter
from entprog.tasks.pretrained.families.base import Condition, Latent
from entprog.tasks.pretrained.families.wan import Wan

__all__ = ["WanVACE"]


class WanVACE(Wan):
    """WanVACETransformer3DModel, as WanVACEPipeline calls it without a mask of the user's: all pixels are to be made.

    The control of each latent frame is [inactive, reactive, mask]: latents of what stays (nothing: a clip of zeros),
    latents of the control video, and a mask of ones. A reference image is one more frame in front, with its latents,
    zeros and a mask of zeros; the network denoises that frame, too. With `model.pose = "native"` the control video is
    the drawn poses; otherwise it is the clip of zeros, as the pipeline does without a video.

    The control runs through `vace_blocks` first; each adds its projection to a block of the main stack.
    """

    networks = ("WanVACETransformer3DModel",)
    patterns = ("vace_blocks.*", "blocks.*")
    single_stack = False

    @property
    def native_pose(self) -> bool:
        return True

    @property
    def native_reference(self) -> bool:
        return True

    @property
    def mask_channels(self) -> int:
        """Mask channels M: pixels under a latent pixel."""
        return int(self.network["vace_in_channels"]) - 2 * self.channels

    def leading(self, *, reference: str) -> int:
        return int(reference == "native")

    def skip_adapters(self, network: nn.Module) -> Mapping[str, Adapter]:
        names = [f"vace_blocks.{i}" for i in range(len(self.network["vace_layers"]))]
        return {name: (without_control if i == 0 else control_passed_on) for i, name in enumerate(names)}

    def stored(self, *, pose: str, reference: str) -> tuple[str, ...]:
        control = ("control",) if pose == "native" else ()
        return ("blank", *control, *(("reference",) if reference != "none" else ()))

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        front = int(reference in ("native", "frame"))
        clip = (latent.frames - front, *latent.shape[1:])
        found = [*super().conditions(latent, pose=pose, reference=reference), Condition("blank", clip)]
        if pose == "native":
            found.append(Condition("pose_latents", clip, "pose"))
        if reference == "native":
            found.append(Condition("reference", (1, *latent.shape[1:]), "reference"))
        return tuple(found)

    def condition(
        self, stored: Mapping[str, Tensor], text: Mapping[str, Tensor], latent: Latent, *, pose: str, reference: str
    ) -> dict[str, Tensor]:
        found = super().condition(stored, text, latent, pose=pose, reference=reference)
        found["blank"] = stored["blank"]
        if pose == "native":
            found["pose_latents"] = stored["control"]
        if reference == "native":
            found["reference"] = stored["reference"][:, :1]
        return found

    def nothing(self, name: str, condition: Mapping[str, Tensor]) -> Tensor:
        return condition["blank"] if name == "pose_latents" else super().nothing(name, condition)

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        blank = condition["blank"].to(x.dtype)
        video = condition.get("pose_latents", blank).to(x.dtype)
        mask = video.new_ones(*video.shape[:2], self.mask_channels, *video.shape[3:])
        control = torch.cat([blank, video, mask], 2)
        front = x.shape[1] - video.shape[1]
        if front:  # frames that are given: their latents where they are a reference, no mask
            before = control.new_zeros(len(x), front, *control.shape[2:])
            if "reference" in condition:
                before[:, :, : self.channels] = condition["reference"].to(x.dtype)
            control = torch.cat([before, control], 1)
        scale = x.new_ones(len(self.network["vace_layers"]))
        return super().inputs(x, time, condition) | {
            "control_hidden_states": control.transpose(1, 2),
            "control_hidden_states_scale": scale,
        }


def control_passed_on(arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """A skipped block of the control's stack: nothing for the main stack, the control goes on."""
    control = arguments["control_hidden_states"]
    return torch.zeros_like(control), control


def without_control(arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The first block skipped: it is the one that projects the control and adds the video's tokens, which stay."""
    tokens = arguments["hidden_states"]
    return torch.zeros_like(tokens), tokens
