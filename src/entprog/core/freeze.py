"""Choose which blocks train. The forward never changes, and frozen weights stay bit-identical."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn, optim

from entprog.core.blocks import Blocks, outside_parameters, unknown_block
from entprog.core.sharded import reshard, sharded_modules
from entprog.core.types import WeightStorage

__all__ = ["Freezer", "param_groups"]

States = Literal["keep", "drop", "offload"]


def param_groups(model: nn.Module, blocks: Blocks, **options: Any) -> list[dict[str, Any]]:
    """One optimizer group for each block, in the order of the blocks, and one for everything outside.

    Make the optimizer once with these groups and keep it: groups that come later break learning rate
    schedulers. Each group has a "name": that of its block, or "outside". Parameters that do not require a
    gradient are left out, and with them groups that would be empty.

    Args:
        options: for every group, such as `lr` and `weight_decay`.
    """
    members = {block.name: [p for p in block.parameters() if p.requires_grad] for block in blocks}
    members["outside"] = [p for p in outside_parameters(model, blocks).values() if p.requires_grad]
    return [{"name": name, "params": params, **options} for name, params in members.items() if params]


class Freezer:
    """Lets exactly the named blocks of a model train, and the parameters outside blocks if `outside`.

    What does not require a gradient when the Freezer is made stays frozen. Nothing is moved between the
    optimizer's groups, so learning rate schedulers and saved states stay valid, with one group for each
    block (`param_groups`) or with a single one. A frozen parameter has no gradient at the optimizer's step, so
    neither weight decay nor momentum moves it.

    Args:
        optimizer: the one optimizer of the run.
        states: what happens to the optimizer's state of a frozen block: "keep" it in place; "drop" it, so
            that the block starts with empty states; "offload" it to host memory (pinned where the parameter is on
            a GPU) until the block trains again.
        outside: whether parameters outside of blocks train.
        inputs: names of parameters outside of blocks that `train_only` can freeze for single steps. Their
            optimizer states stay in place whatever `states` says.
        storage: stores frozen weights in fewer bytes; None leaves them as they are.

    `release`, or the end of the context, restores the gradient flags and offloaded states.

    Attributes:
        frozen: names of the parameters that do not require a gradient now.
        at_release: called by `release`.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Blocks,
        optimizer: optim.Optimizer,
        *,
        states: States = "keep",
        outside: bool = True,
        inputs: Iterable[str] = (),
        storage: WeightStorage | None = None,
    ) -> None:
        if states not in ("keep", "drop", "offload"):
            raise ValueError(f"states = {states!r}: choose from keep, drop, offload")
        self.model, self.blocks, self.optimizer, self.states = model, blocks, optimizer, states
        self._sharded = sharded_modules(model)
        reshard(self._sharded)
        self._names = {name: p for name, p in model.named_parameters()}
        self._trainable = {name for name, p in self._names.items() if p.requires_grad}
        by_id = {id(p): name for name, p in self._names.items()}
        if unknown := [block.name for block in blocks for p in block.parameters() if id(p) not in by_id]:
            raise ValueError(f"block {unknown[0]!r} is not in this model: discover the blocks of the model itself")
        self._members = {block.name: [by_id[id(p)] for p in block.parameters()] for block in blocks}
        self._outside = list(outside_parameters(model, blocks))
        self._offloaded: dict[str, dict[str, Any]] = {}
        self._moved: dict[str, set[str]] = {}
        self._frozen: list[nn.Parameter] = []
        self.frozen: set[str] = set()
        self.at_release: list[Callable[[], None]] = []
        self._released = False
        self._active: frozenset[str] = frozenset(blocks.names)
        if unknown := sorted(set(inputs) - set(self._outside)):
            raise ValueError(f"inputs: {unknown[0]!r} is not a parameter outside of the blocks")
        self._inputs = list(inputs) if outside else []
        self._inputs_train = True
        self.outside, self.storage = outside, storage
        if not outside:
            self._freeze(self._outside)
        self._note_frozen()
        self._hook = optimizer.register_step_pre_hook(self._without_frozen_gradients)

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the blocks that train, in the order of the blocks."""
        return tuple(name for name in self._members if name in self._active)

    def train_only(self, names: Iterable[str], *, inputs: bool = True) -> None:
        """Freeze every block that is not named, and `inputs` unless requested; does nothing where nothing changes.

        Raises:
            ValueError: a name is not a block.
        """
        wanted = frozenset(names)
        if self._released:
            raise ValueError(
                "this method was released (by release(), or by a later attach of the same model): attach again"
            )
        if wanted == self._active and inputs == self._inputs_train:
            return
        self._check(wanted)
        reshard(self._sharded)
        for name, members in self._members.items():
            if name in wanted and name not in self._active:
                self._unfreeze(members)
            elif name in self._active and name not in wanted:
                self._freeze(members)
        self._active = wanted
        self._let_inputs_train(inputs)
        self._note_frozen()

    def everything(self) -> None:
        """Let all blocks train: a search takes and restores snapshots of the whole model."""
        self.train_only(self._members)

    def release(self) -> None:
        """Restore every parameter's gradient flag, and the optimizer's offloaded states; a second call does nothing."""
        if self._released:
            return
        self._released = True
        reshard(self._sharded)
        self._unfreeze(self._trainable)
        self._active, self._inputs_train = frozenset(self._members), True
        self._frozen = []
        self.frozen.clear()
        if self.storage is not None:
            self.storage.release()
        self._hook.remove()
        for call in self.at_release:
            call()

    def whole(self) -> AbstractContextManager[None]:
        """The network with its original weights, for scores, holdout readings and EMA; no training inside."""
        return nullcontext() if self.storage is None else self.storage.whole()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def trainable_report(self) -> str:
        """Totals, then one line for each tensor: name, shape, count, trained or frozen."""
        counts = {name: p.numel() for name, p in self._names.items()}
        trained = [name for name, p in self._names.items() if p.requires_grad]
        total, active = sum(counts.values()), sum(counts[name] for name in trained)
        lines = [
            f"trained {active:,} of {total:,} parameters ({active / max(total, 1):.1%}), "
            f"{len(trained)} of {len(counts)} tensors, {len(self._active)} of {len(self._members)} blocks",
            f"blocks: {', '.join(self.active) or 'none'}",
        ]
        lines += [
            f"{name} {tuple(p.shape)} {counts[name]} {'trained' if p.requires_grad else 'frozen'}"
            for name, p in self._names.items()
        ]
        return "\n".join(lines) + "\n"

    def state_dict(self) -> dict[str, Any]:
        """The active blocks and the offloaded optimizer states by parameter name.

        As in an optimizer's state, tensors are not copied: copy a snapshot that must stay unchanged while
        training goes on.
        """
        return {
            "active": list(self.active),
            "inputs": self._inputs_train,
            "offloaded": {name: dict(values) for name, values in self._offloaded.items()},
            "moved": {name: sorted(keys) for name, keys in self._moved.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the active blocks and offloaded states, before or after the optimizer has loaded its own.

        Raises:
            ValueError: a name is not a block, or not a parameter, of this model.
        """
        wanted, offloaded = frozenset(state["active"]), state["offloaded"]
        self._check(wanted)
        if unknown := [name for name in offloaded if name not in self._names]:
            raise ValueError(f"offloaded optimizer states of parameters that this model lacks: {unknown[:5]}")
        self._offloaded = {}
        for name, members in self._members.items():
            if name in wanted:
                self._unfreeze(members)
            else:
                self._freeze(members)
        # Optimizer states of frozen blocks from before the snapshot are not part of it.
        self._offloaded = {
            name: {key: v.clone() if isinstance(v, Tensor) else v for key, v in values.items()}
            for name, values in offloaded.items()
        }
        self._moved = {name: set(keys) for name, keys in state["moved"].items()}
        self._active = wanted
        self._let_inputs_train(state.get("inputs", True))
        self._note_frozen()

    def _check(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._members:
                raise unknown_block(name, self._members)

    def _let_inputs_train(self, wanted: bool) -> None:
        """These train again within a few steps, so none of their states is moved or dropped."""
        if wanted:
            self._unfreeze(self._inputs)
        else:
            self._freeze(self._inputs, "keep")
        self._inputs_train = wanted

    def _freeze(self, names: Iterable[str], states: States | None = None) -> None:
        for name in names:
            parameter = self._names[name]
            parameter.requires_grad_(False)
            parameter.grad = None
            if (states or self.states) == "keep" or parameter not in self.optimizer.state:
                continue
            values = self.optimizer.state.pop(parameter)
            if self.states == "offload":
                # Adam's step count may be on the CPU while the moments are on a GPU: only what was moved goes back.
                self._moved[name] = {k for k, v in values.items() if isinstance(v, Tensor) and _on_device(v)}
                self._offloaded[name] = {key: _to_host(value) for key, value in values.items()}

    def _unfreeze(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._trainable:
                continue
            parameter = self._names[name]
            parameter.requires_grad_(True)
            if name in self._offloaded:
                moved = self._moved.pop(name, set())
                self.optimizer.state[parameter] = {
                    key: value.to(parameter.device, non_blocking=True) if key in moved else value
                    for key, value in self._offloaded.pop(name).items()
                }

    def _note_frozen(self) -> None:
        self._frozen = [p for p in self._names.values() if not p.requires_grad]
        self.frozen.clear()
        self.frozen.update(name for name, p in self._names.items() if not p.requires_grad)
        if self.storage is not None:
            self.storage.follow()

    def _without_frozen_gradients(self, *step: Any) -> None:
        """Before each step: a graph built before the freeze may still have left a gradient."""
        if self.storage is not None:
            self.storage.refuse_trained()
        for parameter in self._frozen:
            if parameter.grad is not None:
                parameter.grad = None


def _on_device(value: Tensor) -> bool:
    return value.device.type != "cpu"


def _to_host(value: Any) -> Any:
    """A copy in host memory; what is there already is returned as it is."""
    if not isinstance(value, Tensor) or not _on_device(value):
        return value
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value)
