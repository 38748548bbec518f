"""What `with method.step(i):` costs outside a search, against the same loop with the same weights frozen by hand.

python tools/attach_overhead.py [PAIRS]     40 pairs of steps by default; a minute on one core

Two copies of a network of 30 blocks (240 tensors) take turns, one attached and one not, with the same third of the
blocks trainable, the same data and the same optimizer. Seconds are CPU time of the process, so that other work on the
machine counts less. Beside it: what entering and leaving an empty step takes, and the optimizer's hook.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

import entprog

WIDTH, BLOCKS, TOKENS = 256, 30, 256


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm_2(self.narrow(self.wide(self.norm(x)).relu()))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Loop:
    """A training loop, attached or not."""

    def __init__(self, attached: bool) -> None:
        torch.manual_seed(0)
        self.model = Network()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.data = torch.randn(TOKENS, WIDTH)
        names = tuple(f"blocks.{i}" for i in reversed(range(BLOCKS)))
        third = BLOCKS // 3
        self.method = None
        if attached:
            self.method = entprog.attach(
                self.model, self.optimizer, steps=10**6, predict=lambda d: self.model(d.x), probe=[],
                ranking=entprog.Ranking(names), schedule="fixed", schedule_options={"m": (third,)}, quiet=True,
            )  # fmt: skip
        else:
            for block in self.model.blocks[:-third]:
                block.requires_grad_(False)

    def step(self, i: int) -> float:
        """CPU seconds of a step."""
        start = time.process_time()
        with self.method.step(i) if self.method else nullcontext():
            self.model(self.data).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return time.process_time() - start


def median_microseconds(call: Callable[[int], None], times: int = 300) -> float:
    """Median CPU time of a call by its number."""
    found = []
    for i in range(times):
        start = time.process_time()
        call(i)
        found.append(1e6 * (time.process_time() - start))
    return statistics.median(found)


def main(pairs: int = 40) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    plain, attached = Loop(False), Loop(True)
    for i in range(5):
        plain.step(i), attached.step(i)
    ratios, seconds = [], []
    for i in range(pairs):
        loops = (plain, attached) if i % 2 else (attached, plain)  # neither is always first
        took = {loop: loop.step(5 + i) for loop in loops}
        ratios.append(took[attached] / took[plain] - 1)
        seconds.append(took[plain])
    method, freezer = attached.method, attached.method.freezer

    def empty(i: int) -> None:
        with method.step(5 + pairs + i):
            pass

    entering, hook = median_microseconds(empty), median_microseconds(lambda i: freezer._without_frozen_gradients())
    step = statistics.median(seconds)
    error = statistics.stdev(ratios) / pairs**0.5
    print(f"step without the method: {1e3 * step:.1f} ms (median of {pairs})")
    print(f"with it, in turns: {100 * statistics.median(ratios):+.2f} % (median of {pairs} pairs; mean "
          f"{100 * statistics.mean(ratios):+.2f} +- {100 * error:.2f} %)")  # fmt: skip
    print(
        f"an empty step: {entering:.0f} us, the optimizer's hook: {hook:.0f} us: {(entering + hook) / step / 1e4:.3f} %"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
