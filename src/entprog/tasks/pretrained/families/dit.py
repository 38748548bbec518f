"""DiT: the class-conditional transformer of single images.

Shape legend: B samples, C latent channels, h w latent height and width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from entprog.tasks.pretrained.families._image import Stills
from entprog.tasks.pretrained.families.base import Latent

__all__ = ["DiT"]


class DiT(Stills):
    """DiTTransformer2DModel, as DiTPipeline calls it.

    A data set of people has no class labels: all samples get the class "none", which the model knows from
    classifier-free guidance; `inputs` takes others as `class_labels` [B]. In train mode the network would replace
    labels at random. The time embedding of block 0 is used by the head, too.
    """

    networks = ("DiTTransformer2DModel",)
    head = ("proj_out_1", "proj_out_2", "norm_out")

    def size_problem(self, latent: Latent) -> str:
        if latent.height != latent.width:
            return f"DiT takes squares, not {latent.height} x {latent.width} latents"
        return super().size_problem(latent)

    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        labels = condition.get("class_labels")
        if labels is None:
            none = int(self.network.get("num_embeds_ada_norm") or 1000)
            labels = torch.full((len(x),), none, dtype=torch.long, device=x.device)
        return {"hidden_states": x[:, 0], "timestep": time, "class_labels": labels}
