"""One typed, frozen configuration for each run: type, default, meaning and range of every key.

Every field is a key of the recipe (TOML); names follow diffusers where it has one. pydantic checks values, also those
that `dataclasses.replace` gives; load.py reads recipes and words what is wrong.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from entprog.toml.values import LARGEST, Sides, interval, sides

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)

SEEDS = 2**32 - 1  # the largest seed

SIDES: dict[str, Any] = {"ge": 16, "le": 1024}  # of a picture, in pixels


def key(
    default: Any,
    meaning: str,
    *,
    plugin: str = "",
    options: str = "",
    packages: dict[str, dict[str, str]] | None = None,
    also: tuple[str, ...] = (),
    strict: bool = True,
    **limits: Any,
) -> Any:
    """A key of a recipe.

    Args:
        default: its value where the recipe says nothing, or `dict` for an empty table.
        meaning: what it does, as the printed recipe says it.
        plugin: the kind of plugin that the value names.
        options: dotted key of the table that holds this plugin's options.
        packages: value -> {module that it needs: how to install it}.
        also: what other trainers call it.
        strict: whether a number is checked here; False where its type checks itself.
        limits: the range of a number, or of each number of a list, as pydantic names it: ge, gt, le, lt.
    """
    more: dict[str, Any] = {"plugin": plugin, "options": options, "packages": packages or {}, "also": also}
    more["interval"] = interval(**limits)
    start: dict[str, Any] = {"default_factory": dict} if default is dict else {"default": default}
    if isinstance(default, bool | int | float):
        # Strict, as True is an int in Python, and pydantic reads "1" as 1: no number to somebody who asks for one.
        start |= {"strict": True} | ({"le": LARGEST} if type(default) is int else {}) | limits if strict else {}
    return Field(**start, description=meaning, json_schema_extra=more)


@dataclass(frozen=True, slots=True, config=CHECKED)
class DataConfig:
    """[data] where clips come from."""

    path: str = key("", "a folder made by `entprog prepare`; empty for rendered people")
    domain: Literal["source", "target", "all", "creatures", "clips"] = key(
        "target",
        'rendered people: those of "target", "source" (the base\'s) or "all", or "creatures"; or "clips": the real '
        "videos that the package ships, 14 for training and 6 held out, at 64 px",
    )
    subjects: int = key(32, "rendered people: training subjects", ge=1)
    clips_per_subject: int = key(2, "rendered people: clips of each subject, before the same scene", ge=1)
    holdout: int = key(16, "rendered people: held-out subjects", ge=1)
    frames: int = key(16, "rendered people: frames of a clip", ge=1)
    sizes: tuple[Annotated[int, Field(strict=True, **SIDES)], ...] = key(
        (32, 64), "sides in pixels that latents are stored for", **SIDES
    )
    seed: int = key(0, "rendered people: offset of all seeds", ge=0, le=SEEDS)
    workers: int = key(0, "rendering processes (0: as many as cores)", ge=0)
    cache: str = key("", "folder that keeps rendered data between runs; empty for the user's cache folder")

    @property
    def rendered(self) -> bool:
        """Whether people are rendered: neither a prepared folder nor the shipped clips."""
        return not self.path and self.domain != "clips"


@dataclass(frozen=True, slots=True, config=CHECKED)
class ModelConfig:
    """[model] the network and where its weights start."""

    size: Literal["nano", "s", "b", "xl"] = key(
        "nano", '"nano" (the shipped base), "s", "b" or "xl" (28 blocks, width 1152, patch 2)'
    )
    init: str = key(
        "base",
        '"base" (shipped nano weights), "scratch", a safetensors file, a run\'s final folder, or a DiT of that size',
        also=("pretrained_model_name_or_path",),
    )
    fresh: tuple[Literal["pose", "temporal"], ...] = key(
        (), 'modules that start untrained whatever the weights hold: "pose" (its adapters), "temporal" (its blocks)'
    )
    reference: Literal["siamese", "separate", "none", "native", "frame"] = key(
        "siamese",
        '"siamese" shares the weights with the reference pass; "separate" is the paper\'s comparison. Pretrained: '
        '"native" the model\'s own inputs for an image, "frame" one more latent frame, outside the loss, or "none"',
    )
    reference_gradient: bool = key(True, "whether gradients flow through the reference pass")
    pose: Literal["input", "blocks", "native", "none"] = key(
        "input",
        '"input" one linear adapter (published); "blocks" zero-initialised adapters at every block; "native" a '
        "pretrained model's own pose path",
    )
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = key(
        "squaredcos_cap_v2", "noise schedule by its diffusers name"
    )
    condition_dropout: float = key(0.1, "share of samples trained without condition, for guidance", ge=0, lt=1)
    pretrained: str = key("", 'task = "pretrained": a folder in diffusers\' layout, or a hub id', also=("model_id",))
    revision: str = key("", "of a hub id: a branch, tag or commit")
    component: str = key("", 'what trains: "transformer", "transformer_2" (Wan 2.2\'s low-noise expert) or "unet"')
    family: str = key("", 'how the network is called: empty for a known one, or your own as "package.module:Class"')
    dtype: Literal["bf16", "fp16", "float32"] = key("bf16", "pretrained: how frozen weights are held")
    weights: Literal["float32", "bf16"] = key(
        "float32", 'pretrained: how trained weights are held; "bf16" is rounded stochastically at each step'
    )
    flow_shift: float = key(0.0, "pretrained flow models: the shift of noise levels; 0 for the scheduler's", ge=0)
    timestep_sampling: Literal["uniform", "logit_normal"] = key(
        "uniform", 'pretrained flow models: times are "uniform" or "logit_normal"'
    )
    timestep_range: tuple[float, ...] = key(
        (), "pretrained: lowest and highest noise level that trains; empty for all, of two experts the component's own"
    )
    drop: dict[Literal["text", "pose", "reference"], float] = key(
        dict, "pretrained: share of samples without each condition, for guidance; .1 each unless given"
    )


@dataclass(frozen=True, slots=True, config=CHECKED)
class RankingConfig:
    """[ranking] which blocks come first."""

    score: str = key(
        "gradient",
        "what blocks are ranked by; docs/benchmarks.md says which finds what training needs, and what each takes",
        plugin="score",
        options="ranking.options",
    )
    options: dict[str, Any] = key(dict, "the score's own options")
    samples: int = key(64, "probe samples that the score may use", ge=1)
    pattern: tuple[str, ...] = key((), "block names, `*` for one dotted part; empty for the model's own declaration")
    again: bool = key(False, "rank anew at the start of each stage, not only of each phase")
    select: Literal["importance", "per_second", "per_byte"] = key(
        "importance",
        'which m blocks a stage trains: "importance" the highest ranked (published); "per_second" and "per_byte" those '
        "of most summed importance for the time (or FLOPs, see `train.cost_unit`) or the peak memory of a step",
    )


@dataclass(frozen=True, slots=True, config=CHECKED)
class ScheduleConfig:
    """[schedule] how many blocks, when."""

    name: str = key("adaptive", "how many blocks train in each stage", plugin="schedule", options="schedule.options")
    options: dict[str, Any] = key(dict, "the schedule's own options")


@dataclass(frozen=True, slots=True, config=CHECKED)
class FreezeConfig:
    """[freeze] what becomes of parameters that do not train."""

    states: Literal["keep", "drop", "offload"] = key(
        "keep", 'optimizer states of frozen blocks: "keep", "drop" or "offload"'
    )
    storage: Literal["full", "bf16", "int8", "nf4", "offload"] = key(
        "full",
        'the weights of frozen blocks\' linear layers: "full"; "bf16" (what mixed precision in bf16 computes with); '
        '"int8" or "nf4" (coarser); "offload": fetched from host memory for each use. Originals stay exact there',
    )
    outside: bool = key(
        True, "whether parameters outside all blocks (embeddings, pose adapter, head) train in image phases"
    )
    inputs_every: int = key(
        1,
        "input-side parameters (outside all blocks and before them: embeddings, pose adapter at the input) train at "
        "every n-th step only, 0 for never; the backward then ends at the lowest active block. The output side always "
        'trains. 0 goes with model.pose = "blocks"',
        ge=0,
    )


@dataclass(frozen=True, slots=True, config=CHECKED)
class PhaseConfig:
    """[phases.NAME] one phase of training; phases run in the order in which the recipe lists them."""

    steps: int = key(
        1000, "optimizer steps; 0 leaves the phase out", ge=0, also=("max_train_steps", "num_train_epochs", "epochs")
    )
    blocks: Literal["spatial", "temporal", "all"] = key(
        "spatial",
        'which blocks may train: "spatial", "temporal" or "all". In a "spatial" phase temporal blocks do not run at '
        "all: several frames are then so many images of one reference",
    )
    outside: bool = key(True, "whether parameters outside the blocks train in this phase")
    pose: bool = key(True, "whether the model sees poses")
    frames: int = key(1, "frames of a training clip", ge=1)
    resolution: Sides = key(64, 'side in pixels, or "HEIGHTxWIDTH" where the model takes rectangles', strict=False)
    batch: int = key(8, "samples of a micro-batch", ge=1, also=("batch_size", "train_batch_size"))
    learning_rate: float = key(1e-5, "peak learning rate", gt=0, also=("lr",))
    gradient_checkpointing: bool = key(False, "recompute activations in this phase, whatever `train` says")
    echo: int = key(
        1,
        "steps that train on each sample, with the same noise (data echoing, Choi et al. 2019, arXiv 1907.05550). "
        "What the frozen blocks below the lowest active one make of it is computed at the first of them only",
        ge=1,
    )
    echo_window: int = key(32, "so many steps take new samples before these come again", ge=1)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return sides(self.resolution)


PUBLISHED: dict[str, PhaseConfig] = {
    "subject": PhaseConfig(steps=50_000, pose=False, batch=32),
    "pose": PhaseConfig(steps=200_000, batch=8),
    "video": PhaseConfig(steps=200_000, blocks="temporal", outside=False, frames=10, batch=4),
}
"""The paper's three phases; a recipe's phase of that name starts from these values."""


@dataclass(frozen=True, slots=True, config=CHECKED)
class TrainConfig:
    """[train] the loop."""

    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"] = key(
        "constant", "a diffusers scheduler name; each phase runs it once from its own learning rate"
    )
    lr_warmup_steps: int = key(
        0, "steps of linear warm-up at the start of each phase (or of the run, see lr_span)", ge=0
    )
    lr_span: Literal["phase", "run"] = key(
        "phase", 'whether lr_scheduler runs once in each "phase" or once over the whole "run"'
    )
    gradient_accumulation_steps: int = key(1, "micro-batches of an optimizer step", ge=1)
    max_grad_norm: float = key(1.0, "gradients are clipped to this norm (0: never)", ge=0)
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = key(
        "auto", '"no", "bf16", "fp16", or "auto": bf16 where it is faster, else no'
    )
    gradient_checkpointing: bool = key(
        False, "recompute activations in the backward pass, at and above the lowest active block"
    )
    reference_cache: Literal["off", "device", "host", "disk"] = key(
        "off",
        '"off", or where the frozen part of the reference pass is kept: "device", "host" or "disk" (run folder). '
        "It needs outside = false, or freeze.inputs_every = 0",
    )
    reference_cache_bytes: int = key(2**30, "bytes that it keeps at most; the least recently used go first", ge=1)
    echo_cache: Literal["host", "disk"] = key(
        "host", 'where phases with an `echo` keep what their frozen blocks made of a sample: "host" memory or "disk"'
    )
    compile: Literal["off", "blocks"] = key("off", '"off", or torch.compile for each of the "blocks"')
    optimizer: str = key("adamw", "what steps the parameters", plugin="optimizer", options="train.optimizer_options")
    optimizer_options: dict[str, Any] = key(dict, "the optimizer's own options")
    optimizer_in_backward: bool = key(
        False, "step each parameter once its gradient is there and free that: saves memory with gradient_checkpointing"
    )
    memory_budget: str = key(
        "",
        'the most bytes of a step, such as "24GiB"; "" for no limit. Each workload then runs in the cheapest way that '
        "fits: whole, in pieces, with checkpointing, or with as many blocks further up; else it is refused",
    )
    resolution_shift: bool = key(
        False, "whether steps below the phase's resolution get less noise: signal to noise by the ratio of token counts"
    )
    adam_beta1: float = key(0.9, "AdamW's decay of the running mean of gradients", ge=0, lt=1)
    adam_beta2: float = key(0.999, "AdamW's decay of the running mean of squared gradients", ge=0, lt=1)
    adam_epsilon: float = key(1e-8, "AdamW's guard against division by zero", gt=0)
    adam_weight_decay: float = key(0.01, "the optimizer's weight decay", ge=0)
    ema_decay: float = key(0.0, "decay of averaged weights (0: none)", ge=0, lt=1)
    checkpointing_steps: int = key(
        500, "steps between checkpoints, over all phases (0: only at the end and when stopped)", ge=0
    )
    checkpoints_total_limit: int = key(2, "older checkpoints are deleted beyond this many (0: keep all)", ge=0)
    validation_steps: int = key(
        0, "steps between holdout readings and samples (0: at the end of each phase only)", ge=0
    )
    validation_clips: int = key(0, "held-out clips that are sampled then, in phases with poses (0: none)", ge=0)
    holdout_clips: int = key(32, "held-out clips in the fixed holdout draws", ge=1)
    report_to: str = key(
        "none",
        '"none", or one or several of "tensorboard", "trackio" and "wandb", separated by commas; log.jsonl is always '
        "written",
        packages={name: {name: f'pip install "entprog[{name}]"'} for name in ("tensorboard", "trackio", "wandb")},
    )
    cost_unit: Literal["auto", "flops", "seconds"] = key(
        "auto",
        'what a choice weighs gain against: "flops" (exact, repeatable), "seconds" (recorded trials are replayed on '
        'resume), or "auto": flops on a CPU, seconds elsewhere',
    )
    watch: Literal["mean", "bands"] = key(
        "mean", 'held-out loss that searches compare: "mean", or "bands", the mean log over five bands of noise'
    )
    seed: int = key(0, "everything random follows from it", ge=0, le=SEEDS)
    threads: int = key(0, "CPU threads (0: torch's choice)", ge=0)


@dataclass(frozen=True, slots=True, config=CHECKED)
class DistributedConfig:
    """[distributed] several processes, started by torchrun; a step's batch is divided between them."""

    shard: bool = key(
        False,
        "whether weights, gradients and optimizer states are divided between processes (FSDP2), block by block; else "
        "each process has all of them and only gradients are averaged",
    )
    param_dtype: Literal["float32", "bf16"] = key(
        "float32", "with shard: the type that a block's weights are gathered in; gradients are reduced in float32"
    )
    replicate: int = key(1, "with shard: so many copies of the model, each divided between as many processes", ge=1)
    checksum_steps: int = key(100, "steps between comparisons of the processes' weights (0: never)", ge=0)
    timeout_minutes: int = key(30, "a process that waits so long for another one ends with an error", ge=1)


