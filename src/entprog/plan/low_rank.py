"""Adapters beside the linear layers of a simulated block."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def low_rank_added(model: nn.Module, name: str, rank: int, spared: Sequence[str] = ()) -> None:
    """Put adapters of rank `rank` beside the linear layers of a block, in the place of its own weights.

    `spared` are modules of the block that train in full instead ("": all of it).
    """
    block = model.get_submodule(name)
    block.requires_grad_(False)
    for path in spared:
        block.get_submodule(path).requires_grad_(True)
    layers = [
        (path, layer)
        for path, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and not any(not each or f"{path}.".startswith(f"{each}.") for each in spared)
    ]
    for path, layer in layers:
        above, _, last = path.rpartition(".")
        setattr(block.get_submodule(above), last, _LowRank(layer, rank))


def adapter_parameters(model: nn.Module) -> Iterator[Tensor]:
    """Those of all adapters that `low_rank_added` put on."""
    for module in model.modules():
        if isinstance(module, _LowRank):
            yield from (module.lora_down.weight, module.lora_up.weight)


class _LowRank(nn.Module):
    """A frozen linear layer and a trained product of two thin matrices beside it, operation by operation as peft's."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        about: Mapping[str, Any] = {"bias": False, "device": base.weight.device, "dtype": torch.float32}
        self.lora_down = nn.Linear(base.in_features, rank, **about)
        self.lora_up = nn.Linear(rank, base.out_features, **about)

    def forward(self, input: Tensor) -> Tensor:  # by torch's name, as some networks give it
        out = self.base(input)
        low = input.to(self.lora_down.weight.dtype)
        return out + self.lora_up(self.lora_down(low)) * 2.0
