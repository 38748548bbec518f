"""The Task contract: what is trained, on which data, and how it is evaluated. Others import nothing else of a task.

Shape legend: B samples, F frames, H W height and width in pixels.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from entprog.codecs.base import Codec
from entprog.config.checks import Finding
from entprog.config.schema import Config, EvaluateConfig, PhaseConfig, SampleConfig, TrainConfig
from entprog.core.blocks import Blocks, discover_blocks
from entprog.core.types import Draw, Shape
from entprog.diffusion.windows import Window
from entprog.files import save_weights
from entprog.profiling.device import pick_device, pick_precision
from entprog.profiling.subject import Subject
from entprog.savings.recompute import recomputed
from entprog.tasks.animator import Animator

__all__ = ["CacheOptions", "HeldOutClip", "Positions", "Samples", "Task", "TaskPlugin", "fixed_draws"]


class Batch(Protocol):
    """Clean training samples; further fields are shared only by a task's `samples` and its `draw`."""

    @property
    def positions(self) -> np.ndarray:
        """[B] position of each sample in the run's data stream; everything random about a sample follows from it."""
        ...


class Samples(Protocol):
    """One split of the data as an endless, seekable stream of samples."""

    def __len__(self) -> int:
        """Different samples of the split."""
        ...

    def batch(self, position: int, shape: Shape) -> Batch:
        """The `shape.batch` samples from `position` on; a pure function."""
        ...


@dataclass(frozen=True, slots=True)
class Positions:
    """Samples of a task without files: `draw` makes them from (seed, position)."""

    positions: np.ndarray = field(default_factory=lambda: np.arange(0))

    def __len__(self) -> int:
        return 2**31

    def batch(self, position: int, shape: Shape) -> "Positions":
        """The positions only."""
        return Positions(np.arange(position, position + shape.batch))


@dataclass(frozen=True, slots=True)
class HeldOutClip:
    """A held-out clip with the conditions to generate it; everything on the CPU.

    Attributes:
        clip, subject: names as in the data set's index.
        truth: [F, 3, H, W] in 0..1.
        reference: [3, H, W] in 0..1, the model's reference image.
        keypoints: [F, 18, 3], the driving poses: x, y in 0..1 and a confidence.
        fps: frames a second.
        conditions: what the task's `generate` takes for this clip.
        key: fixes the noise of its generation.
        shown: where the reference image is from, as the protocol says it.
        unjudged: frames of the clip that the reference shows; they are not compared.
    """

    clip: str
    subject: str
    truth: Tensor
    reference: Tensor
    keypoints: np.ndarray
    fps: float
    conditions: Mapping[str, Tensor]
    key: int
    shown: str = ""
    unjudged: tuple[int, ...] = ()


@dataclass(frozen=True)
class CacheOptions:
    """How a task caches the output of its frozen parts.

    Attributes:
        train: the `train.reference_cache*` keys.
        folder: for the cache on disk.
        warn: called with one message when caching stops after an error; training goes on with the same numbers.
        computing: a context around each computation for the cache, by its form: equal forms cost the same.
    """

    train: TrainConfig
    folder: Path
    warn: Callable[[str], None]
    computing: Callable[[Hashable], AbstractContextManager[None]]