@dataclass(frozen=True, slots=True, config=CHECKED)
class SampleConfig:
    """[sample] how clips are generated."""

    scheduler: Literal["ddim", "ddpm", "dpm++", "native"] = key(
        "ddpm", '"ddim", "ddpm" (IDDPM spacing) or "dpm++"; "native" the one that comes with a pretrained model'
    )
    num_inference_steps: int = key(12, "model calls a clip", ge=1, le=1000)
    guidance_scale: float = key(1.5, "classifier-free guidance; 1 for none", ge=0, also=("cfg",))
    guided_by: Literal["", "text", "pose", "reference"] = key(
        "", "pretrained: what guidance's second model call goes without; empty for the model's own, which is its text"
    )
    seed: int = key(0, "of the initial noise", ge=0, le=SEEDS)
    weights: Literal["auto", "ema", "model"] = key("auto", '"ema" where a run has them, else "model"')


@dataclass(frozen=True, slots=True, config=CHECKED)
class EvaluateConfig:
    """[evaluate] the pinned protocol."""

    metrics: tuple[str, ...] = key(
        ("l1", "psnr", "ssim"),
        "what compares generated with true clips; docs/metrics.md says what each needs",
        plugin="metric",
        options="evaluate.metric_options",
    )
    metric_options: dict[str, dict[str, Any]] = key(
        dict, "the metrics' own options, a table for each: [evaluate.metric_options.fvd]"
    )
    clips: int = key(16, "held-out clips (0: training ends without an evaluation)", ge=0)
    frames: int = key(10, "frames of each, from its first frame on", ge=1)
    reference: Literal["other", "first"] = key(
        "other",
        'which image the model sees: "other", one that is not judged, from another clip of the person where there is '
        'one; or the clip\'s "first" frame, which is then not judged',
    )
    resolution: Sides = key(64, "side in pixels at which generated and true frames are compared", strict=False)
    videos: int = key(4, "clips that are written as mp4 and GIF", ge=0)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return sides(self.resolution)


