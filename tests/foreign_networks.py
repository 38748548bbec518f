"""Small networks in the structure of well-known code outside diffusers: names of modules, lists and shared weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import entprog
from denoisers import Random

__all__ = ["FOREIGN", "Foreign"]

WIDTH = 16


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def mlp(width: int = WIDTH) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class ModulatedBlock(nn.Module):
    """adaLN-zero, as in DiT."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, elementwise_affine=False) for _ in range(2))
        self.attn, self.mlp = Attention(), mlp()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate, shift_2, scale_2, gate_2 = self.adaLN_modulation(c)[:, None].chunk(6, -1)
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift)
        return x + gate_2 * self.mlp(self.norm2(x) * (1 + scale_2) + shift_2)


class DiT(nn.Module):
    """As its authors lay it out, with a learned variance: twice the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.x_embedder, self.t_embedder = nn.Conv2d(4, WIDTH, 2, 2), nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU())
        self.y_embedder = nn.Embedding(10, WIDTH)
        self.pos_embed = nn.Parameter(torch.randn(1, 16, WIDTH), requires_grad=False)
        self.blocks = nn.ModuleList(ModulatedBlock() for _ in range(4))
        self.final_layer = nn.Linear(WIDTH, 2 * 2 * 8)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        tokens = self.x_embedder(x).flatten(2).transpose(1, 2) + self.pos_embed
        c = self.t_embedder(t[:, None]) + self.y_embedder(y)
        for block in self.blocks:
            tokens = block(tokens, c)
        return nn.functional.pixel_shuffle(self.final_layer(tokens).transpose(1, 2).unflatten(2, (4, 4)), 2)


class PlainBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = nn.LayerNorm(WIDTH), Attention(), nn.LayerNorm(WIDTH), mlp()

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal=causal)
        return x + self.mlp(self.ln_2(x))


class ViT(nn.Module):
    """As in timm: the blocks are one nn.Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed, self.cls_token = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, WIDTH))
        self.blocks = nn.Sequential(*(PlainBlock() for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 7)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class ConvBlock(nn.Module):
    """As in ConvNeXt: a depthwise convolution, then a network over channels, with a scale of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_dw, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.LayerNorm(width)
        self.mlp, self.gamma = mlp(width), nn.Parameter(0.1 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        return x + (self.gamma * mixed).permute(0, 3, 1, 2)


class WindowBlock(nn.Module):
    """As in Swin: attention inside windows of 2 x 2, of which every second block's are shifted."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift, self.inner = shift, PlainBlock()

    def forward(self, x: Tensor) -> Tensor:
        moved = x.roll((-self.shift, -self.shift), (2, 3))
        batch, channels, height, width = x.shape
        windows = moved.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, channels)
        changed = self.inner(windows).reshape(batch, height // 2, width // 2, 2, 2, channels)
        back = changed.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width)
        return back.roll((self.shift, self.shift), (2, 3))


