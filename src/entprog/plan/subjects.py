"""What is planned: a network whose units along the depth repeat, built with as few of them as tell all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from entprog.config import Config
from entprog.core.types import Draw, Shape
from entprog.diffusion.objective import Noising
from entprog.nets.codec import CHANNELS, FACTOR
from entprog.nets.dit import SIZES, VideoDiT, build_dit
from entprog.tasks.human_video import FAMILIES, HumanVideo


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
        low_rank: rank of adapters that train in place of the blocks' own weights; 0 for none.
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


class HumanVideoSubject:
    """This package's own task and network."""

    def __init__(self, config: Config, depth: int | None = None) -> None:
        """`depth`: spatial blocks, where they are not as many as the size has."""
        model = config.model
        self.config = config
        self.name: str = model.size
        self.heads: tuple[str, ...] = ("head.", "head_modulation.")
        self.depth = depth or SIZES[model.size]["depth"]
        self.noising = Noising(model.beta_schedule)
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
        return self._dit(depth), names

    def step(self, model: nn.Module, case: Case) -> Callable[[], Tensor]:
        """The task's own loss, on a batch and a draw of zeros in the sizes of the real ones."""
        shape = case.shape
        side = shape.resolution // FACTOR
        assert isinstance(model, VideoDiT)
        model.temporal_off = case.temporal_off
        model.gradient_checkpointing = case.checkpointing
        task = HumanVideo(model, self.noising, autocast=case.precision)
        clip = (shape.batch, shape.frames, CHANNELS, side, side)
        maps = (shape.batch, shape.frames, 3, shape.resolution, shape.resolution)
        batch = [torch.zeros(clip), torch.zeros(clip[0], *clip[2:]), torch.zeros(maps, dtype=torch.uint8)]
        condition = {"reference": torch.zeros(clip[0], *clip[2:])}
        if case.pose:
            condition["pose"] = torch.zeros(maps)
        draw = Draw(torch.zeros(clip), torch.zeros(shape.batch), torch.zeros(clip), condition)
        return partial(_loss, task, draw, batch)

    def frames(self, limit: int) -> list[int]:
        """See `Subject.frames`."""
        return list(range(1, limit + 1))

    def family(self, name: str) -> tuple[str, ...]:
        """See `Subject.family`."""
        return tuple(block for block in self.order if FAMILIES[name](block))


def _loss(task: HumanVideo, draw: Draw, batch: list[Tensor]) -> Tensor:
    """The loss; the loop holds on to the batch meanwhile, as the caller does here."""
    return task.loss(draw)


def low_rank_added(model: nn.Module, blocks: Sequence[str], rank: int) -> None:
    """Put adapters of rank `rank` beside every linear layer of the blocks; their own weights freeze."""
    for name in blocks:
        block = model.get_submodule(name)
        block.requires_grad_(False)
        layers = [(path, layer) for path, layer in block.named_modules() if isinstance(layer, nn.Linear)]
        for path, layer in layers:
            above, _, last = path.rpartition(".")
            setattr(block.get_submodule(above), last, _LowRank(layer, rank))


class _LowRank(nn.Module):
    """A frozen linear layer and a trained product of two thin matrices beside it."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        about: Mapping[str, Any] = {"bias": False, "device": base.weight.device, "dtype": base.weight.dtype}
        self.down = nn.Linear(base.in_features, rank, **about)
        self.up = nn.Linear(rank, base.out_features, **about)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))
