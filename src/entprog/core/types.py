"""The values and protocols that the parts of entprog exchange.

Shape legend: B samples, F frames, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn, optim

if TYPE_CHECKING:
    from entprog.core.blocks import Blocks


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of what one step trains on.

    `resolution` is the side of the frame in pixels (of a rectangle the height), `frames` the frames of a clip, `batch`
    the samples of one micro-batch, `tokens` the share of tokens that the middle blocks see (1.0: all of them), `width`
    that of a rectangle (0: a square). `band` has the lowest and highest noise level that is drawn, as shares of the
    task's own noise levels from the cleanest up: (0, 1) for all of them.
    """

    resolution: int
    frames: int
    batch: int
    tokens: float = 1.0
    width: int = 0
    band: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "band", tuple(self.band))
        low, high = self.band
        if not 0 <= low < high <= 1:
            raise ValueError(f"band = {self.band}: give the lowest and the highest noise level, from 0 to 1")
        for name in ("resolution", "frames", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if not 0 < self.tokens <= 1:
            raise ValueError(f"tokens = {self.tokens}: a share of the tokens, above 0 and at most 1 (1: no routing)")

    @classmethod
    def of(cls, sides: tuple[int, int], frames: int, batch: int) -> "Shape":
        """The shape of frames of this height and width."""
        height, width = sides
        return cls(height, frames, batch, width=0 if width == height else width)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.resolution, self.width or self.resolution

    @property
    def size(self) -> str:
        """The size as a recipe has it: "64", or "480x832"."""
        return f"{self.resolution}x{self.width}" if self.width else str(self.resolution)


@dataclass(frozen=True, slots=True)
class Workload:
    """What one step trains: the active blocks by exact name, and the shape of its batch.

    `shape` is None in a custom loop, which draws its own batches: workloads then differ in active blocks only. `inputs`
    says whether input-side parameters train too: where they do, the backward runs through every block. `echo` is set by
    the loop: the output of the frozen prefix is known from an earlier step. Equal workloads have equal costs, so a
    workload is the key of what was measured.
    """

    active: tuple[str, ...]
    shape: Shape | None = None
    inputs: bool = True
    echo: bool = False

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Workload":
        """The inverse of `dataclasses.asdict`."""
        shape = Shape(**values["shape"]) if values["shape"] else None
        return cls(tuple(values["active"]), shape, values.get("inputs", True), values.get("echo", False))


@dataclass(frozen=True, slots=True)
class Draw:
    """One noised batch with everything random already fixed.

    Attributes:
        x: the noised input x_tau, [B, F, C, H, W] for the human video task (any shape with the batch first elsewhere).
        tau: [B] the diffusion time in 0..1.
        target: what a prediction must match, the shape of x: the noise, v, or the velocity (see the task's objective).
        condition: tensors with the batch first, by name; empty where the model has no condition.
        places: [B, K] the tokens that the middle blocks see; None for all of them.
        hidden: output of the frozen prefix for the draw, [B, ...] (see `Task.prefix`); None where it is not known.
    """

    x: Tensor
    tau: Tensor
    target: Tensor
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    places: Tensor | None = None
    hidden: Tensor | None = None

    @property
    def size(self) -> int:
        """Samples in this draw."""
        return self.x.shape[0]

    def with_condition_of(self, shift: int) -> "Draw":
        """The same noised inputs, each with the condition of the sample `shift` positions later."""
        rolled = {name: value.roll(-shift, 0) for name, value in self.condition.items()}
        return replace(self, condition=rolled)

    def tensors(self) -> dict[str, Tensor]:
        """All its tensors, by name."""
        own = {name: getattr(self, name) for name in ("x", "tau", "target", "places", "hidden")}
        return {**{name: value for name, value in own.items() if value is not None}, **self.condition}

    def each(self, change: Callable[[Tensor], Tensor]) -> "Draw":
        """The draw with `change` applied to each of its tensors."""
        optional = {n: None if v is None else change(v) for n, v in (("places", self.places), ("hidden", self.hidden))}
        condition = {name: change(value) for name, value in self.condition.items()}
        return Draw(change(self.x), change(self.tau), change(self.target), condition, **optional)

    def first(self, samples: int) -> "Draw":
        """Its first samples, at most this many."""
        return self.each(lambda tensor: tensor[:samples])


class Predictor(Protocol):
    """The part of a task that scores and searches need; see tasks/base.py for all of it."""

    model: nn.Module

    def predict(self, draw: Draw) -> Tensor:
        """What the model predicts, the shape of `draw.target`."""
        ...

    def loss(self, draw: Draw) -> Tensor:
        """The training loss of a draw, a scalar."""
        ...

    def losses(self, draw: Draw) -> Tensor:
        """The loss of each sample, [B], whose mean is `loss`."""
        ...


class Trainable(Predictor, Protocol):
    """The part of a task that savings need; see tasks/base.py."""

    @property
    def device(self) -> torch.device: ...

    def with_model(self, model: nn.Module) -> "Trainable":
        """The same task around another network of the same structure."""
        ...

    def recompute(self, on: bool) -> None:
        """Whether activations of blocks are computed again in the backward pass."""
        ...

    def prefix_place(self) -> int:
        """Identifies the present frozen prefix; 0 where there is none."""
        ...

    def prefix(self, draw: Draw) -> Draw:
        """The draw with `hidden`, the output of the frozen prefix."""
        ...

    def hidden_bytes(self, shape: Shape) -> int:
        """Bytes of `hidden` for a micro-batch."""
        ...


@dataclass(frozen=True, slots=True)
class Ranking:
    """Block names, most important first."""

    names: tuple[str, ...]

    def top(self, m: int) -> tuple[str, ...]:
        """The `m` most important blocks (0 < m <= L)."""
        if not 0 < m <= len(self.names):
            raise ValueError(f"m = {m}: choose from 1 to {len(self.names)}, the number of blocks")
        return self.names[:m]


@dataclass(frozen=True, slots=True)
class Scores:
    """One importance for each block, with its standard error over `samples` samples."""

    values: Mapping[str, float]
    stderr: Mapping[str, float] = field(default_factory=dict)
    samples: int = 0
    notes: tuple[str, ...] = ()

    def ranking(self) -> Ranking:
        """Blocks by descending value; equal values keep the order in which the blocks were scored."""
        place = {name: i for i, name in enumerate(self.values)}
        return Ranking(tuple(sorted(self.values, key=lambda name: (-self.values[name], place[name]))))


@dataclass(frozen=True, slots=True)
class Trial:
    """One measured piece of the search.

    For the supernet one training step; for the probe all steps of one candidate. `seconds` is wall time,
    `flops` the exact count of the same work, `loss_before` and `loss_after` are holdout losses, `gain` their
    difference with `gain_stderr`, the standard error of the difference over paired holdout losses.
    """

    stage: int
    step: int
    workload: Workload
    seconds: float
    flops: float
    loss_before: float
    loss_after: float
    gain_stderr: float = 0.0

    @property
    def gain(self) -> float:
        """Decrease of the holdout loss."""
        return self.loss_before - self.loss_after

    @property
    def size(self) -> tuple[float, int]:
        """Sort key: exact FLOPs, then the number of active blocks."""
        return self.flops, len(self.workload.active)


Role = Literal["block", "adapter", "outside"]
"""Where a parameter belongs: to a block, to a low-rank adapter of a block, or to neither."""


@dataclass(frozen=True, slots=True)
class AdamOptions:
    """The keys that Adam and its variants share; `weight_decay` is for every optimizer."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    def arguments(self) -> dict[str, Any]:
        """As torch's optimizers name them."""
        betas = (self.beta1, self.beta2)
        return {"betas": betas, "eps": self.epsilon, "weight_decay": self.weight_decay}


class WeightStorage(Protocol):
    """Stores weights of frozen layers in fewer bytes; a Freezer reports what it froze (savings/frozen_storage.py)."""

    def follow(self) -> None:
        """Store the weights that froze, restore those that train."""
        ...

    def refuse_trained(self) -> None:
        """Raise where a stored weight was trained."""
        ...

    def whole(self) -> AbstractContextManager[None]:
        """The original weights, inside."""
        ...

    def release(self) -> None:
        """Restore all weights."""
        ...


class Score(Protocol):
    """Plugin kind "score": which blocks first."""

    def score(self, task: Predictor, blocks: "Blocks", draws: Sequence[Draw]) -> Scores: ...


class Schedule(Protocol):
    """Plugin kind "schedule": how much, when.

    One candidate means that there is nothing to search in that stage.
    """

    @property
    def stages(self) -> int: ...

    @property
    def search_steps(self) -> int:
        """Training steps that the search of one stage takes (0: none)."""
        ...

    @property
    def estimator(self) -> str:
        """How candidates are measured: "none", "supernet" or "probe"."""
        ...

    def candidates(
        self, stage: int, ranking: Ranking, shape: Shape | None, last: Workload | None
    ) -> tuple[Workload, ...]:
        """Workloads to choose from in `stage`, all different, the cheapest first; a pure function.

        Args:
            ranking: all blocks of the phase; the order of a candidate's blocks has no meaning.
            shape: the phase's own, None in a custom loop: the largest frames and resolution that candidates may have.
            last: what the previous stage trained; None in the first, or where that is not known yet.
        """
        ...

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Every shape that a phase of this full shape may train at."""
        ...

    def choose(self, trials: Sequence[Trial], cost: str) -> tuple[Workload, dict[Workload, float]]:
        """The chosen workload of those in `trials`, and their efficiency; `cost` is "flops" or "seconds"."""
        ...


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Step i of a phase, decided before its batch is drawn.

    Attributes:
        workload: what trains, and the shape of the batch.
        replays: the step whose data, noise and learning rate it uses: i itself, except that the candidates of a probe
            all replay the same steps, and an echo the step that first trained on its samples.
        stage: of the schedule.
        searching: whether the step belongs to a search.
        discardable: whether it may be undone when its probe ends (EMA leaves such steps out).
    """

    workload: Workload
    replays: int
    stage: int = 0
    searching: bool = False
    discardable: bool = False

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the blocks that train."""
        return self.workload.active

    @property
    def m(self) -> int:
        """How many blocks train."""
        return len(self.workload.active)


@dataclass(frozen=True)
class MethodContext:
    """What a method is bound to for one phase of a run.

    Attributes:
        task: model and loss, used for holdout readings.
        blocks: the blocks that may train.
        optimizer: the one optimizer of the phase, made with `param_groups`.
        total_steps: optimizer steps of the phase.
        shape: shape of the phase's batches; None in a custom loop.
        holdout: fixed draws that a search reads its loss on.
        ranking: blocks by importance; None where a method needs none.
        schedule: how many blocks, when.
        rerank: ranks again; None to keep `ranking` for the whole phase.
        flops: exact FLOPs of one optimizer step of a workload, called after that step has run.
        reading_flops: exact FLOPs of one reading of this share of the holdout samples.
        cost: "flops" or "seconds": the cost that gains are divided by.
        watch: "mean" or "bands": the held-out loss that choices compare (see `core.bands.watched_loss`).
        states: what happens to optimizer states of frozen blocks: "keep", "drop" or "offload".
        outside: whether parameters outside the blocks train.
        inputs_every: those of them in `inputs` train at every n-th step only (0: never).
        inputs: names of the input-side parameters (see `input_parameters`); needed where `inputs_every` is not 1.
        storage: stores the weights of frozen linear layers in fewer bytes; None leaves them as they are.
        notify: called with (event name, values): a stage starts, a trial ends, a choice is made, or a "warning".
        seed: of the search's draws.
        reenters: whether a step may be entered once for each micro-batch; it ends when the optimizer has stepped.
        agree: the mean over processes of readings and seconds, so that all decide the same; None in one process.
        each: reads every draw, in order; processes may share the work.
    """

    task: Predictor
    blocks: "Blocks"
    optimizer: optim.Optimizer
    total_steps: int
    shape: Shape | None = None
    holdout: Sequence[Draw] = ()
    ranking: Ranking | None = None
    schedule: "Schedule | None" = None
    rerank: Callable[[], Ranking] | None = None
    flops: Callable[[Workload], float] = lambda workload: float(len(workload.active))
    reading_flops: Callable[[float], float] = lambda share: 0.0
    cost: str = "flops"
    watch: str = "mean"
    states: Literal["keep", "drop", "offload"] = "keep"
    outside: bool = True
    inputs_every: int = 1
    inputs: tuple[str, ...] = ()
    storage: WeightStorage | None = None
    notify: Callable[[str, dict[str, Any]], None] = lambda event, values: None
    seed: int = 0
    reenters: bool = False
    agree: Callable[[Sequence[float]], list[float]] | None = None
    each: Callable[[Sequence[Draw], Callable[[Draw], Any]], list[Any]] = lambda draws, read: [read(d) for d in draws]
