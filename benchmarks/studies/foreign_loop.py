"""A foreign training loop for beyond.py: its people, two networks of diffusers, the arms, and the loop itself."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn, optim

import entprog
from entprog.codecs.pca import CHANNELS, FACTOR
from entprog.config.schema import DataConfig
from entprog.core.blocks import Blocks, discover_blocks, outside_parameters
from entprog.core.types import Draw, Shape
from entprog.data.clips import Batch, Clips
from entprog.data.sampler import sample_noise, stratified_tau
from entprog.data.source import open_data
from entprog.diffusion.objective import Objective

SIZE, BATCH, SIDE = 32, 16, 32 // FACTOR
STAGES = 4
PROBE = 32  # samples that an arm ranks on
PATCH = 2  # latents of a reference token's side

Step = Callable[[int], AbstractContextManager[Any]]


# --- people -----------------------------------------------------------------------------------------------------------


def people(which: str, subjects: int) -> DataConfig:
    """The base's people, `subjects` who are trained on, those that rates are tuned on, or the exam's: nobody twice."""
    if which == "base":
        options: dict[str, Any] = {"domain": "source", "subjects": 400, "holdout": 1, "frames": 4}
    elif which == "train":
        options = {"subjects": subjects, "holdout": 1, "frames": 12}
    else:
        options = {"subjects": 1, "holdout": 32, "frames": 8, "seed": {"tuning": 2, "exam": 3}[which]}
    return DataConfig(**options, clips_per_subject=2, sizes=(SIZE,), workers=1)


class People:
    """A stream of draws; the sample at a position is fixed by the seed. The base's have others' references."""

    def __init__(self, which: str, seed: int, subjects: int = 1) -> None:
        split = "train" if which in ("base", "train") else "holdout"
        self.seed, self.clips = seed, Clips(open_data(people(which, subjects), progress=False), split, seed=seed)
        self.objective, self.shift = Objective(), int(which == "base")

    def draw(self, position: int, size: int = BATCH) -> Draw:
        """Noised latents [B, C, h, w], and a reference [B, C, h, w] of the same person from another video."""
        batch: Batch = self.clips.batch(position, Shape(SIZE, 1, size))
        full = (CHANNELS, SIDE, SIDE)
        noise = [sample_noise(self.seed, int(p), 1, full, (SIDE, SIDE))[0] for p in batch.positions]
        eps, tau = (
            torch.from_numpy(np.stack(noise)),
            torch.from_numpy(stratified_tau(self.seed, batch.positions)).float(),
        )
        x = self.objective.add(batch.latents[:, 0], eps, tau)
        return Draw(x, tau, eps, {"reference": batch.reference.roll(self.shift, 0)})

    def draws(self, samples: int, size: int = BATCH) -> list[Draw]:
        """Fixed ones, from the stream's start."""
        return [self.draw(first, size) for first in range(0, samples, size)]


# --- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A model of diffusers as a task: blocks in the order of execution, eps_hat of a draw, and its losses."""

    model: Any
    blocks: Blocks
    given: Callable[[Any, Draw], Tensor]

    def predict(self, draw: Draw) -> Tensor:
        return self.given(self.model, draw)

    def losses(self, draw: Draw) -> Tensor:
        return (self.predict(draw) - draw.target).pow(2).flatten(1).mean(1)

    def loss(self, draw: Draw) -> Tensor:
        return self.losses(draw).mean()


def unet() -> Network:
    """Reference latents are further input channels; a block is a resnet or an attention layer."""
    model = diffusers.UNet2DModel(
        sample_size=SIDE, in_channels=2 * CHANNELS, out_channels=CHANNELS, layers_per_block=2,
        block_out_channels=(64, 96), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), norm_num_groups=16, attention_head_dim=32,
    )  # fmt: skip
    names = []
    stages = {
        **named("down_blocks", model.down_blocks),
        "mid_block": model.mid_block,
        **named("up_blocks", model.up_blocks),
    }
    for stage, module in stages.items():
        attentions = len(getattr(module, "attentions", ()))
        for i in range(len(module.resnets)):
            # The middle stage has one resnet more than attention layers, and begins with it.
            names += [f"{stage}.resnets.{i}", *([f"{stage}.attentions.{i}"] if i < attentions else [])]
    adapters = {
        name: shortcut(module) for name in names if getattr(module := model.get_submodule(name), "conv_shortcut", None)
    }
    blocks = discover_blocks(model, names, adapters=adapters)

    def given(model: Any, draw: Draw) -> Tensor:
        return model(torch.cat([draw.x, draw.condition["reference"]], 1), 1000 * draw.tau).sample

    return Network(model, blocks, given)


def shortcut(resnet: Any) -> Callable[[Mapping[str, Any]], Tensor]:
    """A resnet that changes its channels can't pass its input on: skipped, it keeps its own shortcut."""
    return lambda arguments: resnet.conv_shortcut(arguments["input_tensor"]) / resnet.output_scale_factor


def named(name: str, modules: Any) -> dict[str, nn.Module]:
    return {f"{name}.{i}": module for i, module in enumerate(modules)}