class TaskPlugin(ABC):
    """Plugin kind "task": its fields are the options of `task_options`, `build` returns the task of a run.

    Attributes:
        weights_file: name of the file in a run's final/ that `build` takes as `weights`.
    """

    weights_file: ClassVar[str] = "model.safetensors"

    @classmethod
    def defaults(cls, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values of keys where a recipe of this task says nothing, tables nested; "phases.*": of each phase."""
        return {}

    @classmethod
    def problems(cls, config: Config) -> Iterable[Finding]:
        """Errors in a configuration of this task, found before anything is built."""
        return ()

    @classmethod
    def missing(cls, config: Config) -> Iterable[Finding]:
        """Missing files that a run needs, but a plan does not."""
        return ()

    @classmethod
    def without_effect(cls, config: Config, given: set[str]) -> Iterable[Finding]:
        """Keys of the task's own tables without effect; `given` holds the dotted keys that the user wrote."""
        return ()

    @classmethod
    def plan_subject(cls, config: Config, depth: int | None = None) -> Subject:
        """The network as `entprog plan` takes it.

        Raises:
            ValueError: this task can't be planned.
        """
        raise ValueError(f"task = {config.task!r}: can't be planned, as the task has no plan_subject")

    @abstractmethod
    def build(self, config: Config, weights: str = "") -> "Task":
        """The task on its device.

        Args:
            weights: a safetensors file of trained weights; empty for the configuration's starting weights.
        """


class Task(TaskPlugin):
    """A model, its data, its objective and its conditions.

    A task of your own defines `setup`, `draw` and `predict`; everything else has a default. `task = "package.module:
    Class"` then trains it: ranking, search, savings, resume, evaluation and report use this contract only.

    Attributes:
        model: the network.
        autocast: dtype of the forward pass ("bf16", "fp16") or "no"; see `precision`.
        generates: whether the task makes clips (`held_out`, `generate`); otherwise it is evaluated by its loss.
        bands: whether `draw` follows `shape.band`, so that methods may choose blocks by noise level.
        codec: the latent space of its clips; None without one.
        sizes: resolutions that the data is stored in, if it is stored.
    """

    model: nn.Module
    autocast: str = "no"
    generates: ClassVar[bool] = False
    bands: ClassVar[bool] = False
    codec: Codec | None = None
    sizes: Sequence[int] = ()

    # Building and saving

    def build(self, config: Config, weights: str = "") -> "Task":
        """See `TaskPlugin.build`: seeds torch, calls `setup`, moves the model and loads `weights`."""
        device = pick_device(config.device)
        torch.manual_seed(config.train.seed)
        self.autocast = pick_precision(config.train.mixed_precision, device)
        self.setup(config)
        self.model.to(device)
        if weights:
            self.model.load_state_dict(load_file(weights))
        return self

    def setup(self, config: Config) -> None:
        """Make `self.model` (and whatever `draw` and `predict` need) from a configuration."""
        raise ValueError(f"{type(self).__name__}: define setup(config), which makes self.model")

    def check(self, config: Config) -> None:
        """Refuse, before any work, phases that the data does not suffice for.

        Raises:
            ValueError: naming the key and the remedy.
        """

    def save(self, folder: Path) -> None:
        """Write the files that users load elsewhere, model.safetensors among them."""
        save_weights(dict(self.model.state_dict()), folder / "model.safetensors")

    def with_model(self, model: nn.Module) -> Self:
        """This task around another network of the same structure, without caches: for simulated steps."""
        other = copy.copy(self)
        other.model = model
        other.__dict__.pop("_recomputing", None)  # of the blocks of the other network
        return other

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    def precision(self) -> Any:
        """The autocast context of a forward pass."""
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        return torch.autocast(self.device.type, kinds.get(self.autocast), enabled=self.autocast in kinds)

    # A phase

    def blocks(self, phase: PhaseConfig, patterns: Sequence[str] = ()) -> Blocks:
        """The blocks that a phase may train, in execution order.

        Args:
            patterns: `ranking.pattern`; empty for the model's own declaration, or automatic discovery.

        Raises:
            ValueError: no block is left.
        """
        found = discover_blocks(self.model, list(patterns) or None)
        chosen = [block for block in found if self.in_phase(block.name, phase)]
        if not chosen:
            raise ValueError(
                f"phases: blocks = {phase.blocks!r} leaves none of {len(found)} blocks; check ranking.pattern"
            )
        return Blocks(chosen, role=found.role)

    def in_phase(self, block: str, phase: PhaseConfig) -> bool:
        """Whether a phase may train a block; by default all of them."""
        return True

    def enter(self, phase: PhaseConfig) -> None:
        """Switch to the mode of a phase: conditions shown or not, families of blocks on or off."""

    def leave(self) -> None:
        """After the last phase: switch to the mode for sampling."""

    def start_training(self) -> None:
        """Called before a phase's first step, once it is decided which parameters may train."""

    def recompute(self, on: bool) -> None:
        """Whether activations of blocks are recomputed in the backward pass (gradient checkpointing)."""
        stack: ExitStack = self.__dict__.setdefault("_recomputing", ExitStack())
        stack.close()
        if on:
            stack.enter_context(recomputed(discover_blocks(self.model)))

    def new_modules(self) -> tuple[str, ...]:
        """Patterns of untrained modules inside blocks, `*` for one dotted part; LoRA trains them in full."""
        return ()

    # Data and loss

    def samples(self, split: str, frames: int, seed: int) -> Samples:
        """A split of the data, "train" or "holdout", for clips of this many frames."""
        return Positions()

    def data_record(self) -> dict[str, Any] | None:
        """What a run keeps of its data set: path, fingerprint, fps, codec, counts; None for a task without files."""
        return None

    @abstractmethod
    def draw(self, batch: Any, shape: Shape, seed: int, *, dropout: float | None = None) -> Draw:
        """Fix everything random about a batch; a pure function of (seed, positions), whatever the batch.

        Args:
            dropout: share of samples whose conditions are dropped; None for the training's own share.
        """

    @abstractmethod
    def predict(self, draw: Draw) -> Tensor:
        """What the model predicts, the shape of `draw.target`."""

    def errors(self, draw: Draw) -> Tensor:
        """Squared error of each value of the prediction."""
        return (self.predict(draw) - draw.target).pow(2)

    def loss(self, draw: Draw) -> Tensor:
        """The training loss, a scalar: the mean squared error."""
        return self.errors(draw).mean()

    def losses(self, draw: Draw) -> Tensor:
        """The loss of each sample, [B], whose mean is `loss`."""
        return self.errors(draw).flatten(1).mean(1)

    def reading(self, draw: Draw) -> tuple[float, list[float]]:
        """`loss` and `losses` of a draw by one forward pass, as numbers."""
        errors = self.errors(draw).detach()
        return float(errors.mean()), errors.flatten(1).mean(1).tolist()

    # Savings

    def prepare(self, draw: Draw) -> None:
        """Before a training step's loss: look up or compute the cached states for this draw."""

    def prefix_place(self) -> int:
        """Identifies the present frozen prefix (the blocks below the lowest active one); 0: there is none."""
        return 0

    def prefix(self, draw: Draw) -> Draw:
        """The draw with `hidden`, the output of the frozen prefix, so that `predict` starts there.

        Valid as long as those weights and the lowest active block do not change. Returns the draw unchanged
        where there is no frozen prefix.
        """
        return draw

    def hidden_bytes(self, shape: Shape) -> int:
        """Bytes of `hidden` of a micro-batch; 0 where `prefix` returns none."""
        return 0

    def open_cache(self, options: CacheOptions) -> None:
        """Make the cache of `train.reference_cache`; does nothing for a task without one."""

    def cache_counts(self) -> dict[str, int] | None:
        """Hits, misses and bytes of the cache so far; None without one."""
        return None

    def close_cache(self) -> None:
        """Drop the cached states, files included."""

    # Clips

    def held_out(self, settings: EvaluateConfig) -> Iterator[list[HeldOutClip]]:
        """The first `settings.clips` held-out clips with their conditions, in batches for `generate`."""
        raise ValueError(f"{type(self).__name__}: makes no clips")

    def generate(
        self, conditions: Mapping[str, Tensor], settings: SampleConfig, keys: Sequence[int], *, progress: bool = False,
        window: Window | None = None,
    ) -> Tensor:  # fmt: skip
        """Clips [B, F, 3, H, W] in 0..1, on the CPU; a pure function of weights, conditions, seed and keys.

        `window`: the frames are this part of a longer clip (B is 1), blended with the part before.
        """
        raise ValueError(f"{type(self).__name__}: makes no clips")

    def guidance_problem(self, settings: SampleConfig) -> str:
        """Why clips can't be guided by what `settings.guided_by` names; empty where they can."""
        return "guidance leaves out every condition at once; leave it empty" if settings.guided_by else ""

    def animator(self, prompt: str = "") -> Animator | None:
        """How the task animates a reference image, with a text where it takes one; None where it can't.

        Raises:
            ValueError: the task takes no text.
        """
        return None

    def mean_frame(self, resolution: int) -> Tensor | None:
        """The mean training frame [3, H, W], a baseline of the evaluation; None where there is none."""
        return None


def fixed_draws(task: Task, samples_of: Samples, shape: Shape, samples: int, seed: int, *, most: int = 0) -> list[Draw]:
    """`samples` samples in the fewest draws of up to `most`, without condition dropout.

    `most` is a training step's batch if 0, but at most 8, so reading draws takes no more memory than training.
    Their sizes differ by at most one, so the mean over draws is close to the mean over samples. A pure
    function of its arguments.
    """
    count = -(-samples // (most or min(8, shape.batch)))
    ends = [samples * (k + 1) // count for k in range(count)]
    draws = []
    for first, end in zip([0, *ends], ends, strict=False):
        small = replace(shape, batch=end - first)
        draws.append(task.draw(samples_of.batch(first, small), small, seed, dropout=0.0))
    return draws
