"""What `entprog plan` simulates of the human video task: its network, built with as few units as tell all."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor, nn

from entprog.codecs.pca import CHANNELS, FACTOR, PatchCodec
from entprog.config.schema import Config
from entprog.core.swap import swapped_forward
from entprog.core.types import Draw, Shape
from entprog.diffusion.objective import Objective
from entprog.nets.dit import SIZES, VideoDiT, build_dit
from entprog.profiling.subject import Case
from entprog.tasks.human_video.build import new_modules, new_temporal
from entprog.tasks.human_video.task import FAMILIES, HumanVideoTask


class HumanVideoSubject:
    """The network of the human video task as a `Subject`: one temporal block with its spatial ones is a unit."""

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

    def step(self, model: nn.Module, case: Case) -> Callable[[], Callable[[], Tensor]]:
        """The task's own loss, on a batch and a draw of zeros in the sizes of the real ones."""
        return partial(self._begun, model, case)

    def _begun(self, model: nn.Module, case: Case) -> Callable[[], Tensor]:
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

    def check(self, shape: Shape) -> None:
        """See `Subject.check`."""
        if shape.resolution % self.multiple:
            raise ValueError(
                f"resolution = {shape.resolution}: no multiple of {self.multiple} pixels (patch x codec of "
                f"{self.name}); choose {max(1, round(shape.resolution / self.multiple)) * self.multiple}"
            )

    def frames(self, shape: Shape, limit: int) -> list[int]:
        """See `Subject.frames`."""
        return list(range(1, limit + 1))

    def resolutions(self, shape: Shape, limit: int) -> list[Shape]:
        """See `Subject.resolutions`."""
        return [replace(shape, resolution=side) for side in range(self.multiple, limit + 1, self.multiple)]

    def new_modules(self) -> tuple[str, ...]:
        """See `Subject.new_modules`."""
        return new_modules(self.config.model)

    def family(self, name: str) -> tuple[str, ...]:
        """See `Subject.family`."""
        return tuple(block for block in self.order if FAMILIES[name](block))

    def references(self, drawn: int) -> int:
        """See `Subject.references`; of a prepared data set, which need not be there yet, each sample may be another."""
        if self.config.model.reference == "none":
            return 0
        data = self.config.data
        return drawn if data.path else min(drawn, data.subjects * data.clips_per_subject * data.frames + 1)

    def new_rests(self) -> bool:
        """See `Subject.new_rests`: temporal blocks may be new."""
        return new_temporal(self.config.model)

    def leave_out(self, model: nn.Module, names: Collection[str]) -> None:
        """See `Subject.leave_out`."""
        model.__dict__["idle"] = frozenset(int(name.split(".")[1]) for name in names if name.startswith("temporal."))

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
