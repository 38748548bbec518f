"""Weights of frozen layers in bfloat16 or float16, of trained ones in float32: what trains never loses by rounding.

Held low are the weights of linear layers and convolutions, nearly all bytes of a network. Everything else (biases,
norms, tables, LoRA, what a network of diffusers lists in `_keep_in_fp32_modules`) is float32 throughout.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from entprog.core.blocks import Block
from entprog.core.types import WeightStorage
from entprog.savings._mixed_layers import LOW, is_mixed, mix
from entprog.savings.frozen_storage import FrozenStorage, on_host, original
from entprog.savings.rounding import rounded_stochastically

__all__ = ["Precision", "WeightPrecision", "keep", "load_exactly", "match_training", "set_precision", "trained_sizes",
           "weight_storage"]  # fmt: skip

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
ATTRIBUTE = "entprog_precision"
"""Of a network: its `Precision`. Copies of the network have it, too."""


@dataclass(frozen=True)
class Precision:
    """How a network's weights are held.

    Attributes:
        frozen: type of the weights of layers that do not train.
        trained: type of those that do. float32 for any `frozen`; bfloat16, with an optimizer that rounds
            stochastically, only where frozen weights are bfloat16, too.
        whole: parts of names whose modules stay in float32.
    """

    frozen: torch.dtype
    trained: torch.dtype
    whole: tuple[str, ...] = ()


def set_precision(model: nn.Module, dtype: str, weights: str) -> bool:
    """Hold weights as `model.dtype` and `model.weights` say; returns whether anything differs from float32.

    To be called once the network is complete, adapters included, and on float32 or already low weights; those
    are rounded to `dtype`, all else becomes float32. Layers that come later (LoRA) are treated alike when the phase
    begins. Without autocast, layers with low weights compute in float32; under autocast in bf16 the network computes
    exactly what it would with float32 weights of the same values.

    Raises:
        ValueError: trained weights in bfloat16 with frozen ones in another type.
    """
    if weights != "float32" and weights != dtype:
        raise ValueError(
            f"model.weights = {weights!r}: trained weights in bfloat16 need frozen ones in bfloat16; "
            f'set model.dtype = "bf16" (it is {dtype!r}), or model.weights = "float32"'
        )
    whole = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    precision = Precision(TYPES[dtype], TYPES[weights], whole)
    if precision.frozen == torch.float32:
        _widen_the_rest(model, ())
        return False
    setattr(model, ATTRIBUTE, precision)
    for weight in _low_weights(model).values():
        weight.data = weight.data.to(precision.frozen)
    return True


def weight_storage(model: nn.Module, blocks: Iterable[Block], kind: str) -> WeightStorage | None:
    """What a Freezer of this network reports to: for `set_precision`, for `freeze.storage`, for both, or None.

    Args:
        blocks: of the whole network: those whose linear layers `freeze.storage` is about.
        kind: `freeze.storage`.
    """
    coarser = None if kind == "full" else FrozenStorage(blocks, kind)  # type: ignore[arg-type]
    if getattr(model, ATTRIBUTE, None) is None:
        return coarser
    return WeightPrecision(model, coarser)


class WeightPrecision:
    """Follows what trains: such weights are float32 on the device, those that freeze are rounded.

    The float32 original of a weight that trained goes to host memory if rounding would change it (`original` and
    checkpoints have it), and comes back when it trains again. A weight that never trained has none. What stays stays
    across phases: `release` does not bring originals back, `restore` does.

    Args:
        model: after `set_precision`.
        coarser: holds linear layers of frozen blocks in still fewer bytes; it then keeps their originals.
    """

    def __init__(self, model: nn.Module, coarser: FrozenStorage | None = None) -> None:
        self.model, self.coarser = model, coarser
        self.precision: Precision = getattr(model, ATTRIBUTE)

    def follow(self) -> None:
        """Give each weight the type that it has while it trains or rests; call at each change."""
        if self.coarser is not None:
            self.coarser.follow()
        taken = self._taken()
        for weight in _low_weights(self.model).values():
            if id(weight) in taken:
                continue
            if weight.requires_grad:
                _widen(weight, self.precision.trained)
            else:
                _lower(weight, self.precision.frozen)

    def refuse_trained(self) -> None:
        """Raise ValueError where a rounded weight was set to train without going through the Freezer."""
        if self.coarser is not None:
            self.coarser.refuse_trained()
        for name, weight in _low_weights(self.model).items():
            if weight.requires_grad and (weight.dtype != self.precision.trained or original(weight) is not weight):
                raise ValueError(
                    f"layer {name!r} is set to train, but its weight is held as {weight.dtype}: use the Freezer's "
                    "train_only, which restores the original first"
                )

    def whole(self) -> AbstractContextManager[None]:
        """The weights that training computes with; only those that `freeze.storage` holds are replaced."""
        return nullcontext() if self.coarser is None else self.coarser.whole()

    def release(self) -> None:
        """End `freeze.storage`; rounded weights remain rounded, with their originals in host memory."""
        if self.coarser is None:
            return
        taken = self._taken()
        self.coarser.release()
        for weight in _low_weights(self.model).values():
            if id(weight) in taken:
                _lower(weight, self.precision.frozen)

    def restore(self) -> None:
        """Bring all originals back to the device: the network as its checkpoint describes it."""
        self.release()
        for weight in _low_weights(self.model).values():
            if original(weight) is not weight:
                _widen(weight, torch.float32)

    def _taken(self) -> set[int]:
        return set() if self.coarser is None else {id(layer.weight) for layer in self.coarser.layers}


def load_exactly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`load_state_dict`, with weights of `set_precision` in the type that they were saved in: nothing is rounded.

    The next `follow` brings them into the type of their part. For any other network exactly `load_state_dict`.
    """
    if getattr(model, ATTRIBUTE, None) is not None:
        for name, weight in _low_weights(model).items():
            if name in state:
                _forget(weight)
                weight.data = weight.data.to(state[name].dtype)
    model.load_state_dict(state)


