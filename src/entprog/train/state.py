"""The state that a training run carries from step to step, and how it is saved in a checkpoint."""

import math
import signal
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn, optim

from entprog.config.schema import Config
from entprog.core.bands import mean_log
from entprog.core.probe import optimizer_names
from entprog.core.processes import numbers, several
from entprog.core.types import Workload
from entprog.optimizers.base import keep_types
from entprog.profiling.meter import Meter, StepCost
from entprog.savings.adapters import adapters_off, effective_weights, plain_parameters
from entprog.savings.compiled import Compiled
from entprog.tasks.base import Task
from entprog.train.log import RunLog


@dataclass
class Totals:
    """Everything a run has spent, scoring and search included; part of each checkpoint.

    `bytes_peak` is the largest of all steps and all scoring, `bytes_peak_scoring` that of scoring alone;
    `byte_seconds` is peak bytes times seconds of steps, for the mean over time.
    """

    steps: int = 0
    seconds_training: float = 0.0
    seconds_scoring: float = 0.0
    seconds_search: float = 0.0
    flops: float = 0.0
    flops_scoring: float = 0.0
    flops_search: float = 0.0
    flops_cache: float = 0.0
    bytes_peak: int = 0
    bytes_peak_scoring: int = 0
    byte_seconds: float = 0.0

    def so_far(self) -> dict[str, float]:
        """What was spent until now, as a point of a curve."""
        return {
            "flops": self.flops + self.flops_scoring + self.flops_cache,
            "seconds": self.seconds_training + self.seconds_scoring,
        }

    def summary(self, holdout_loss: float | None, holdout_bands: Sequence[float | None] = ()) -> dict[str, Any]:
        """The content of totals.json."""
        spent, log_loss = self.so_far(), mean_log(holdout_bands)
        return {
            "steps": self.steps,
            "seconds": spent["seconds"],
            "seconds_scoring": self.seconds_scoring,
            "seconds_search": self.seconds_search,
            "flops": spent["flops"],
            "flops_scoring": self.flops_scoring,
            "flops_search": self.flops_search,
            "flops_cache": self.flops_cache,
            "bytes_peak": self.bytes_peak,
            "bytes_peak_scoring": self.bytes_peak_scoring,
            "bytes_mean": self.byte_seconds / self.seconds_training if self.seconds_training else 0.0,
            "holdout_loss": holdout_loss,
            "holdout_log_loss": log_loss if math.isfinite(log_loss) else None,
            "holdout_bands": list(holdout_bands),
        }


