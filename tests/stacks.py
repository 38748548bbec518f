"""A stack of six residual blocks with a condition, and draws for it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import entprog

__all__ = ["WIDTH", "Stack", "called", "draw"]

WIDTH, BLOCKS = 16, 6


class Block(nn.Module):
    """Residual; with dropout and batch norm where asked."""

    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH) if norm else nn.LayerNorm(WIDTH)
        self.inner, self.dropout = nn.Linear(WIDTH, WIDTH), nn.Dropout(dropout)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return x + self.dropout(self.inner(self.norm(x)).tanh() * c)


class Stack(nn.Module):
    """One stack of blocks with a condition; `skip` adds a connection from block 1 to the head, of weight 0."""

    def __init__(self, skip: bool = False, grouped: bool = False, **options: Any) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.entrance, self.condition, self.head = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
            self.blocks = nn.ModuleList(Block(**options) for _ in range(BLOCKS))
        self.register_buffer("scale", torch.ones(()))
        self.skip, self.grouped = (nn.Parameter(torch.zeros(())) if skip else None), grouped
        self.order = range(BLOCKS)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x, c, early = self.entrance(x) * self.scale, self.condition(c), None
        if self.grouped:
            return self.head(checkpoint(self.all_blocks, x, c, use_reentrant=False))
        for place in self.order:
            x = self.blocks[place](x, c)
            early = x if place == 1 else early
        return self.head(x if self.skip is None else x + self.skip * early)

    def all_blocks(self, x: Tensor, c: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, c)
        return x


def draw(seed: int) -> entprog.Draw:
    generator = torch.Generator().manual_seed(seed)
    x, c, target = torch.randn(3, 4, WIDTH, generator=generator)
    return entprog.Draw(x, torch.rand(4, generator=generator), target, {"c": c})


def called(model: nn.Module) -> Callable[[entprog.Draw], Tensor]:
    return lambda d: model(d.x, d.condition["c"])
