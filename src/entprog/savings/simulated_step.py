"""One training step on fake tensors: what it would allocate and compute, without memory and in little time."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from entprog.config.schema import TrainConfig
from entprog.core.blocks import Block, Blocks
from entprog.core.freeze import param_groups
from entprog.core.types import Draw, Trainable
from entprog.profiling.meter import Meter, StepCost
from entprog.savings.adapters import adapted_layers
from entprog.savings.in_backward import build_optimizer, optimizer_plugin
from entprog.savings.options import Option
from entprog.savings.weight_precision import match_training


def simulate_step(
    task: Trainable, blocks: Blocks, option: Option, draw: Draw, batch: int, config: TrainConfig,
    *, trainable: Collection[int], kept: Sequence[str] = (),
) -> StepCost:  # fmt: skip
    """Cost of one optimizer step of `batch` samples a micro-batch, run as `option` says.

    The model's parameters are replaced by fake ones of their size and device, so nothing is allocated and no weight
    is copied. Parameters that never train, such as inputs with `freeze.inputs_every = 0`, are left out of `trainable`:
    the backward then ends at the lowest active block, as the real one does. An optimizer in the backward pass is
    simulated as one that steps after it, an upper bound.

    Args:
        draw: one sample or more of the step's own size.
        trainable: ids of the parameters that may train; of those in blocks only the option's do, and adapters where
            the layer's own weights do not.
        kept: blocks besides the active ones whose optimizer states are in memory.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    active = {id(p) for name in option.active for p in blocks[name].parameters()}
    inside = {id(p) for block in blocks for p in block.parameters()}
    memo: dict[int, object] = {}
    for tensor in [*task.model.parameters(), *task.model.buffers()]:
        fake = mode.from_tensor(tensor)
        if isinstance(tensor, nn.Parameter):
            fake.requires_grad_(id(tensor) in trainable and (id(tensor) in active or id(tensor) not in inside))
        memo[id(tensor)] = fake
    with mode:
        model = copy.deepcopy(task.model, memo)
        for module in model.modules():
            module.__dict__.pop("forward", None)  # a compiled block's, which is bound to the block itself
        fake_task = task.with_model(model)
        fake_task.recompute(option.checkpointing)
        members = dict(model.named_modules())
        copies = Blocks([Block(block.name, members[block.name]) for block in blocks], role=blocks.role)
        plain = replace(config, optimizer_in_backward=False)
        for layer in adapted_layers(model).values():
            layer.enable_adapters(not layer.base_layer.weight.requires_grad)
            for parameter in (*layer.lora_A.parameters(), *layer.lora_B.parameters()):
                parameter.requires_grad_(not layer.base_layer.weight.requires_grad)
        match_training(model)
        optimizer = build_optimizer(plain, param_groups(model, copies, lr=1e-4))
        count = config.gradient_accumulation_steps * option.pieces
        samples = batch // option.pieces
        run = min(count, 2)  # from the second on, gradients are live during the forward pass
        with Meter(model, optimizer) as meter:
            for _ in range(run):
                drawn = _of_size(draw, samples)  # the training loop holds its draw during the backward, too
                fake_task.loss(drawn).backward()
    cost = replace(meter.cost(), flops=meter.flops // run * count)
    kept_parameters = (p for name in kept for p in blocks[name].parameters())
    states = sum(optimizer_plugin(config).state_bytes(p, "block") for p in kept_parameters)
    if not states:
        return cost
    parts = dict(cost.by_category)
    parts["optimizer"] = parts.get("optimizer", 0) + states
    return replace(cost, peak=cost.peak + states, by_category=parts)


def _of_size(draw: Draw, samples: int) -> Draw:
    """An empty draw like this one, of so many samples; inside a fake mode."""

    def empty(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty((samples, *tensor.shape[1:]), dtype=tensor.dtype, device=tensor.device)

    return draw.each(empty)