class Stage(nn.Module):
    """Merges 2 x 2 places, then a few blocks: the lists of stages change the shape, those inside do not."""

    def __init__(self, before: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.downsample, self.blocks = nn.Conv2d(before, WIDTH, 2, 2), nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class Staged(nn.Module):
    def __init__(self, block: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.stages = nn.Sequential(*(Stage(before, [block(i) for i in range(2)]) for before in (8, WIDTH)))
        self.head = nn.Linear(WIDTH, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


class GPT(nn.Module):
    """As nanoGPT: the modules in a dict, the embedding's weight is that of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(12, WIDTH), "wpe": nn.Embedding(6, WIDTH),
            "h": nn.ModuleList(PlainBlock() for _ in range(4)), "ln_f": nn.LayerNorm(WIDTH),
        })  # fmt: skip
        self.lm_head = nn.Linear(WIDTH, 12, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.transformer["wte"](tokens) + self.transformer["wpe"](torch.arange(tokens.shape[1]))
        for block in self.transformer["h"]:
            x = block(x, True)
        return self.lm_head(self.transformer["ln_f"](x))


class ResnetBlock(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, after))
        self.block1, self.block2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.res_conv = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, time_emb: Tensor) -> Tensor:
        hidden = self.block1(x) + self.mlp(time_emb)[..., None, None]
        return self.block2(hidden.relu()) + self.res_conv(x)


class SpatialAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_qkv, self.to_out = nn.Conv2d(width, 3 * width, 1, bias=False), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.flatten(2).transpose(1, 2) for part in self.to_qkv(x).chunk(3, 1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.to_out(mixed.transpose(1, 2).reshape(x.shape))


class UNet(nn.Module):
    """As lucidrains writes them: lists of lists, [residual block, residual block, attention, convolution] a level."""

    def __init__(self) -> None:
        super().__init__()
        self.init_conv, self.time_mlp = nn.Conv2d(4, 8, 3, padding=1), nn.Sequential(nn.Linear(1, WIDTH), nn.GELU())
        self.downs = nn.ModuleList(
            nn.ModuleList([ResnetBlock(a, a), ResnetBlock(a, a), SpatialAttention(a), nn.Conv2d(a, b, 2, 2)])
            for a, b in ((8, 8), (8, 16))
        )
        self.mid_block = ResnetBlock(16, 16)
        self.ups = nn.ModuleList(
            nn.ModuleList([nn.ConvTranspose2d(a, b, 2, 2), ResnetBlock(2 * b, b), ResnetBlock(2 * b, b),
                           SpatialAttention(b)])
            for a, b in ((16, 8), (8, 8))
        )  # fmt: skip
        self.final_conv = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x, t, kept = self.init_conv(x), self.time_mlp(time[:, None]), []
        for first, second, attention, smaller in self.downs:
            kept.append(x := first(x, t))
            kept.append(x := attention(second(x, t)))
            x = smaller(x)
        x = self.mid_block(x, t)
        for larger, first, second, attention in self.ups:
            x = first(torch.cat([larger(x), kept.pop()], 1), t)
            x = attention(second(torch.cat([x, kept.pop()], 1), t))
        return self.final_conv(x)


@dataclass(frozen=True)
class Foreign:
    """A network and how it is called.

    Attributes:
        make: the network.
        call: what it predicts for a draw.
        x, target: shapes of a draw.
        blocks: names for attach, where the guess is not what every score can rank.
    """

    make: Callable[[], nn.Module]
    call: Callable[[nn.Module, entprog.Draw], Tensor]
    x: tuple[int, ...]
    target: tuple[int, ...]
    blocks: str | None = None
    tokens: int = 0

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make()

    def predictor(self, model: nn.Module) -> Callable[[entprog.Draw], Tensor]:
        return lambda draw: self.call(model, draw)

    def draw(self, seed: int) -> entprog.Draw:
        r = Random(seed)
        x = r.below(self.tokens, *self.x) if self.tokens else r(*self.x)
        return entprog.Draw(x, r.unit(len(x)), r(*self.target))


IMAGE, NOISY = (2, 3, 16, 16), (2, 4, 8, 8)
LABELS = torch.tensor([1, 2])
FOREIGN = {
    "DiT, its authors' code": Foreign(DiT, lambda m, d: m(d.x, d.tau, LABELS).chunk(2, 1)[0], NOISY, NOISY),
    "ViT, timm": Foreign(ViT, lambda m, d: m(d.x), IMAGE, (2, 7)),
    "ConvNeXt, timm": Foreign(
        lambda: Staged(lambda i: ConvBlock(WIDTH)), lambda m, d: m(d.x), IMAGE, (2, 7), "stages.*.blocks.*"
    ),
    "Swin, timm": Foreign(
        lambda: Staged(WindowBlock), lambda m, d: m(d.x), IMAGE, (2, 7), "stages.*.blocks.*"
    ),
    "nanoGPT": Foreign(GPT, lambda m, d: m(d.x), (2, 6), (2, 6, 12), tokens=12),
    "U-Net, lucidrains": Foreign(UNet, lambda m, d: m(d.x, d.tau), NOISY, NOISY),
}  # fmt: skip
"""By the code whose structure it has."""
