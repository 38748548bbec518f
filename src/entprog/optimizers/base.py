"""What every optimizer plugin declares: how it is built, and the size of its states."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, optim

from entprog.config.checks import Finding, and_others
from entprog.config.reference import KEYS
from entprog.config.schema import Config
from entprog.core.types import AdamOptions, Role
from entprog.profiling.states import adamw_states

__all__ = ["Gathering", "OptimizerPlugin", "keep_types"]


class Gathering(NamedTuple):
    """What the step of an optimizer that needs whole matrices takes of each process that has a part of them.

    Attributes:
        peak: the largest sum of bytes that are there only during the step.
        carried: bytes of the matrices that it gathers, with rows of padding where they can't be divided evenly.
    """

    peak: int = 0
    carried: int = 0


class OptimizerPlugin(ABC):
    """Plugin kind "optimizer": options, and `build`, which makes the torch optimizer of a phase.

    Attributes:
        packages: module -> what to install for it, of packages that are not dependencies of entprog.
        reads: names of the `train.adam_*` keys that it uses.
        shards: whether it steps parameters that are divided between processes (FSDP2).
    """

    packages: ClassVar[Mapping[str, str]] = {}
    reads: ClassVar[tuple[str, ...]] = ("adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay")

    shards: ClassVar[bool] = False

    @classmethod
    def problems(cls, config: Config) -> Iterable[Finding]:
        """What keeps a configuration from running with an optimizer in the backward pass."""
        return _in_backward(config) if config.train.optimizer_in_backward else ()

    @classmethod
    def without_effect(cls, config: Config, given: set[str]) -> Iterable[Finding]:
        """Keys that change nothing with this optimizer; `given` holds the dotted keys that the user wrote."""
        train = config.train
        if train.optimizer_in_backward and not train.gradient_checkpointing:
            yield Finding(
                ("train.optimizer_in_backward", "train.gradient_checkpointing"),
                " = true: saves next to no memory without gradient_checkpointing: activations stand at the peak then",
            )
        adam = [key for key in KEYS if key.startswith("train.adam_")]
        if idle := [key for key in adam if key in given and key.partition(".")[2] not in cls.reads]:
            said = f'{and_others(idle)}: no effect with optimizer = "{config.train.optimizer}"'
            yield Finding((idle[0], "train.optimizer"), said)

    @abstractmethod
    def build(self, groups: list[dict[str, Any]], adam: AdamOptions) -> optim.Optimizer:
        """The optimizer over `groups` (see `param_groups`: each has its "name" and "lr").

        Bfloat16 parameters must step in float32 and be rounded stochastically, as a subclass of `Stepping` does. All
        states must be plain tensors that appear at a parameter's first step: they are copied, offloaded and saved.
        """

    def states(self, shape: Sequence[int], size: int, *, counted: bool, role: Role) -> list[int]:
        """Bytes of each state that the first step makes for a parameter; AdamW's unless a plugin overrides it.

        Args:
            shape: of the parameter, whose values take `size` bytes each.
            counted: whether to include a step count that is kept on the CPU: true for a parameter on the CPU.
            role: where the parameter belongs.
        """
        return adamw_states(shape, size, counted=counted)

    def gathering(self, parameters: Iterable[tuple[Sequence[int], int, Role]], *, shards: int, cuda: bool) -> Gathering:
        """What a step of sharded parameters gathers; nothing unless a plugin overrides it.

        Args:
            parameters: shape of the whole, bytes of a value and role of each that trains, in the order of the step.
            shards: processes that a parameter is divided over.
            cuda: whether they are on a CUDA device.
        """
        return Gathering()

    def state_bytes(self, parameter: Tensor, role: Role) -> int:
        """Bytes of all states of a parameter on its device."""
        counted = parameter.device.type == "cpu"
        return sum(self.states(tuple(parameter.shape), parameter.element_size(), counted=counted, role=role))


def keep_types(optimizer: optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """After torch's `load_state_dict`: states in the type that they were saved in, where torch has changed it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for place, values in state_dict["state"].items():
        held = optimizer.state[parameters[place]]
        for key, value in values.items():
            if isinstance(value, Tensor) and held[key].dtype != value.dtype:
                held[key] = value.to(held[key].device, copy=True)


def _in_backward(config: Config) -> Iterator[Finding]:
    train, key = config.train, "train.optimizer_in_backward"
    if train.gradient_accumulation_steps > 1:
        yield Finding(
            (key, "train.gradient_accumulation_steps"),
            f" = true: steps at each micro-batch, and train.gradient_accumulation_steps = "
            f"{train.gradient_accumulation_steps}; set that to 1 and raise the batch, or this to false",
        )
    if train.max_grad_norm > 0:
        yield Finding(
            (key, "train.max_grad_norm"),
            f" = true: never has all gradients at once to clip, and train.max_grad_norm = {train.max_grad_norm:g}; "
            "set that to 0, or this to false",
        )
    if train.mixed_precision == "fp16":
        yield Finding(
            (key, "train.mixed_precision"),
            ' = true: never has all gradients at once for the loss scale of mixed_precision = "fp16"; '
            'choose "bf16" or "no", or set this to false',
        )
