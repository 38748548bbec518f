"""What is planned: a network whose units along the depth repeat, built with as few of them as tell all."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from entprog.codecs.pca import CHANNELS, FACTOR, PatchCodec
from entprog.config.schema import Config
from entprog.core.swap import swapped_forward
from entprog.core.types import Draw, Shape
from entprog.diffusion.objective import Objective
from entprog.nets.dit import SIZES, VideoDiT, build_dit
from entprog.tasks.human_video.task import FAMILIES, HumanVideoTask


@dataclass(frozen=True, slots=True)
class Case:
    """Everything but the active blocks that a step's bytes and operations depend on.

    Attributes:
        shape: of one micro-batch.
        pose: whether the model sees poses.
        temporal_off: whether temporal blocks are left out.
        outside: whether parameters outside the blocks train.
        inputs: whether those of them train that stand before the blocks.
        checkpointing: whether activations are recomputed.
        precision: "no", "bf16" or "fp16", of the forward pass.
        fused: attention as on a GPU, by the fused kernel at every length, and layer norms in float32 under autocast.
        low_rank: rank of adapters that train in place of the own weights of some blocks; 0 for none.
        spared: modules of such blocks that train in full (`method_options.full`).
        new_rest: whether temporal blocks without adapters are new and rest throughout, so that they are left out.
        storage: how weights of frozen blocks' linear layers are held, as `freeze.storage` names it.
        references: different references whose frozen states are known from earlier steps, at most; 0: the whole
            reference pass is run at each step.
        echo: whether what the frozen blocks below the lowest active one make of the batch is known from before.
        averaged: whether averaged weights are kept.
        accumulation: micro-batches of a step.
        in_backward: whether the optimizer steps in the backward pass and frees each gradient there.
    """

    shape: Shape
    pose: bool = True
    temporal_off: bool = False
    outside: bool = True
    inputs: bool = True
    checkpointing: bool = False
    precision: str = "no"
    fused: bool = False
    low_rank: int = 0
    spared: tuple[str, ...] = ()
    new_rest: bool = False
    storage: str = "full"
    references: int = 0
    echo: bool = False
    averaged: bool = False
    accumulation: int = 1
    in_backward: bool = False


class Subject(Protocol):
    """A network by its units: `units[i]` names the blocks of unit i in the whole network, `kinds[i]` its build."""

    name: str
    units: tuple[tuple[str, ...], ...]
    kinds: tuple[str, ...]
    heads: tuple[str, ...]
    """Beginnings of the names of parameters that stand behind all blocks."""
    multiple: int
    """Resolutions must be multiples of this: patch x codec, in pixels."""
    routed: frozenset[str]
    """Blocks that see a share of the tokens only, where the shape says so."""

    def build(self, places: Sequence[int]) -> tuple[nn.Module, list[tuple[str, ...]]]:
        """The network of only these units of the whole (indices, ascending), and the names its blocks have then."""
        ...

    def step(self, model: nn.Module, case: Case) -> Callable[[], Tensor]:
        """Allocates the inputs of a step; the result runs the forward pass and gives the loss."""
        ...

    def frames(self, limit: int) -> list[int]:
        """Numbers of frames that the network takes, up to `limit`."""
        ...

    def family(self, name: str) -> tuple[str, ...]:
        """Blocks of the whole network that a phase with `blocks = name` may train, in their order."""
        ...

    def reference_bytes(self, case: Case, trained: Collection[str]) -> int:
        """Bytes of the states that are known of one reference where these blocks train."""
        ...

    def hidden_bytes(self, case: Case) -> int:
        """Bytes of the hidden states of a micro-batch at one place of the network."""
        ...


class HumanVideoSubject:
    """This package's own task and network."""

    def __init__(self, config: Config, depth: int | None = None) -> None:
        """`depth`: spatial blocks, where they are not as many as the size has."""
        model = config.model
        self.config = config
        self.name: str = model.size
        self.heads: tuple[str, ...] = ("head.", "head_modulation.")
        self.depth = depth or SIZES[model.size]["depth"]
        self.objective, self.codec = Objective(beta_schedule=model.beta_schedule), PatchCodec.default()
        whole = self._dit(self.depth, torch.device("meta"))
        self.temporal = bool(whole.config.temporal_every)
        self.every = whole.config.temporal_every or 1
        self.multiple = whole.config.patch * FACTOR
        count = -(-self.depth // self.every)
        self.units = tuple(
            self._names(range(i * self.every, min(self.depth, (i + 1) * self.every)), i, self.depth)
            for i in range(count)
        )
        self.kinds = tuple(str(len(unit)) if i + 1 < count else "last" for i, unit in enumerate(self.units))
        self.order = tuple(whole.entprog_blocks())
        self.routed = frozenset(f"blocks.{i}" for i in range(*whole.routed_span())) if self.depth > 2 else frozenset()
        self.stack = tuple(
            name for stem in ("reference_blocks", "blocks") for name in self.order
            if name.startswith(f"{stem}.") and (stem == "blocks") == (model.reference == "siamese")
        )[: self.depth - 1]  # fmt: skip

    def _dit(self, depth: int, device: torch.device | None = None) -> VideoDiT:
        model = self.config.model
        with device or torch.device("cpu"):
            built = build_dit(model.size, reference=model.reference, pose=model.pose, depth=depth)
        built.reference_gradient = model.reference_gradient
        return built

    def _names(self, spatial: Sequence[int], temporal: int, depth: int) -> tuple[str, ...]:
        names = [f"blocks.{i}" for i in spatial]
        if self.config.model.reference == "separate":
            names += [f"reference_blocks.{i}" for i in spatial if i < depth - 1]
        if self.temporal and len(spatial) == self.every:
            names.append(f"temporal.{temporal}")
        return tuple(names)

    def build(self, places: Sequence[int]) -> tuple[nn.Module, list[tuple[str, ...]]]:
        """See `Subject.build`."""
        lengths = [min(self.every, self.depth - place * self.every) for place in places]
        depth, start, names = sum(lengths), 0, []
        for k, length in enumerate(lengths):
            names.append(self._names(range(start, start + length), k, depth))
            start += length
        model = self._dit(depth)
        spatial = [place * self.every + i for place, length in zip(places, lengths, strict=True) for i in range(length)]
        inside = [k for k, i in enumerate(spatial) if f"blocks.{i}" in self.routed]
        if inside:  # tokens pass by the same blocks as in the whole network
            model.__dict__["routed_span"] = lambda: (inside[0], inside[-1] + 1)
        return model, names

    def step(self, model: nn.Module, case: Case) -> Callable[[], Tensor]:
        """The task's own loss, on a batch and a draw of zeros in the sizes of the real ones."""
        shape = case.shape
        side = shape.resolution // FACTOR
        assert isinstance(model, VideoDiT)
        model.temporal_off = case.temporal_off
        model.gradient_checkpointing = case.checkpointing
        task = HumanVideoTask(model, self.objective, autocast=case.precision, codec=self.codec)
        clip = (shape.batch, shape.frames, CHANNELS, side, side)
        maps = (shape.batch, shape.frames, 3, shape.resolution, shape.resolution)
        batch = [torch.zeros(clip), torch.zeros(clip[0], *clip[2:]), torch.zeros(maps, dtype=torch.uint8)]
        condition = {"reference": torch.zeros(clip[0], *clip[2:])}
        if case.pose:
            condition["pose"] = torch.zeros(maps)
        places = hidden = None
        if shape.tokens < 1:
            tokens = (side // model.config.patch) ** 2
            places = torch.zeros(shape.batch, max(1, round(shape.tokens * tokens)), dtype=torch.long)
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(case.precision, torch.float32)
        if case.echo and model.lowest_active():
            tokens = (side // model.config.patch) ** 2
            hidden = torch.zeros(shape.batch, shape.frames, tokens, model.config.width, dtype=kind)
        draw = Draw(torch.zeros(clip), torch.zeros(shape.batch), torch.zeros(clip), condition, places, hidden)
        if case.references:
            task.reference_cache = _Known(_recalled(model, condition["reference"], kind))  # type: ignore[assignment]
        return partial(_loss, task, draw, batch)

    def frames(self, limit: int) -> list[int]:
        """See `Subject.frames`."""
        return list(range(1, limit + 1))

    def family(self, name: str) -> tuple[str, ...]:
        """See `Subject.family`."""
        return tuple(block for block in self.order if FAMILIES[name](block))

    def reference_bytes(self, case: Case, trained: Collection[str]) -> int:
        """See `Subject.reference_bytes`: one state before each block up to the lowest that trains."""
        frozen = len(list(takewhile(lambda name: name not in set(trained), self.stack)))
        tokens = (case.shape.resolution // self.multiple) ** 2
        return (1 + frozen) * tokens * SIZES[self.config.model.size]["width"] * (4 if case.precision == "no" else 2)

    def hidden_bytes(self, case: Case) -> int:
        """See `Subject.hidden_bytes`."""
        model = self._dit(self.depth, torch.device("meta"))
        return HumanVideoTask(model, self.objective, autocast=case.precision, codec=self.codec).hidden_bytes(case.shape)


def _loss(task: HumanVideoTask, draw: Draw, batch: list[Tensor]) -> Tensor:
    """The loss; the loop holds on to the batch meanwhile, as the caller does here."""
    return task.loss(draw)


class _Known:
    """Gives the states of the references in the place of a cache that has them all; once, as that does."""

    def __init__(self, states: list[Tensor]) -> None:
        self.ready: list[Tensor] | None = states

    def states(self, reference: Tensor, *, last: bool = True) -> list[Tensor] | None:
        known, self.ready = self.ready, None
        return known


@torch.no_grad()
def _recalled(model: VideoDiT, reference: Tensor, kind: torch.dtype) -> list[Tensor]:
    """As many states [B, M, D] as are frozen, each copied in its block's place as a cache copies what it knows."""
    side = reference.shape[-1] // model.config.patch
    states = [torch.zeros(len(reference), side * side, model.config.width, dtype=kind)]
    for block in model.reference_stack():
        if any(parameter.requires_grad for parameter in block.parameters()):
            break
        with swapped_forward(block, torch.clone):
            states.append(block(states[-1]))
    return states


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
    """A frozen linear layer and a trained product of two thin matrices beside it, operation by operation as peft's."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        about: Mapping[str, Any] = {"bias": False, "device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_down = nn.Linear(base.in_features, rank, **about)
        self.lora_up = nn.Linear(rank, base.out_features, **about)

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        x = x.to(self.lora_down.weight.dtype)
        return out + self.lora_up(self.lora_down(x)) * 2.0
