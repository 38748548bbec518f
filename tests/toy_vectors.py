"""A task of another modality, as a user would write it: it denoises vectors (tests/tasks/test_toy_task.py)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from entprog.config.schema import Config
from entprog.core.types import Draw, Shape
from entprog.tasks.base import Task

__all__ = ["Vectors"]


@dataclass
class Vectors(Task):
    """Points on a circle in `width` dimensions, with noise taken off by residual blocks of width `inside`."""

    width: int = 8
    inside: int = 16

    def setup(self, config: Config) -> None:
        self.model = Denoiser(self.width, self.inside)

    def draw(self, batch: Any, shape: Shape, seed: int, *, dropout: float | None = None) -> Draw:
        rows = [torch.randn(self.width + 1, generator=torch.Generator().manual_seed(seed * 10**6 + int(p)))
                for p in batch.positions]  # fmt: skip
        noise, angle = torch.stack(rows)[:, 1:], torch.stack(rows)[:, :1]
        tau = torch.tensor([((int(p) * 0.618) + 0.05) % 1 for p in batch.positions])
        clean = torch.cat([angle.sin(), angle.cos()], 1).repeat(1, self.width // 2)
        return Draw((1 - tau)[:, None] * clean + tau[:, None] * noise, tau, noise - clean)

    def predict(self, draw: Draw) -> Tensor:
        return self.model(draw.x, draw.tau)


class Denoiser(nn.Module):
    """Four residual blocks between two linear layers."""

    def __init__(self, width: int, inside: int = 16) -> None:
        super().__init__()
        self.inlet, self.outlet = nn.Linear(width + 1, inside), nn.Linear(inside, width)
        self.blocks = nn.ModuleList(Block(inside) for _ in range(4))

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        h = self.inlet(torch.cat([x, tau[:, None]], 1))
        for block in self.blocks:
            h = block(h)
        return self.outlet(h)


class Block(nn.Module):
    """x + MLP(x)."""

    def __init__(self, inside: int = 16) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(inside, 2 * inside), nn.Linear(2 * inside, inside)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))
