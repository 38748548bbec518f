"""A model with low-rank adapters or frozen storage, seen as the plain model.

Adapters are peft's: a linear layer is replaced by one that holds it as `base_layer`, with `lora_A` and `lora_B`
beside it. Weights in a `FrozenStorage` are replaced by their originals. Without either, every function here returns
what the model itself would.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from entprog.core.sharded import placed
from entprog.savings.frozen_storage import original

__all__ = [
    "ADAPTER",
    "adapted_layers",
    "adapters_off",
    "effective_weights",
    "low_rank_factors",
    "plain_name",
    "plain_parameters",
    "plain_state_dict",
]

ADAPTER = "default"
"""The one adapter of a layer, by peft's name."""


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """The layers that carry an adapter, by name."""
    return {name: layer for name, layer in module.named_modules() if _is_adapted(layer)}


def plain_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters under the names that they have without adapters; adapter parameters are left out."""
    adapted = bool(adapted_layers(model))
    return {plain_name(name): p for name, p in model.named_parameters() if not (adapted and _of_adapter(name))}


def plain_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The model's state without adapters (left out, not merged); weights as `original`."""
    adapted = bool(adapted_layers(model))
    state = {plain_name(name): v for name, v in model.state_dict().items() if not (adapted and _of_adapter(name))}
    return state | {name: original(p).detach() for name, p in plain_parameters(model).items()}


@torch.no_grad()
def effective_weights(model: nn.Module) -> dict[str, Tensor]:
    """By plain name, the weights that the forward uses: W + s B A where an adapter is on, else W itself."""
    weights: dict[str, Tensor] = {
        name: original(p).detach().to(p.device) for name, p in plain_parameters(model).items()
    }
    for name, layer in adapted_layers(model).items():
        if not layer.disable_adapters:
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + placed(
                layer.get_delta_weight(ADAPTER), weights[f"{name}.weight"]
            )
    return weights


def low_rank_factors(model: nn.Module) -> dict[str, Tensor]:
    """A and B of every adapter that adds something, as LAYER.lora_A.weight and LAYER.lora_B.weight.

    B includes the scale: the layer's weight is W + B A.
    """
    found: dict[str, Tensor] = {}
    for name, layer in adapted_layers(model).items():
        a, b = layer.lora_A[ADAPTER].weight.detach(), layer.lora_B[ADAPTER].weight.detach()
        if not layer.disable_adapters and bool(b.any()):
            found |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b * layer.scaling[ADAPTER]}
    return found


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The forward without adapters; active adapters and gradient flags are restored at the end."""
    layers = [layer for layer in adapted_layers(model).values() if not layer.disable_adapters]
    flags = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _is_adapted(layer: nn.Module) -> bool:
    return hasattr(layer, "base_layer") and hasattr(layer, "lora_A")


def _of_adapter(name: str) -> bool:
    return ".lora_" in name


def plain_name(name: str) -> str:
    """A parameter's name without adapters."""
    return name.replace(".base_layer.", ".")