@torch.no_grad()
def keep(weight: Tensor, value: Tensor) -> None:
    """Set a weight to a float32 value without loss: a frozen low one keeps it in host memory, as if it had trained.

    A float32 weight is set in place, a low one that trains is rounded stochastically.
    """
    if weight.dtype not in LOW:
        weight.copy_(value)
        return
    if weight.requires_grad:
        weight.copy_(rounded_stochastically(value, seed=0, step=0, place=weight.numel()))
        return
    held = weight.dtype
    _forget(weight)
    weight.data = value.to(weight.device, torch.float32)
    _lower(weight, held)


def trained_sizes(model: nn.Module) -> dict[int, int]:
    """Bytes of a value of a weight that rests -> bytes of the same while it trains; empty without `set_precision`."""
    precision: Precision | None = getattr(model, ATTRIBUTE, None)
    return {} if precision is None else {precision.frozen.itemsize: precision.trained.itemsize}


def match_training(model: nn.Module) -> None:
    """Give the weights of a copy on fake tensors the types that they have in training, by their gradient flags."""
    precision: Precision | None = getattr(model, ATTRIBUTE, None)
    if precision is None:
        return
    for weight in _low_weights(model).values():
        flag = weight.requires_grad
        weight.data = weight.data.to(precision.trained if flag else precision.frozen)


def _low_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that may be held low, by name; layers that came since are included from now on."""
    precision: Precision = getattr(model, ATTRIBUTE)
    found: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if ".lora_" in name or any(part in precision.whole for part in name.split(".")):
            continue
        if (is_mixed(module) or mix(module)) and isinstance(module.weight, nn.Parameter):
            found[f"{name}.weight" if name else "weight"] = module.weight
    _widen_the_rest(model, found.values())
    return found


def _widen_the_rest(model: nn.Module, weights: Iterable[Tensor]) -> None:
    low = {id(weight) for weight in weights}
    for parameter in model.parameters():
        if id(parameter) not in low and parameter.dtype in LOW:
            parameter.data = parameter.data.float()


def _widen(weight: Tensor, dtype: torch.dtype) -> None:
    kept = _forget(weight)
    if kept is not None:
        weight.data = kept.to(weight.device, dtype)
    elif weight.dtype != dtype:
        weight.data = weight.data.to(dtype)


@torch.no_grad()
def _lower(weight: Tensor, dtype: torch.dtype) -> None:
    if weight.dtype == dtype:
        return
    full = weight.data
    weight.grad = None
    weight.data = full.to(dtype)
    if not isinstance(full, FakeTensor) and not torch.equal(weight.data.to(full.dtype), full):
        weight._entprog_original = on_host(full)  # type: ignore[attr-defined]


def _forget(weight: Tensor) -> Tensor | None:
    """Remove and return the original of a rounded weight."""
    kept: Tensor | None = weight.__dict__.pop("_entprog_original", None)
    return kept
