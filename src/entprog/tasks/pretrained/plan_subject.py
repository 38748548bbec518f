"""What `entprog plan` simulates of a pretrained model: its network by config.json, with as few blocks as tell all.

Shape legend: B samples, T latent frames, C latent channels, h w latent height and width.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from entprog.config.load import ConfigError
from entprog.config.schema import Config
from entprog.core.blocks import discover_blocks
from entprog.core.types import Draw, Shape
from entprog.profiling.subject import Case
from entprog.tasks.pretrained import build, model_checks
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.families.base import Latent
from entprog.tasks.pretrained.folder import ModelFolder, planned_configs
from entprog.tasks.pretrained.prefix import Prefix
from entprog.tasks.pretrained.sizes import compression, frames_problem, size_problem
from entprog.tasks.pretrained.task import CONTROL, FRAME, POSE, PretrainedTask

LENGTHS = {"single_transformer_blocks": "num_single_layers"}
"""Lists of blocks -> the key of config.json with their length, where it is not "num_layers"."""


class PretrainedSubject:
    """A pretrained network as a `Subject`: each block is a unit; blocks of one list with equal parameters are alike.

    Networks whose blocks read more than the output of the one before (U-Nets, side paths) are simulated whole: no two
    of their units count as alike.
    """

    def __init__(self, config: Config, depth: int | None = None) -> None:
        """`depth`: `num_layers`, where it is not as in config.json.

        Raises:
            ValueError: no such model, or it does not take the settings of [model].
        """
        model = config.model
        self.config = config
        self.configs, source = planned_configs(model.pretrained, revision=model.revision, component=model.component)
        if depth is not None:
            self.configs = replace(self.configs, network={**self.configs.network, "num_layers": depth})
        self.calls = family_of(self.configs, model.family)
        wrong = list(model_checks.of_model(self.configs, self.calls, model))
        if not wrong and (why := model_checks.of_guidance(self.calls, model, config.sample.guided_by)):
            wrong.append(f'sample.guided_by = "{config.sample.guided_by}": {why}')
        if wrong:
            raise ConfigError(wrong)
        self.objective = build.objective_of(self.calls, model)
        self.compression = compression(self.configs.codec)
        self.name = f"{model.pretrained} (by {source})"
        self.heads: tuple[str, ...] = self.calls.head
        self.routed: frozenset[str] = frozenset()
        with FakeTensorMode():
            network = self._network()
            adapters = build.ready(network, self.calls, model)
            blocks = discover_blocks(network)
            self.names = blocks.names
            like = {block.name: _signature(block.module) for block in blocks}
        self.new = build.new_modules(adapters, model)
        self.units: tuple[tuple[str, ...], ...] = tuple((name,) for name in self.names)
        self.stems = tuple(name.rpartition(".")[0] for name in self.names)
        self.whole = not self.calls.single_stack
        if self.whole:
            self.kinds: tuple[str, ...] = self.names
        else:
            kinds = {signature: str(i) for i, signature in enumerate(dict.fromkeys(like.values()))}
            self.kinds = tuple(f"{stem} {kinds[like[name]]}" for stem, name in zip(self.stems, self.names, strict=True))
        self.lengths = self._lengths()

    def _network(self, **changes: int) -> nn.Module:
        import diffusers

        found = getattr(diffusers, str(self.configs.network["_class_name"]))
        try:
            network: nn.Module = found.from_config({**self.configs.network, **changes})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                [f"model.pretrained = {self.config.model.pretrained!r}: {self.configs.component}/config.json: {error}"]
            ) from error
        return network

    def _lengths(self) -> dict[str, str]:
        """Keys of config.json that shorten each list of blocks; empty where blocks of a list differ."""
        counts = Counter(self.stems)
        keys = {stem: LENGTHS.get(stem, "num_layers") for stem in counts}
        fits = all(self.configs.network.get(key) == counts[stem] for stem, key in keys.items())
        return keys if fits and len(set(self.kinds)) == len(counts) else {}

    def build(self, places: Sequence[int]) -> tuple[nn.Module, list[tuple[str, ...]]]:
        """See `Subject.build`."""
        network = self._short(places) if len(places) < len(self.names) else self._network()
        build.ready(network, self.calls, self.config.model)
        if len(places) == len(self.names):
            return network, list(self.units)
        seen: Counter[str] = Counter()
        names: list[tuple[str, ...]] = []
        for stem in (self.stems[place] for place in places):
            names.append((f"{stem}.{seen[stem]}",))
            seen[stem] += 1
        return network, names

    def _short(self, places: Sequence[int]) -> nn.Module:
        """The network with the blocks of these places only: built so, or the others taken out of their lists."""
        kept: dict[str, list[int]] = {stem: [] for stem in dict.fromkeys(self.stems)}
        for place in places:
            kept[self.stems[place]].append(int(self.names[place].rpartition(".")[2]))
        if self.lengths:
            wanted = {self.lengths[stem]: len(numbers) for stem, numbers in kept.items()}
            network = self._network(**wanted)
            if all(_length(network, stem) == len(numbers) for stem, numbers in kept.items()):
                return network
        network = self._network()
        for stem, numbers in kept.items():
            above, _, name = stem.rpartition(".")
            blocks: Any = network.get_submodule(stem)
            setattr(network.get_submodule(above), name, nn.ModuleList([blocks[i] for i in numbers]))
        return network

    def step(self, model: nn.Module, case: Case) -> Callable[[], Callable[[], Tensor]]:
        """The task's own loss, on a draw of zeros in the sizes of a real one."""
        task, hidden = self._task(model, case), None
        if case.echo:
            known = task.prefix(self._draw(case)).hidden
            hidden = None if known is None else (known.shape, known.dtype)
        return partial(self._begun, task, case, hidden)

    def _begun(
        self, task: PretrainedTask, case: Case, hidden: tuple[torch.Size, torch.dtype] | None
    ) -> Callable[[], Tensor]:
        task.recompute(case.checkpointing)
        draw = self._draw(case)
        if hidden is not None:
            draw = replace(draw, hidden=torch.zeros(hidden[0], dtype=hidden[1]))
        return partial(task.loss, draw)

    def _task(self, model: nn.Module, case: Case) -> PretrainedTask:
        """The task around a simulated network; it has no data."""
        folder = ModelFolder(self.config.model.pretrained, Path(), self.configs)
        return PretrainedTask(model, self.calls, folder, self.config, self.objective, autocast=case.precision)

    def _latent(self, shape: Shape) -> tuple[Latent, Latent]:
        """The sizes of what is denoised, and of what the network gets."""
        settings, size = self.config.model, self.compression.latent(self.calls.channels, shape.sides, shape.frames)
        led = replace(size, frames=size.frames + self.calls.leading(reference=settings.reference))
        return led, replace(led, frames=led.frames + 1) if settings.reference == "frame" else led

    def _draw(self, case: Case) -> Draw:
        """A draw of zeros as `PretrainedTask.draw` makes it."""
        settings, (led, whole), batch = self.config.model, self._latent(case.shape), case.shape.batch
        condition = {
            each.name: torch.zeros(batch, *each.shape, dtype=torch.long if each.integer else torch.float32)
            for each in self.calls.conditions(whole, pose=settings.pose, reference=settings.reference)
        }
        clip = (batch, led.frames - self.calls.leading(reference=settings.reference), *led.shape[1:])
        if settings.pose == "blocks":
            _, rows, columns = self.calls.tokens(led)
            condition[POSE] = torch.zeros(batch, case.shape.frames, 3, 8 * rows, 8 * columns, dtype=torch.uint8)
        if settings.pose == "input":
            condition[CONTROL] = torch.zeros(clip)
        if settings.reference == "frame":
            condition[FRAME] = torch.zeros(batch, 1, *clip[2:])
        x = torch.zeros(batch, *led.shape)
        return Draw(x, torch.zeros(batch), torch.zeros_like(x), condition)

    def check(self, shape: Shape) -> None:
        """See `Subject.check`."""
        if why := frames_problem(shape.frames, self.compression.frames):
            raise ValueError(f"frames = {shape.frames}: {why}")
        if why := size_problem(self.calls, shape.sides, self._latent(shape)[1], self.compression.factor):
            raise ValueError(f"resolution = {shape.size}: {why}")

    def _takes(self, shape: Shape) -> bool:
        try:
            self.check(shape)
        except ValueError:
            return False
        return True

    def frames(self, shape: Shape, limit: int) -> list[int]:
        """See `Subject.frames`."""
        counts = range(1, limit + 1, self.compression.frames)
        return [count for count in counts if self._takes(replace(shape, frames=count))]

    def resolutions(self, shape: Shape, limit: int) -> list[Shape]:
        """See `Subject.resolutions`; rectangles keep their proportion, to the nearest multiple."""
        (height, width), (_, rows, columns) = shape.sides, self.calls.patch
        step, across = self.compression.factor * rows, self.compression.factor * columns
        found = []
        for side in range(step, max(step, limit * height // min(height, width)) + 1, step):
            other = max(1, round(side * width / height / across)) * across
            sized = Shape.of((side, other if width != height else side), shape.frames, shape.batch)
            found += [sized] if self._takes(sized) else []
        return found

    def family(self, name: str) -> tuple[str, ...]:
        """See `Subject.family`: all blocks, in order of execution.

        Raises:
            ValueError: only some are asked for.
        """
        if name != "all":
            raise ValueError(f"phases: blocks = {name!r}: a pretrained model has one kind of blocks; set 'all'")
        return self.names

    def new_modules(self) -> tuple[str, ...]:
        """See `Subject.new_modules`: the pose adapters."""
        return self.new

    def references(self, drawn: int) -> int:
        """None: there is no reference pass."""
        return 0

    def new_rests(self) -> bool:
        """None is: all blocks have trained."""
        return False

    def leave_out(self, model: nn.Module, names: Collection[str]) -> None:
        """None is."""

    def reference_bytes(self, case: Case, trained: Collection[str]) -> int:
        """None: there is no reference pass."""
        return 0

    def hidden_bytes(self, case: Case) -> int:
        """See `Subject.hidden_bytes`: of what the first block returns."""
        if self.whole:
            return 0
        firsts = {self.stems.index(stem) for stem in self.stems}
        with FakeTensorMode(), torch.no_grad():
            model, _ = self.build(sorted({*firsts, len(self.names) - 1}))
            task, draw = self._task(model, case), self._draw(case)
            hidden = Prefix().output(discover_blocks(model), 1, lambda: task.predict(draw))
        return 0 if hidden is None else hidden.nbytes


def _signature(block: nn.Module) -> tuple[Any, ...]:
    return type(block), *((name, tuple(p.shape)) for name, p in block.named_parameters())


def _length(network: nn.Module, stem: str) -> int:
    blocks: Any = network.get_submodule(stem)
    return len(blocks)
