"""A training loop around the toy transformer, and methods bound to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from entprog.core.blocks import discover_blocks
from entprog.core.types import MethodContext, Ranking, Shape, StepPlan, Trial, Workload
from entprog.plugins import load
from toy import ToyTask, toy_draws, toy_task

DRAWS = toy_draws(24, size=2, tokens=3, seed=1)
HOLDOUT = toy_draws(4, size=2, tokens=3, seed=2)
ORDER = Ranking(("blocks.2", "blocks.0", "blocks.3", "blocks.1"))


def adaptive(estimator: str, **options: Any) -> Any:
    return load("schedule", "adaptive", estimator=estimator, **options)


def weights(task: ToyTask) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in task.model.named_parameters()}


@dataclass(frozen=True)
class Sizes:
    """One stage that searches half of the blocks at half the resolution, half of them, and all."""

    estimator: str = "probe"
    stages: int = 1
    search_steps: int = 12

    def candidates(
        self, stage: int, ranking: Ranking, shape: Shape | None, last: Workload | None
    ) -> tuple[Workload, ...]:
        assert shape is not None
        half = ranking.top(len(ranking.names) // 2)
        small = replace(shape, resolution=shape.resolution // 2)
        return Workload(half, small), Workload(half, shape), Workload(ranking.names, shape)

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return replace(shape, resolution=shape.resolution // 2), shape

    def choose(self, trials: Sequence[Trial], cost: str) -> tuple[Workload, dict[Workload, float]]:
        chosen: tuple[Workload, dict[Workload, float]] = adaptive(self.estimator).choose(trials, cost)
        return chosen


class Rig:
    """A task, its optimizer and a bound method; `infos` and `events` collect what the method reports."""

    def __init__(
        self,
        *,
        schedule: Any,
        total: int,
        method: str = "progressive",
        options: dict[str, Any] | None = None,
        ranking: Ranking = ORDER,
        **setting: Any,
    ) -> None:
        self.task = toy_task()
        self.blocks = discover_blocks(self.task.model, "blocks.*")
        self.name, plugin = method, load("method", method, **(options or {}))
        groups = plugin.groups(self.task.model, self.blocks, lr=1e-2, seed=5)
        self.optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.infos: list[StepPlan] = []
        self.losses: list[float] = []
        self.ranking = ranking
        values = {
            "holdout": HOLDOUT, "ranking": ranking, "schedule": schedule, "reading_flops": lambda share: 7.0 * share,
            "notify": lambda name, values: self.events.append((name, values)), "seed": 5,
        }  # fmt: skip
        self.setting = MethodContext(self.task, self.blocks, self.optimizer, total, **{**values, **setting})
        self.total = total
        self.method = plugin.bind(self.setting)

    def run(self, start: int = 0, stop: int | None = None, *, checked: bool = True) -> None:
        """Steps `start`.. with the method around each; `checked` looks at every weight."""
        for i in range(start, self.total if stop is None else stop):
            draw = DRAWS[self.method.plan(i).replays % len(DRAWS)]
            workload = self.method.plan(i).workload
            with self.method.step(i) as info:
                assert info.active == workload.active == self.method.plan(i).workload.active
                before = weights(self.task) if checked else {}
                self._step(draw)
                if checked:
                    self._only_active_moved(before, info.active)
            self.infos.append(info)

    def plain_steps(self, start: int, stop: int) -> None:
        """The same steps as anybody would write them."""
        for i in range(start, stop):
            self._step(DRAWS[i % len(DRAWS)])

    def _step(self, draw: Any) -> None:
        loss = self.task.loss(draw)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(float(loss.detach()))

    def _only_active_moved(self, before: dict[str, Tensor], active: Sequence[str]) -> None:
        moved = {n for n, value in weights(self.task).items() if not torch.equal(value, before[n])}
        if self.name == "mixed":  # the others' adapters move, too
            assert not any(f"{name}." in n for n in moved if ".lora_" in n for name in active)
            moved = {n for n in moved if ".lora_" not in n}
        inside = {n for block in self.blocks for n, _ in block.named_parameters()}
        trained = {n for name in active for n, _ in self.blocks[name].named_parameters()}
        assert moved & inside <= trained, "a frozen weight moved"
        assert {n.split(".")[1] for n in moved & inside} == {n.split(".")[1] for n in active}

    def optimizer_states(self) -> dict[tuple[int, str], Tensor]:
        return {
            (k, name): value.clone()
            for k, state in self.optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
