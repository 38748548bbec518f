"""Adapters beside the linear layers of a simulated block."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from entprog.savings.low_rank_product import low_rank_product, takes


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


class _LowRank(nn.Module):
    """A frozen linear layer and a trained product of two thin matrices beside it, operation by operation as in LoRA."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        about: Mapping[str, Any] = {"bias": False, "device": base.weight.device, "dtype": torch.float32}
        self.lora_down = nn.Linear(base.in_features, rank, **about)
        self.lora_up = nn.Linear(rank, base.out_features, **about)

    def forward(self, input: Tensor) -> Tensor:  # by torch's name, as some networks give it
        if takes(self.base, input):
            return low_rank_product(input, self.base, self.lora_down.weight, self.lora_up.weight, 2.0)
        out = self.base(input)
        low = input.to(self.lora_down.weight.dtype)
        return out + self.lora_up(self.lora_down(low)) * 2.0