def mmdit() -> Network:
    """As the U-Net; tokens of the reference stand for the prompt, too: the second stream of each block."""
    model = diffusers.SD3Transformer2DModel(
        sample_size=SIDE, patch_size=1, in_channels=2 * CHANNELS, out_channels=CHANNELS, num_layers=9,
        attention_head_dim=16, num_attention_heads=4, joint_attention_dim=CHANNELS * PATCH**2 + 2,
        caption_projection_dim=64, pooled_projection_dim=CHANNELS, pos_embed_max_size=SIDE,
    )  # fmt: skip
    axis = torch.linspace(-1, 1, SIDE // PATCH)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)

    def given(model: Any, draw: Draw) -> Tensor:
        reference = draw.condition["reference"]
        tokens = nn.functional.pixel_unshuffle(reference, PATCH).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens, places.expand(len(tokens), -1, -1)], 2)
        pooled = reference.mean((2, 3))
        x = torch.cat([draw.x, reference], 1)
        return model(x, tokens, pooled_projections=pooled, timestep=1000 * draw.tau).sample

    return Network(model, discover_blocks(model), given)


NETWORKS: dict[str, Callable[[], Network]] = {"unet": unet, "mmdit": mmdit}


def made(name: str, weights: Mapping[str, Tensor] | None = None) -> Network:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    if weights is not None:
        network.model.load_state_dict(weights)
    network.model.train()
    return network


# --- arms -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """How an arm trains: options of `attach`, or none of it; adapters at `factor` times the rate."""

    about: str
    options: Callable[[Blocks], dict[str, Any]] | None = None
    lora: bool = False
    factor: float = 10.0

    def begin(self, network: Network, *, rate: float, steps: int, seed: int, probe: Sequence[Draw]) -> tuple[Any, Step]:
        """The optimizer, and the context of step i. All that this runs is charged to the arm."""
        groups = adapted(network, rate, self.factor, seed) if self.lora else [{"params": network.model.parameters()}]
        optimizer = optim.AdamW(groups, lr=rate, weight_decay=1e-2)
        if self.options is None:
            return optimizer, lambda i: nullcontext()
        method = entprog.attach(
            network.model, optimizer, steps=steps, predict=network.predict, probe=probe, blocks=network.blocks,
            cost="flops", seed=seed, **self.options(network.blocks),
        )  # fmt: skip
        return optimizer, method.step


def ordered(order: str, seed: int = 0) -> Callable[[Blocks], dict[str, Any]]:
    options = {"score_options": {"order": order, "seed": seed}} if order != "cei" else {}
    return lambda blocks: {
        "score": "cei" if order == "cei" else "order", "schedule_options": {"stages": STAGES}, **options
    }  # fmt: skip


def last_third(blocks: Blocks) -> dict[str, Any]:
    return {
        "score": "order", "score_options": {"order": "last"}, "inputs_every": 0,
        "schedule": "fixed", "schedule_options": {"m": (len(blocks) // 3,)},
    }  # fmt: skip


ARMS = {
    "full": Arm("everything, AdamW"),
    "cei": Arm("linear in four stages, by CEI", ordered("cei")),
    "random 0": Arm("linear in four stages, a random order", ordered("random", 0)),
    "random 1": Arm("linear in four stages, another random order", ordered("random", 1)),
    "last third": Arm("the last third of the blocks, the backward ending with it", last_third),
    "lora": Arm("LoRA of rank 8 on the blocks, ten times the rate", lora=True),
}


def adapted(network: Network, rate: float, factor: float, seed: int) -> list[dict[str, Any]]:
    """Puts peft's adapters on every linear and convolution layer of the blocks; outside of them everything trains."""
    from peft import LoraConfig, inject_adapter_in_model  # here, as it takes seconds and prints much

    wanted = [
        f"{block.name}.{name}" for block in network.blocks for name, module in block.module.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]  # fmt: skip
    outside = list(outside_parameters(network.model, network.blocks).values())
    torch.manual_seed(seed)
    inject_adapter_in_model(LoraConfig(r=8, lora_alpha=8, target_modules=wanted), network.model)
    for parameter in outside:
        parameter.requires_grad_(True)
    low = [p for name, p in network.model.named_parameters() if ".lora_" in name]
    assert len(low) == 2 * len(wanted), "peft adapted other layers than the blocks'"
    return [{"params": outside, "lr": rate}, {"params": low, "lr": rate * factor}]


# --- the foreign loop -------------------------------------------------------------------------------------------------


def take_step(network: Network, optimizer: Any, step: Step, i: int, draw: Draw) -> None:
    """Somebody's training step: `with step(i)` is its one line about us."""
    with step(i):
        network.loss(draw).backward()
        nn.utils.clip_grad_norm_(network.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def train(network: Network, optimizer: Any, step: Step, steps: int, stream: People, batch: int = BATCH) -> None:
    """Five steps of warm-up, then a cosine to zero, whatever the arm."""
    warm = min(5, steps)
    decay = optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / warm) * (1 + math.cos(math.pi * i / steps)) / 2
    )
    for i in range(steps):
        take_step(network, optimizer, step, i, stream.draw(i * batch, batch))
        decay.step()


@torch.no_grad()
def examined(network: Network, which: str) -> list[float]:
    """The loss of each of 64 samples, one a clip; the same tau and noise for everybody."""
    network.model.eval()
    return [loss for draw in People(which, 90_000).draws(64) for loss in network.losses(draw).tolist()]


def probe(samples: int, subjects: int) -> list[Draw]:
    """Draws of training people, for scores."""
    return People("train", 500, subjects).draws(samples, 8)