class EMA:
    """Exponential moving average of all weights, in float32; decay 0 keeps none."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}
        self.updates = 0
        if decay:
            self.weights = {n: p.detach().float().clone() for n, p in plain_parameters(model).items()}

    @property
    def size(self) -> int:
        """Bytes of the EMA weights."""
        return sum(weight.numel() * weight.element_size() for weight in self.weights.values())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model; the decay warms up as (1 + n) / (10 + n)."""
        if not self.weights:
            return
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = effective_weights(model)
        torch._foreach_lerp_(list(self.weights.values()), [current[n].float() for n in self.weights], 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with the EMA weights, restored bit-exactly at the end; does nothing without EMA."""
        if not self.weights:
            yield
            return
        named = plain_parameters(model)
        kept = {n: p.detach().clone() for n, p in named.items()}
        with torch.no_grad():
            for name, value in self.weights.items():
                named[name].copy_(value)
        try:
            with adapters_off(model):  # they are in the average
                yield
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    named[name].copy_(value)


class Fills:
    """FLOPs of the reference cache's computations, metered once for each form of work, and their seconds."""

    def __init__(self) -> None:
        self.flops, self.seconds = 0, 0.0
        self._known: dict[Hashable, int] = {}

    @contextmanager
    def __call__(self, form: Hashable) -> Iterator[None]:
        """Around the computation of one reference; equal forms take the same FLOPs."""
        started = time.perf_counter()
        if form in self._known:
            yield
        else:
            with Meter() as meter:
                yield
            self._known[form] = meter.flops
        self.flops += self._known[form]
        self.seconds += time.perf_counter() - started

    def taken(self) -> tuple[int, float]:
        """FLOPs and seconds since the last call."""
        found = self.flops, self.seconds
        self.flops, self.seconds = 0, 0.0
        return found


@dataclass
class Session:
    """One process's part of a run, from start or resume to its end.

    `data` is the data set's fingerprint; `inputs` has each phase's input-side parameters where the model is sharded.
    """

    config: Config
    run: Path
    task: Task
    log: RunLog
    ema: EMA
    totals: Totals = field(default_factory=Totals)
    step: int = 0
    costs: dict[Workload, StepCost] = field(default_factory=dict)
    fills: Fills = field(default_factory=Fills)
    stop: "StopSignal | None" = None
    holdout_loss: float | None = None
    holdout_bands: list[float | None] = field(default_factory=list)
    history: list[float] = field(default_factory=list)
    validate: Callable[..., None] = lambda phase: None
    compiled: Compiled | None = None
    after_step: Callable[[], None] | None = None
    data: str | None = None
    inputs: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def holdout_in_words(self) -> str:
        """The last reading: its mean, and the mean log over noise bands."""
        return f"{self.holdout_loss:.4f}, mean log {mean_log(self.holdout_bands):.3f}"

    def span(self, number: int) -> tuple[int, int | None]:
        """Steps before phase `number` and in all, where the learning rate's schedule covers the run."""
        if self.config.train.lr_span == "phase":
            return 0, None
        steps = [phase.steps for phase in self.config.phases.values() if phase.steps > 0]
        return sum(steps[:number]), sum(steps)


PASSED_ON = 3.0
"""Seconds within which a second SIGINT in one of several processes is the first one, passed on."""


class StopSignal:
    """Remembers SIGINT and SIGTERM so that the loop can save and stop between two steps."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._agreed: int | None = None
        self._since = 0.0

    @property
    def due(self) -> int | None:
        """The signal to stop by: of several processes the one that all of them know of."""
        return self._agreed if several() else self.number

    def agree(self, numbers: Iterable[float]) -> None:
        """Take the signals of all processes (0: none), the same in each of them."""
        self._agreed = int(max(numbers)) or None

    def gather(self) -> int | None:
        """Ask all processes; every one must call this."""
        self.agree(found for (found,) in numbers([self.number or 0]))
        return self.due

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Catch both signals inside; a second SIGINT interrupts at once. Only the main thread can."""

        def remember(number: int, frame: FrameType | None) -> None:
            again = self.number is not None and number == signal.SIGINT
            # torchrun passes on a Ctrl-C that the terminal has sent to all processes already.
            if again and not (several() and time.monotonic() - self._since < PASSED_ON):
                raise KeyboardInterrupt
            if self.number is None:
                self.number, self._since = number, time.monotonic()

        try:
            before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signal handlers are left to the main thread
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """Where no loop handles it, SIGTERM exits by SystemExit(143), so folders are cleaned up, status is written."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread: signal handlers are left to the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def optimizer_state(optimizer: optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """An optimizer's states by the names of the model's parameters, for a checkpoint; groups are not saved."""
    names = optimizer_names(optimizer, model)
    return {names[k]: v for k, v in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: optim.Optimizer, model: nn.Module, state: dict[str, Any]) -> None:
    """The inverse of `optimizer_state`."""
    groups = optimizer.state_dict()["param_groups"]
    places = {name: k for k, name in enumerate(optimizer_names(optimizer, model))}
    whole = {"state": {places[name]: values for name, values in state.items()}, "param_groups": groups}
    optimizer.load_state_dict(whole)
    keep_types(optimizer, whole)  # a frozen parameter may be held in another type than when it stepped
