"""FLOPs of one training step of the video transformer, product by product, without running it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from entprog.nets.conditioning import POSE_WIDTH
from entprog.nets.dit import DiTConfig
from entprog.profiling.operations import Flops

OUTSIDE = ("patch_embed", "pose_embed", "tau_embed", "head_modulation", "head")
"""Modules of the transformer that belong to no block."""

Attention = Literal["cpu", "math", "flash"]

WRITTEN_OUT = 512
"""Largest number of keys whose attention is written out as two products on a CPU (`nets.layers.attend`)."""

FREQUENCIES = 256


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a step's input: latents [batch, frames, channels, height, width]."""

    batch: int
    frames: int
    height: int
    width: int


def step_flops(
    config: DiTConfig,
    sizes: Sizes,
    active: Collection[str] | None = None,
    *,
    outside: bool | Collection[str] = True,
    reference: Literal["run", "given", "none"] = "run",
    reference_gradient: bool = True,
    temporal_off: bool = False,
    pose: bool = True,
    checkpointing: bool | Collection[str] = False,
    attention: Attention = "cpu",
    routed: int | None = None,
) -> Flops:
    """FLOPs of one forward and backward pass of `nets.dit.VideoDiT`; equals `profiling.meter.Meter` exactly.

    The equation. Each product of an [m, k] by a [k, n] matrix costs P = 2 m k n in the forward pass, and in the
    backward pass P for its left factor and P for its right one, each only if that factor needs a gradient:

        forward   = sum of P
        backward  = sum of P ([left needs a gradient] + [right needs a gradient])
        recompute = sum of the forward P of each checkpointed block call whose output needs a gradient

    A weight needs a gradient where its block, or its module outside the blocks, trains. Any other tensor does
    where something that it was computed from does. So everything below the lowest trained position costs its
    forward only; the first projections of the lowest active block (queries, keys and values, the reference's
    keys and values, adaLN modulation) compute a gradient of their weights, but none of their inputs. One
    parameter that trains at the input or in tau's embedding makes every product above it cost its input's
    gradient too. The two products of an attention written out are ordinary products, so their backward
    costs at most 2x; fused (flash) attention recomputes the scores, and all four gradients if any is needed:
    5/2 of its forward.

    The optimizer's step has no products.

    Args:
        active: names of the blocks that train ("blocks.3", "temporal.0", "reference_blocks.1"); None for all.
        outside: whether the modules outside the blocks train, or the names of those that do (of `OUTSIDE`).
        reference: "run" the reference pass, "given" as `reference_states` that need no gradient, or "none".
        reference_gradient: the model's switch of that name: whether the backward goes through the reference
            pass.
        temporal_off: the model's switch of that name.
        pose: whether pose maps are shown; `config.pose` says where they enter.
        checkpointing: whether every block call is checkpointed, or the names of the blocks that are.
        attention: "math" for two products, "flash" for the fused kernel, "cpu" for the model's choice on a CPU:
            written out over at most 512 keys, fused beyond.
        routed: tokens of a frame that the middle blocks see; None for all.

    Raises:
        ValueError: an unknown block, or an unknown module outside the blocks.
    """
    counter = _Counter(config, sizes, active, outside, checkpointing, attention)
    return counter.step(reference, reference_gradient, not temporal_off, pose, routed)


def block_names(config: DiTConfig) -> list[str]:
    """Names of all blocks in the order of execution, as the model declares them."""
    names = [f"reference_blocks.{i}" for i in range(config.depth - 1 if config.reference == "separate" else 0)]
    for i in range(config.depth):
        names.append(f"blocks.{i}")
        if config.temporal_every and (i + 1) % config.temporal_every == 0:
            names.append(f"temporal.{(i + 1) // config.temporal_every - 1}")
    return names


