"""What transformers of single images have in common.

Shape legend: B samples, C latent channels, h w latent height and width.
"""

from torch import Tensor

from entprog.tasks.pretrained.families.base import Family, Latent

__all__: list[str] = []  # no family of its own


class Stills(Family):
    """A transformer of single images [B, C, h, w]: a sample has one latent frame.

    Networks that predict the variance, too, return it after the channels that count.
    """

    entrance = "pos_embed.proj"

    @property
    def channels(self) -> int:
        return int(self.network["in_channels"])

    @property
    def patch(self) -> tuple[int, int, int]:
        side = int(self.network["patch_size"])
        return 1, side, side

    def size_problem(self, latent: Latent) -> str:
        """Why the network can't take samples of this size; empty where it can."""
        if latent.frames == 1:
            return ""
        return f"{type(self).__name__} takes single images, not {latent.frames} latent frames; set frames = 1"

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        return out[:, None, : x.shape[2]]

    def control(self, latents: Tensor) -> Tensor:
        return latents[:, 0]
