"""The Method contract: what trains at step i of a phase.

A plugin of kind "method" is a frozen dataclass whose fields are its options (`MethodPlugin`); `bind` gives the object
that a loop uses for one phase (`Method`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

from torch import nn

from entprog.config.checks import Finding
from entprog.config.schema import Config, PhaseConfig
from entprog.core.blocks import Blocks
from entprog.core.freeze import Freezer, param_groups
from entprog.core.types import MethodContext, Shape, StepPlan, Workload
from entprog.methods import config_checks

__all__ = ["Method", "MethodPlugin"]


class MethodPlugin(ABC):
    """Plugin kind "method".

    Attributes:
        ranked: whether it needs a ranking and a schedule.
        packages: module -> what to install for it, of packages that are not dependencies of entprog.
        every_block: whether every block trains at each step.
        inputs: when input-side parameters (outside all blocks and before them) train: "always", "never", or a word of
            the method's own for some steps. A ranked method leaves that to `freeze.inputs_every`.
        echo: steps in a row that train on each sample where the start of the network is frozen.
    """

    ranked: ClassVar[bool] = True
    packages: ClassVar[Mapping[str, str]] = {}
    every_block: ClassVar[bool] = False
    inputs: str = "always"
    echo: int = 1

    @classmethod
    def problems(cls, config: Config) -> Iterable[Finding]:
        """What about phases and schedule keeps a configuration from running with this method."""
        return config_checks.problems(config)

    @classmethod
    def without_effect(cls, config: Config, given: set[str]) -> Iterable[Finding]:
        """Keys of phases that change nothing with this method; `given` holds the dotted keys that the user wrote."""
        return config_checks.without_effect(config, given)

    @abstractmethod
    def bind(self, context: MethodContext) -> "Method":
        """The method of one phase.

        Raises:
            ValueError: something that it needs is missing, or its options do not fit the phase.
        """

    def for_phase(self, frames: int, new: Sequence[str] = ()) -> Self:
        """The method for a phase on clips of this many frames.

        Args:
            new: patterns of modules that start untrained, which low-rank methods train in full.
        """
        return self

    def groups(self, model: nn.Module, blocks: Blocks, *, lr: float, seed: int) -> list[dict[str, Any]]:
        """The optimizer's groups; a method with parameters of its own adds them here. See `param_groups`."""
        return param_groups(model, blocks, lr=lr)

    def echoes(self, phase: PhaseConfig) -> tuple[int, int]:
        """Steps that train on each sample, and steps that take new ones before these come again."""
        return (phase.echo, phase.echo_window) if phase.echo > 1 else (self.echo, 1)

    def workloads(
        self, names: Sequence[str], shape: Shape | None, steps: int, seed: int
    ) -> Iterable[tuple[Workload, int]]:
        """What a phase trains, in order, each with its number of steps; empty where a schedule decides."""
        return ()

    @property
    def stages(self) -> int:
        """Stages of the method's own; 1 where it has none, or where a schedule has them."""
        return 1

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Every shape that a phase of this full shape may train at, by the method's own options."""
        return (shape,)


class Method(ABC):
    """A method bound to a phase.

    Attributes:
        freezer: freezes and unfreezes the blocks.
        search_seconds, search_flops: spent on searching so far.
        summary: what the steps train and save, for a reader; filled in by `entprog.attach`.
        known: what `batch` enters; set by `entprog.attach(..., prefix_cache=N)`.
    """

    freezer: Freezer
    summary: str = ""
    known: Callable[[Hashable], AbstractContextManager[None]] | None = None
    search_seconds: float = 0.0
    search_flops: float = 0.0

    @abstractmethod
    def plan(self, i: int) -> StepPlan:
        """The plan of step i; called once a step, before its batch is drawn. Idempotent, and the same on every rank."""

    @abstractmethod
    def step(self, i: int) -> AbstractContextManager[StepPlan]:
        """Around optimizer step i: exactly the planned blocks train inside; yields the plan."""

    def batch(self, key: Hashable) -> AbstractContextManager[None]:
        """Inside `step(i)`, around forward and backward of a batch: its frozen blocks run once for each key.

        Without `entprog.attach(..., prefix_cache=N)` it does nothing. Give a key to a batch that comes again with the
        same samples, noise, noise levels and conditions, and None to any other. Inside, the model may be called several
        times, in the same order for the same key; micro-batches have keys of their own.

        Raises:
            ValueError: at a call of the model, with other inputs than at the first batch of this key.
        """
        return nullcontext() if self.known is None else self.known(key)

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that decides later steps, also in the middle of a search. Plain values and tensors."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""

    def release(self) -> None:
        """Give the model back: gradient flags as before, offloaded optimizer states in place, nothing frozen again."""
        self.freezer.release()

    def finish(self) -> None:
        """After the last step of the phase, such as merging adapters; the freezer is released after it."""
        return