class _Counter:
    """Walks through the forward pass as the model does, and tracks for every tensor whether it needs a gradient."""

    def __init__(
        self,
        config: DiTConfig,
        sizes: Sizes,
        active: Collection[str] | None,
        outside: bool | Collection[str],
        checkpointing: bool | Collection[str],
        attention: Attention,
    ) -> None:
        names = block_names(config)
        self.config, self.sizes, self.attention = config, sizes, attention
        self.active = frozenset(names if active is None else active)
        self.outside = _chosen(outside, OUTSIDE)
        self.checkpointed = _chosen(checkpointing, names)
        if unknown := sorted((self.active | self.checkpointed) - set(names)):
            raise ValueError(f"active or checkpointing = {unknown}: no blocks of this model; they are {names}")
        if unknown := sorted(self.outside - set(OUTSIDE)):
            raise ValueError(f"outside = {unknown}: choose from {', '.join(OUTSIDE)}")
        rows, columns = sizes.height // config.patch, sizes.width // config.patch
        if sizes.height % config.patch or sizes.width % config.patch:
            raise ValueError(
                f"latent size {sizes.height}x{sizes.width}: must be a multiple of the patch, {config.patch}"
            )
        self.tokens = self.seen = rows * columns
        self.forward = self.backward = self.recompute = 0
        self.recording = True

    def step(self, reference: str, reference_gradient: bool, temporal: bool, pose: bool, routed: int | None) -> Flops:
        config, sizes = self.config, self.sizes
        width, patch = config.width, config.channels * config.patch**2
        positions = sizes.batch * sizes.frames * self.tokens
        h = self.linear(positions, patch, width, False, "patch_embed" in self.outside)
        pose = pose and config.pose != "none"
        if pose:
            h |= self.linear(positions, POSE_WIDTH, width, False, "pose_embed" in self.outside)
        c = self.condition()
        states: list[bool] | None = None
        if reference == "run" and config.reference != "none":
            states = self.reference_pass(reference_gradient)
        elif reference == "given":
            states = [False] * config.depth
        clean = self.condition() if states else False
        adapters = pose and config.pose == "blocks"
        edge = 2 if config.depth >= 8 else 1
        for i in range(config.depth):
            self.seen = routed if routed is not None and edge <= i < config.depth - edge else self.tokens
            h = self.block(f"blocks.{i}", sizes.frames, h, c, states[i] if states else None, clean, adapters)
            every = config.temporal_every
            if every and (i + 1) % every == 0 and sizes.frames > 1 and temporal:
                h = self.temporal_block(f"temporal.{(i + 1) // every - 1}", h, c)
        self.seen = self.tokens
        modulation = self.linear(sizes.batch, width, 2 * width, c, "head_modulation" in self.outside)
        self.linear(positions, width, patch, h or modulation, "head" in self.outside)
        return Flops(self.forward, self.backward, self.recompute)

    def condition(self) -> bool:
        """The embedding of tau; whether its output needs a gradient."""
        trains, width = "tau_embed" in self.outside, self.config.width
        first = self.linear(self.sizes.batch, FREQUENCIES, width, False, trains)
        return self.linear(self.sizes.batch, width, width, first, trains)

    def reference_pass(self, gradient: bool) -> list[bool]:
        """The hidden states at the entrance of each spatial block; whether each needs a gradient."""
        config = self.config
        stack = "reference_blocks" if config.reference == "separate" else "blocks"
        c = self.condition()
        self.recording = gradient
        rows = self.sizes.batch * self.tokens
        h = self.linear(rows, config.channels * config.patch**2, config.width, False, "patch_embed" in self.outside)
        states = [h]
        for i in range(config.depth - 1):
            h = self.block(f"{stack}.{i}", 1, h, c, None, False, False)
            states.append(h)
        self.recording = True
        return states

    def block(self, name: str, frames: int, x: bool, c: bool, state: bool | None, clean: bool, adapter: bool) -> bool:
        """A spatial block; `state` is None in a reference pass or without a reference."""
        before, trains, width = self.forward, name in self.active, self.config.width
        samples, tokens = self.sizes.batch, self.seen
        positions, keys = samples * frames * tokens, tokens
        if adapter:
            x |= self.linear(positions, POSE_WIDTH, width, False, trains)
        modulation = self.linear(samples, width, 6 * width, c, trains)
        query = self.linear(positions, width, 3 * width, x or modulation, trains)
        key = query
        if state is not None:
            shift = self.linear(samples, width, 6 * width, clean, trains)
            key |= self.linear(samples * self.tokens, width, 3 * width, state or shift, trains)
            keys += self.tokens
        mixed = self.attend(samples * frames, tokens, keys, query, key)
        return self.tail(name, before, positions, 4.0, x, modulation, mixed)

    def temporal_block(self, name: str, x: bool, c: bool) -> bool:
        before, trains, width = self.forward, name in self.active, self.config.width
        samples, frames = self.sizes.batch, self.sizes.frames
        positions = samples * frames * self.seen
        modulation = self.linear(samples, width, 4 * width, c, trains)
        query = self.linear(positions, width, 3 * width, x or modulation, trains)
        mixed = self.attend(samples * self.seen, frames, frames, query, query)
        return self.tail(name, before, positions, 2.0, x, modulation, mixed)

    def tail(
        self, name: str, before: int, positions: int, ratio: float, x: bool, modulation: bool, mixed: bool
    ) -> bool:
        """Output projection and MLP; counts the block's recomputation, which stops after its last product."""
        trains, width = name in self.active, self.config.width
        hidden = int(width * ratio)
        projected = self.linear(positions, width, width, mixed, trains)
        x = x or modulation or projected
        up = self.linear(positions, width, hidden, x, trains)
        x |= self.linear(positions, hidden, width, up, trains)
        if x and self.recording and name in self.checkpointed:
            self.recompute += self.forward - before
        return x

    def attend(self, groups: int, queries: int, keys: int, query: bool, key: bool) -> bool:
        """Attention of `groups` sequences over all heads; `key` says whether keys and values need a gradient."""
        product = 2 * groups * queries * keys * self.config.width
        needs = self.recording and (query or key)
        fused = self.attention == "flash" or (self.attention == "cpu" and keys > WRITTEN_OUT)
        self.forward += 2 * product
        if needs and fused:
            self.backward += 5 * product
        elif needs:
            self.backward += product * (query + key)  # scores: queries, keys
            self.backward += product * (1 + key)  # mixing: weights, values
        return needs

    def linear(self, rows: int, inputs: int, outputs: int, x: bool, weight: bool) -> bool:
        """A linear layer; whether its output needs a gradient."""
        product = 2 * rows * inputs * outputs
        self.forward += product
        if self.recording:
            self.backward += product * (x + weight)
        return self.recording and (x or weight)


def _chosen(which: bool | Collection[str], names: Collection[str]) -> frozenset[str]:
    return frozenset((names if which else ()) if isinstance(which, bool) else which)
