"""LoRA on the linear layers of blocks: added, trained beside or instead of the blocks, merged and removed."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn, optim

from entprog.core.blocks import Blocks
from entprog.core.freeze import Freezer, param_groups
from entprog.core.sharded import placed
from entprog.savings.adapters import ADAPTER, adapted_layers
from entprog.savings.frozen_storage import original
from entprog.savings.low_rank_product import low_rank_product, takes
from entprog.savings.weight_precision import keep


def put_on(model: nn.Module, blocks: Blocks, *, rank: int, alpha: int, full: Iterable[str] = (), seed: int) -> None:
    """Add a LoRA adapter of peft's to every linear layer of the blocks; its output is zero until its B is trained.

    The gradient flags of other parameters do not change; adapters require gradients. Deterministic in `seed`; torch's
    own random state does not change.

    Args:
        alpha: the adapter's output is scaled by alpha / rank.
        full: modules without adapters, inside them too: exact names in which `*` is one dotted part.

    Raises:
        ValueError: peft is not installed, a pattern of `full` matches nothing, or the blocks have no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise ValueError(f'methods "lora" and "mixed" need {error.name}: pip install "peft>=0.17"') from error
    layers = layers_to_adapt(blocks, full)
    if not layers and full:
        return
    if not layers:
        raise ValueError("the blocks have no linear layer to adapt; train them in full")
    flags = [(p, p.requires_grad) for p in model.parameters()]
    # peft matches a regular expression in full; names in a list would match by their ends, too.
    wanted = LoraConfig(r=rank, lora_alpha=alpha, target_modules="|".join(re.escape(name) for name in layers))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(wanted, model, ADAPTER)
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
    fast = fast_layers()
    for layer in adapted_layers(model).values():
        if type(layer) in fast:
            layer.__class__ = fast[type(layer)]
        else:
            layer.register_forward_pre_hook(by_place, with_kwargs=True)


@cache
def fast_layers() -> dict[type[nn.Module], type[nn.Module]]:
    """peft's layers whose adapter is computed in one operation -> the class that does; peft is optional."""
    from peft.tuners.lora.layer import Linear

    class LowRankLinear(Linear):  # type: ignore[misc]
        """peft's linear layer; beside a frozen weight one operation instead of four."""

        def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # by torch's name, as networks give it
            plain = not (args or kwargs or self.disable_adapters or self.merged or self.lora_variant)
            if plain and takes(self.base_layer, input):
                a, b = adapter_parameters(self)
                return low_rank_product(input, self.base_layer, a, b, self.scaling[ADAPTER])
            return super().forward(input, *args, **kwargs)  # type: ignore[no-any-return]

    return {Linear: LowRankLinear}


