"""A tiny transformer and task of somebody else, for tests: plain, two-stream (tuples) and Siamese."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from entprog.core.types import Draw


class ToyBlock(nn.Module):
    """Modulated residual attention and MLP; [B, N, C] tokens, [B, C] embedding, optional reference tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(width, 3 * width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, emb: Tensor, *, reference: Tensor | None = None) -> Tensor:
        scale, gate, gate_mlp = self.modulation(emb)[:, None].chunk(3, -1)
        h = self.norm(x) * (1 + scale)
        source = h if reference is None else torch.cat([h, self.norm(reference)], 1)
        key, value = self.key_value(source).chunk(2, -1)
        x = x + gate * nn.functional.scaled_dot_product_attention(self.query(h), key, value)
        return x + gate_mlp * self.mlp(self.norm(x))


class TwoStreamBlock(nn.Module):
    """Returns (context, x): not the order of its arguments; None for the context where it is last."""

    def __init__(self, width: int, last: bool) -> None:
        super().__init__()
        self.image, self.text, self.last = ToyBlock(width), ToyBlock(width), last

    def forward(self, x: Tensor, context: Tensor, emb: Tensor) -> tuple[Tensor | None, Tensor]:
        text = None if self.last else self.text(context, emb, reference=x)
        return text, self.image(x, emb, reference=context)


class ToyDiT(nn.Module):
    """Predicts noise for [B, N, C] tokens. `variant`: "plain", "tuple" or "siamese"."""

    def __init__(
        self, depth: int = 4, width: int = 16, variant: str = "plain", checkpointing: str | None = None
    ) -> None:
        super().__init__()
        self.variant, self.checkpointing = variant, checkpointing
        self.embed = nn.Linear(1, width)
        self.inlet = nn.Linear(width, width)
        if variant == "tuple":
            self.blocks = nn.ModuleList(TwoStreamBlock(width, i == depth - 1) for i in range(depth))
        else:
            self.blocks = nn.ModuleList(ToyBlock(width) for _ in range(depth))
        self.outlet = nn.Linear(width, width)

    def call(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.checkpointing is None:
            return block(*args, **kwargs)
        return checkpoint(block, *args, use_reentrant=self.checkpointing == "reentrant", **kwargs)

    def forward(self, x: Tensor, tau: Tensor, condition: Tensor) -> Tensor:
        emb = torch.sin(self.embed(tau[:, None]) * 3)
        x, other = self.inlet(x), self.inlet(condition)
        if self.variant == "tuple":
            for block in self.blocks:
                other, x = self.call(block, x, emb=emb, context=other)
            return self.outlet(x)
        if self.variant == "siamese":
            references = []
            for block in self.blocks:
                references.append(other)
                other = self.call(block, other, emb)
            for block, reference in zip(self.blocks, references, strict=True):
                x = self.call(block, x, emb, reference=reference)
            return self.outlet(x)
        emb = emb + other.mean(1)
        for block in self.blocks:
            x = self.call(block, x, emb)
        return self.outlet(x)


def siamese_role(arguments: Mapping[str, Any]) -> str:
    return "reference" if arguments["reference"] is None else "denoising"


class ToyTask:
    """Noise prediction with MSE."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def predict(self, draw: Draw) -> Tensor:
        result: Tensor = self.model(draw.x, draw.tau, draw.condition["reference"])
        return result

    def loss(self, draw: Draw) -> Tensor:
        return (self.predict(draw) - draw.target).square().mean()

    def losses(self, draw: Draw) -> Tensor:
        return (self.predict(draw) - draw.target).square().flatten(1).mean(1)


def toy_task(depth: int = 4, variant: str = "plain", seed: int = 0, **options: Any) -> ToyTask:
    torch.manual_seed(seed)
    return ToyTask(ToyDiT(depth, variant=variant, **options))


def toy_draws(count: int = 2, size: int = 4, tokens: int = 6, width: int = 16, seed: int = 0) -> list[Draw]:
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for _ in range(count):
        clean = torch.randn(size, tokens, width, generator=generator)
        eps = torch.randn(size, tokens, width, generator=generator)
        tau = torch.rand(size, generator=generator)
        x = clean * (1 - tau)[:, None, None] + eps * tau[:, None, None]
        draws.append(Draw(x, tau, eps, {"reference": clean + 0.1 * eps}))
    return draws