@dataclass(frozen=True, slots=True, config=CHECKED)
class Config:
    """A run."""

    output_dir: str = key("runs/run", "the run folder; it must not exist yet", also=("output",))
    label: str = key("", "name of the run in tables; empty for the method's name")
    method: str = key(
        "progressive",
        "which blocks train at which step; the name of a preset that brings a method is short for that preset",
        plugin="method",
        options="method_options",
    )
    method_options: dict[str, Any] = key(dict, "the method's own options")
    preset: Literal["", "entprog", "paper"] = key(
        "",
        '"entprog": LoRA on every block on single frames, on the last third on clips, with data echoing, Muon, frozen '
        'weights in bf16 and caches on disk. "paper": ranking and schedule as published. "" leaves every key to the '
        "recipe",
    )
    device: str = key("auto", '"auto", "cpu", "cuda" or "cuda:N"')
    task: str = key(
        "human_video",
        "what the model is, what it is trained on and how it is judged",
        plugin="task",
        options="task_options",
    )
    task_options: dict[str, Any] = key(dict, "the task's own options")
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    ranking: RankingConfig = Field(default_factory=RankingConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    freeze: FreezeConfig = Field(default_factory=FreezeConfig)
    phases: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], PhaseConfig] = Field(
        default_factory=lambda: dict(PUBLISHED)
    )
    train: TrainConfig = Field(default_factory=TrainConfig)
    distributed: DistributedConfig = Field(default_factory=DistributedConfig)
    sample: SampleConfig = Field(default_factory=SampleConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