def by_place(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The input of a linear layer by its place: peft's layers have another name for it than torch's."""
    if "input" in kwargs:
        args, kwargs = (kwargs["input"], *args), {key: value for key, value in kwargs.items() if key != "input"}
    return args, kwargs


def layers_to_adapt(blocks: Blocks, full: Iterable[str]) -> list[str]:
    """Names of the blocks' linear layers outside of the modules that `full` names."""
    spared = spared_modules(blocks, full)
    inside = [
        f"{block.name}.{name}" if name else block.name
        for block in blocks
        for name, module in block.module.named_modules()
        if isinstance(module, nn.Linear)
    ]
    return [name for name in inside if not any(f"{name}.".startswith(f"{other}.") for other in spared)]


def spared_modules(blocks: Blocks, patterns: Iterable[str]) -> list[str]:
    """Names of the blocks, and of modules inside, that match a pattern in which `*` is one dotted part.

    Raises:
        ValueError: a pattern matches nothing.
    """
    names = [f"{block.name}.{n}" if n else block.name for block in blocks for n, _ in block.module.named_modules()]
    found = []
    for pattern in patterns:
        parts = pattern.split(".")
        hits = [name for name in names if _matches(name.split("."), parts)]
        # A phase may lack a whole family of blocks: a pattern that begins like one of another phase is not an error.
        if not hits and not re.fullmatch(r"[\w*]+(\.[\w*]+)*", pattern):
            raise ValueError(f"method_options.full: {pattern!r} matches nothing; write 'temporal.*' or 'blocks.*.pose'")
        found += hits
    return found


def grouped(model: nn.Module, blocks: Blocks, *, lr: float, factor: float) -> list[dict[str, Any]]:
    """`param_groups`, with each block's adapter in a group of its own at `factor` times the rate.

    The loop multiplies the rate of a step by a group's "lr_factor" where it has one.
    """
    adapters = {id(p) for layer in adapted_layers(model).values() for p in adapter_parameters(layer)}
    groups = []
    for group in param_groups(model, blocks, lr=lr):
        own = [p for p in group["params"] if id(p) not in adapters]
        low = [p for p in group["params"] if id(p) in adapters]
        if own:
            groups.append({**group, "params": own})
        if low:
            name = f"{group['name']} lora"
            groups.append({**group, "name": name, "params": low, "lr": lr * factor, "lr_factor": factor})
    return groups


def adapter_parameters(layer: Any) -> list[nn.Parameter]:
    """A, then B."""
    return [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]


@torch.no_grad()
def merge(layer: Any) -> None:
    """Merge an adapter into its layer's weight and reset it to zero: the forward changes by rounding only."""
    weight = layer.base_layer.weight
    keep(weight, original(weight).to(weight.device) + placed(layer.get_delta_weight(ADAPTER), weight))
    layer.lora_B[ADAPTER].weight.zero_()


def take_off(model: nn.Module) -> None:
    """Merge every adapter and restore the plain layers."""
    for name, layer in adapted_layers(model).items():
        merge(layer)
        above, _, last = name.rpartition(".")
        model.get_submodule(above)._modules[last] = layer.base_layer
    if hasattr(model, "peft_config"):
        del model.peft_config


class AdapterFreezer(Freezer):
    """A Freezer whose saved state includes the adapters: the saved model has its plain weights only."""

    def __init__(self, model: nn.Module, blocks: Blocks, optimizer: optim.Optimizer, **options: Any) -> None:
        self._layers = {block.name: list(adapted_layers(block.module).values()) for block in blocks}
        self._refuse_missing_adapters(optimizer)
        super().__init__(model, blocks, optimizer, **options)
        ours = {id(p) for layers in self._layers.values() for layer in layers for p in adapter_parameters(layer)}
        self._adapters = {name: p for name, p in model.named_parameters() if id(p) in ours}

    def _refuse_missing_adapters(self, optimizer: optim.Optimizer) -> None:
        present = {id(p) for group in optimizer.param_groups for p in group["params"]}
        layers = [layer for layers in self._layers.values() for layer in layers]
        if not layers or any(id(p) not in present for layer in layers for p in adapter_parameters(layer)):
            raise ValueError(
                "methods 'lora' and 'mixed': the optimizer lacks the adapters; make it with the groups that the "
                "method's own groups(model, blocks, lr=..., seed=...) gives"
            )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "adapters": {name: p.detach() for name, p in self._adapters.items()}}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name, parameter in self._adapters.items():
            parameter.copy_(state["adapters"][name])


class MixedFreezer(AdapterFreezer):
    """Trains the named blocks in full and the adapters of all others.

    A block that becomes active merges its adapter (W + s B A) and runs without it; one that freezes gets a new
    adapter at zero. Neither changes what the network computes, but for rounding.
    """

    def __init__(self, model: nn.Module, blocks: Blocks, optimizer: optim.Optimizer, **options: Any) -> None:
        super().__init__(model, blocks, optimizer, **options)
        self._members = {
            block: [name for name in names if name not in self._adapters] for block, names in self._members.items()
        }
        self._full: frozenset[str] = frozenset()

    def train_only(self, names: Iterable[str], **options: Any) -> None:
        """As in a Freezer; other arguments are passed on."""
        wanted = frozenset(names)
        super().train_only(wanted, **options)
        if wanted == self._full:
            return
        for block in self._members:
            if block in wanted and block not in self._full:
                self._merge_block(block)
            elif block not in wanted and block in self._full:
                self._switch(block, on=True)
        self._full = wanted
        self._note_frozen()

    def everything(self) -> None:
        """All blocks and adapters trainable: adapters of blocks that trained in full are at zero."""
        super().train_only(self._members)
        for block in self._full:
            self._switch(block, on=True)
        self._full = frozenset()
        self._note_frozen()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "full": sorted(self._full)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._full = frozenset(state["full"])
        for block in self._members:
            self._switch(block, on=block not in self._full)
        self._note_frozen()

    def _merge_block(self, block: str) -> None:
        for layer in self._layers[block]:
            merge(layer)
            for parameter in adapter_parameters(layer):  # the moments belong to the merged adapter
                self.optimizer.state.pop(parameter, None)
        self._switch(block, on=False)

    def _switch(self, block: str, *, on: bool) -> None:
        for layer in self._layers[block]:
            layer.enable_adapters(on)
            for parameter in adapter_parameters(layer):
                parameter.requires_grad_(on)
                parameter.grad = None


def _matches(parts: list[str], wanted: list[str]) -> bool:
    return len(parts) == len(wanted) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=True))
