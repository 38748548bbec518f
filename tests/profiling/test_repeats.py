"""Scoring with repeated block calls metered once: every figure as metered in full, to the byte."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from entprog import plugins
from entprog.core.blocks import Block, Blocks, discover_blocks
from entprog.core.types import Draw
from entprog.profiling.meter import Meter
from tiny import small_dit


@dataclass
class Video:
    """The human video network with a loss, in a precision."""

    model: nn.Module
    dtype: torch.dtype | None = None

    def predict(self, draw: Draw) -> Tensor:
        with torch.autocast("cpu", self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            return self.model(draw.x, draw.tau, **draw.condition).float()

    def loss(self, draw: Draw) -> Tensor:
        return self.losses(draw).mean()

    def losses(self, draw: Draw) -> Tensor:
        return (self.predict(draw) - draw.target).square().flatten(1).mean(1)


def draws(sizes: tuple[int, ...] = (2, 2, 1, 2), frames: int = 3) -> list[Draw]:
    torch.manual_seed(3)
    found = []
    for size in sizes:
        x = torch.randn(size, frames, 16, 4, 4)
        condition = {"reference": torch.randn(size, 16, 4, 4), "pose": torch.rand(size, frames, 3, 16, 16)}
        found.append(Draw(x, torch.rand(size), torch.randn_like(x), condition))
    return found


def figures(
    task: Any, blocks: Blocks, given: list[Draw], score: str, options: Mapping[str, Any], **more: Any
) -> tuple[Any, ...]:
    with Meter(task.model, **more) as meter:
        scores = plugins.load("score", score, **options).score(task, blocks, given)
        gradient = plugins.load("score", "gradient").score(task, blocks, given[:1])
        live = meter.live
    return scores, gradient, meter.flops, meter.by_block, meter.peak, meter.at_peak, live, meter


def agree(
    task: Any, given: Callable[[], list[Draw]], score: str = "cei", options: Mapping[str, Any] | None = None,
    blocks: Blocks | None = None, **more: Any,
) -> Meter:  # fmt: skip
    """Both ways give the same figures; returns the quick meter."""
    chosen = blocks or discover_blocks(task.model)
    whole = figures(task, chosen, given(), score, options or {}, **more)
    quick = figures(task, chosen, given(), score, options or {}, repeated=chosen, **more)
    assert quick[:-1] == whole[:-1]
    found: Meter = quick[-1]
    return found


def known(meter: Meter) -> list[bool]:
    """Of each form of a call whether it runs unmetered when it comes again."""
    assert meter._repeats is not None
    return [cost is not None for cost in meter._repeats._known.values()]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "new"])
@pytest.mark.parametrize("score", ["cei", "skip_loss", "influence"])
def test_figures_are_those_of_metering_everything(score: str, trained: bool, dtype: torch.dtype | None) -> None:
    task = Video(small_dit(trained=trained), dtype)
    for name, parameter in task.model.named_parameters():
        parameter.requires_grad_("blocks.1" not in name)
    meter = agree(task, draws, score)
    assert known(meter) and all(known(meter))


def test_with_states_rounding_and_held_tensors() -> None:
    task = Video(small_dit())
    optimizer = torch.optim.AdamW(task.model.parameters(), fused=True)
    task.loss(draws()[0]).backward()
    optimizer.step()
    optimizer.zero_grad()
    held = [torch.zeros(1000)]
    agree(task, draws, options={"skip": "both"}, optimizer=optimizer, held=held, granularity=512)
    agree(task, lambda: draws((2, 2)), options={"sigma": "conditions", "conditions": 2})
    agree(task, draws, options={"fast": False})


class Odd(nn.Module):
    """A residual block that may do more than its form says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.up, self.down = kind, nn.Linear(8, 32), nn.Linear(32, 8)
        self.cache: Tensor | None = None
        self.outside: Tensor | None = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        if self.kind == "chooses":
            h = h * (len(h[h > 0.2]) > 100)
        elif self.kind == "reads" and float(h.detach().sum()) > 0:
            h = torch.cat([h, h], -1).relu()[..., :32]
        elif self.kind == "caches":
            self.cache = h.detach()[..., :3].clone() if self.cache is None else self.cache
        elif self.kind == "uses" and self.outside is not None:
            h = h + self.outside.mean()
        elif self.kind == "counts":
            self.calls += 1
            h = torch.cat([h] * (1 + self.calls % 3), -1)[..., :32]
        elif self.kind == "replaces":
            self.cache = h.detach().clone()
        return x + self.down(h.relu())


@dataclass
class Odds:
    """A chain of such blocks."""

    model: nn.Module

    def predict(self, draw: Draw) -> Tensor:
        h = draw.x
        for block in self.model:  # type: ignore[attr-defined]
            block.outside = draw.target
            h = block(h)
        return h

    def loss(self, draw: Draw) -> Tensor:
        return self.losses(draw).mean()

    def losses(self, draw: Draw) -> Tensor:
        return (self.predict(draw) - draw.target).square().flatten(1).mean(1)


@pytest.mark.parametrize("kind", ["plain", "chooses", "reads", "caches", "uses", "counts", "replaces"])
def test_blocks_whose_cost_does_not_follow_from_their_form_are_metered(kind: str) -> None:
    def given() -> list[Draw]:
        torch.manual_seed(1)
        return [Draw(torch.randn(4, 16, 8), torch.rand(4), torch.randn(4, 16, 8)) for _ in range(3)]

    def task() -> Odds:
        torch.manual_seed(0)
        return Odds(nn.Sequential(*(Odd(kind) for _ in range(3))))

    found = []
    for repeated in (False, True):
        one = task()
        blocks = Blocks([Block(str(i), block) for i, block in enumerate(one.model)])  # type: ignore[arg-type]
        found.append(figures(one, blocks, given(), "skip_loss", {}, **({"repeated": blocks} if repeated else {})))
    whole, quick = found
    assert quick[:-1] == whole[:-1]
    if kind in ("plain", "counts"):
        assert all(known(quick[-1]))
    elif kind != "caches":
        assert not any(known(quick[-1]))
