"""One typed, frozen configuration for each run.

Every field is a key of the recipe (TOML); tables nest as the classes do. Names follow diffusers where it has one.
`read_config` (validate.py) fills, checks and reports; this file only says what there is.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class DataConfig:
    """[data] where clips come from.

    Attributes:
        path: a folder made by `entprog prepare`; empty for rendered people.
        domain: who is rendered: people of "target" (the demo's), "source" (the base's) or "all", or "creatures".
        subjects: rendered people: training subjects.
        clips_per_subject: rendered people: clips of each subject, before the same scene.
        holdout: rendered people: held-out subjects.
        frames: rendered people: frames of a clip.
        sizes: sides in pixels that latents are stored for.
        seed: rendered people: offset of all seeds.
        workers: rendering processes (0: as many as cores).
        cache: folder that keeps rendered data between runs; empty for the user's cache folder.
    """

    path: str = ""
    domain: Literal["source", "target", "all", "creatures"] = "target"
    subjects: int = 32
    clips_per_subject: int = 2
    holdout: int = 16
    frames: int = 16
    sizes: tuple[int, ...] = (32, 64)
    seed: int = 0
    workers: int = 0
    cache: str = ""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """[model] the network and where its weights start.

    Attributes:
        size: "nano" (the shipped base), "s", "b" or "xl" (28 blocks, width 1152, patch 2).
        backbone: a published transformer in the place of ours, for `entprog plan` only so far: "wan-2.1-1.3b",
            "wan-2.1-14b", "hunyuan-video-13b" or "cogvideox-5b"; empty for our own.
        init: "base" (shipped nano weights), "scratch", or a path to a safetensors file or a run's final folder.
        fresh: modules that start untrained whatever the weights hold: "pose" (its adapters), "temporal" (its blocks).
        reference: "siamese" shares the weights with the reference pass; "separate" is the paper's comparison.
        reference_gradient: whether gradients flow through the reference pass.
        pose: "input" one linear adapter (published); "blocks" zero-initialised adapters at every block.
        beta_schedule: noise schedule by its diffusers name.
        condition_dropout: share of samples trained without condition, for guidance.
    """

    size: Literal["nano", "s", "b", "xl"] = "nano"
    backbone: str = ""
    init: str = "base"
    fresh: tuple[Literal["pose", "temporal"], ...] = ()
    reference: Literal["siamese", "separate", "none"] = "siamese"
    reference_gradient: bool = True
    pose: Literal["input", "blocks", "none"] = "input"
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"
    condition_dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class RankingConfig:
    """[ranking] which blocks come first.

    Attributes:
        score: a plugin of kind "score" (gradient, cei, skip_loss, influence, order, or package.module:Class). "cei" is
            the published one; "gradient" tells better what training needs (docs/benchmarks.md, question 1), but takes
            the memory of a backward pass through everything, which the others don't.
        options: the score's own options.
        samples: probe samples that the score may use.
        pattern: block names, `*` for one dotted part; empty for the model's own declaration.
        again: rank anew at the start of each stage, not only of each phase.
        select: which m blocks a stage trains: "importance" takes the highest ranked (published); "per_second" those
            of most summed importance for the time of a step (FLOPs where `train.cost_unit` is flops), "per_byte" for
            its peak memory: the backward runs down to the lowest active block, so a block low in the network costs
            more.
    """

    score: str = "gradient"
    options: dict[str, Any] = field(default_factory=dict)
    samples: int = 64
    pattern: tuple[str, ...] = ()
    again: bool = False
    select: Literal["importance", "per_second", "per_byte"] = "importance"

    def draw_size(self, batch: int) -> int:
        """Samples of a draw that blocks are scored on, at most: a step's, and enough for the conditions compared.

        At most 8.
        """
        compared = int(self.options.get("conditions", 4)) if self.options.get("sigma") == "conditions" else 1
        return min(8, max(compared, batch))


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """[schedule] how many blocks, when.

    Attributes:
        name: a plugin of kind "schedule" (linear, fixed, descending, adaptive, or package.module:Class).
        options: the schedule's own options.
    """

    name: str = "adaptive"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FreezeConfig:
    """[freeze] what becomes of parameters that do not train.

    Attributes:
        states: optimizer states of frozen blocks: "keep", "drop" or "offload".
        storage: how the weights of frozen blocks' linear layers are held: "full"; "bf16" (what mixed precision
            in bf16 computes with anyway); "int8" or "nf4" (coarser); "offload": in host memory, fetched for each use.
            The originals stay exact in host memory.
        outside: whether parameters outside all blocks (embeddings, pose adapter, head) train in image phases.
        inputs_every: input-side parameters (outside all blocks and before them: embeddings, pose adapter at the
            input) train at every n-th step only, 0 for never; the backward then ends at the lowest active block. The
            output side (the head) always trains. 0 goes with model.pose = "blocks", where every active block has a
            pose adapter of its own.
    """

    states: Literal["keep", "drop", "offload"] = "keep"
    storage: Literal["full", "bf16", "int8", "nf4", "offload"] = "full"
    outside: bool = True
    inputs_every: int = 1


@dataclass(frozen=True, slots=True)
class PhaseConfig:
    """[phases.NAME] one phase of training; phases run in the order in which the recipe lists them.

    Attributes:
        steps: optimizer steps; 0 leaves the phase out.
        blocks: which blocks may train: "spatial", "temporal" or "all". In a "spatial" phase temporal blocks do
            not run at all: several frames are then so many images of one reference.
        outside: whether parameters outside the blocks train in this phase.
        pose: whether the model sees poses.
        frames: frames of a training clip.
        resolution: side in pixels.
        batch: samples of a micro-batch.
        learning_rate: peak learning rate.
        gradient_checkpointing: recompute activations in this phase, also where train.gradient_checkpointing is off.
        echo: steps that train on each sample, with the same noise (data echoing, Choi et al. 2019, arXiv 1907.05550).
            What the frozen blocks below the lowest active one make of it is computed at the first of them only.
        echo_window: so many steps take new samples before these come again.
    """

    steps: int = 1000
    blocks: Literal["spatial", "temporal", "all"] = "spatial"
    outside: bool = True
    pose: bool = True
    frames: int = 1
    resolution: int = 64
    batch: int = 8
    learning_rate: float = 1e-5
    gradient_checkpointing: bool = False
    echo: int = 1
    echo_window: int = 32


PUBLISHED: dict[str, PhaseConfig] = {
    "subject": PhaseConfig(steps=50_000, pose=False, batch=32),
    "pose": PhaseConfig(steps=200_000, batch=8),
    "video": PhaseConfig(steps=200_000, blocks="temporal", outside=False, frames=10, batch=4),
}
"""The paper's three phases; a recipe's phase of that name starts from these values."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """[train] the loop.

    Attributes:
        lr_scheduler: a diffusers scheduler name; each phase runs it once from its own learning rate.
        lr_warmup_steps: steps of linear warm-up at the start of each phase (or of the run, see lr_span).
        lr_span: whether lr_scheduler runs once in each "phase" or once over the whole "run".
        gradient_accumulation_steps: micro-batches of an optimizer step.
        max_grad_norm: gradients are clipped to this norm (0: never).
        mixed_precision: "no", "bf16", "fp16", or "auto": bf16 where it is faster, else no.
        gradient_checkpointing: recompute activations in the backward pass, at and above the lowest active block.
        reference_cache: "off", or where the frozen part of the reference pass is kept: "device", "host" or "disk" (in
            the run folder). It takes effect where the embeddings don't train: a phase with outside = false, or
            freeze.inputs_every = 0.
        reference_cache_bytes: bytes that it keeps at most; the least recently used go first.
        echo_cache: where phases with an `echo` keep what their frozen blocks made of a sample: in the memory of the
            "host", or on "disk" (in the run folder).
        compile: "off", or torch.compile for each of the "blocks".
        optimizer: a plugin of kind "optimizer" (adamw, adamw8bit, adafactor, muon, or package.module:Class).
        optimizer_options: the optimizer's own options, such as `{rows = 32}` of "muon".
        optimizer_in_backward: step each parameter once its gradient is there and free that at once: saves memory
            together with gradient_checkpointing; not with accumulation, max_grad_norm above 0 or fp16.
        memory_budget: the most bytes that a step may take, such as "24GiB" or "80GB"; "" for no limit. Each workload
            then runs in the cheapest way that fits: whole, in pieces whose gradients add up, with checkpointing, and
            where nothing else helps with as many blocks further up the network. What fits in no way is refused.
        resolution_shift: whether steps below the phase's resolution are given less noise, so that as much of the
            picture is left as at full size (signal to noise times the ratio of the token counts).
        adam_beta1: AdamW's decay of the running mean of gradients.
        adam_beta2: AdamW's decay of the running mean of squared gradients.
        adam_epsilon: AdamW's guard against division by zero.
        adam_weight_decay: the optimizer's weight decay.
        ema_decay: decay of averaged weights (0: none).
        checkpointing_steps: steps between checkpoints, over all phases (0: only at the end and when stopped).
        checkpoints_total_limit: older checkpoints are deleted beyond this many (0: keep all).
        validation_steps: steps between holdout readings and samples (0: at the end of each phase only).
        validation_clips: held-out clips that are sampled then, in phases with poses (0: none).
        holdout_clips: held-out clips in the fixed holdout draws.
        report_to: "none" or "tensorboard"; log.jsonl is always written.
        cost_unit: what a choice weighs gain against: "flops" (exact, repeatable), "seconds" (recorded trials are
            replayed on resume), or "auto": flops on a CPU, seconds elsewhere.
        seed: everything random follows from it.
        threads: CPU threads (0: torch's choice).
    """

    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"] = "constant"
    lr_warmup_steps: int = 0
    lr_span: Literal["phase", "run"] = "phase"
    gradient_accumulation_steps: int = 1
    max_grad_norm: float = 1.0
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    reference_cache: Literal["off", "device", "host", "disk"] = "off"
    reference_cache_bytes: int = 2**30
    echo_cache: Literal["host", "disk"] = "host"
    compile: Literal["off", "blocks"] = "off"
    optimizer: str = "adamw"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    optimizer_in_backward: bool = False
    memory_budget: str = ""
    resolution_shift: bool = False
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    adam_weight_decay: float = 0.01
    ema_decay: float = 0.0
    checkpointing_steps: int = 500
    checkpoints_total_limit: int = 2
    validation_steps: int = 0
    validation_clips: int = 0
    holdout_clips: int = 32
    report_to: Literal["none", "tensorboard"] = "none"
    cost_unit: Literal["auto", "flops", "seconds"] = "auto"
    seed: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class SampleConfig:
    """[sample] how clips are generated.

    Attributes:
        scheduler: "ddim", "ddpm" (IDDPM spacing) or "dpm++".
        num_inference_steps: model calls a clip.
        guidance_scale: classifier-free guidance; 1 for none.
        seed: of the initial noise.
        weights: "ema" where a run has them, else "model".
    """

    scheduler: Literal["ddim", "ddpm", "dpm++"] = "ddpm"
    num_inference_steps: int = 12
    guidance_scale: float = 1.5
    seed: int = 0
    weights: Literal["auto", "ema", "model"] = "auto"


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """[evaluate] the pinned protocol.

    Attributes:
        metrics: plugins of kind "metric".
        clips: held-out clips (0: training ends without an evaluation).
        frames: frames of each, from its first frame on.
        resolution: side in pixels at which generated and true frames are compared.
        videos: clips that are written as mp4 and GIF.
    """

    metrics: tuple[str, ...] = ("l1", "psnr", "ssim")
    clips: int = 16
    frames: int = 10
    resolution: int = 64
    videos: int = 4


@dataclass(frozen=True, slots=True)
class Config:
    """A run.

    Attributes:
        output_dir: the run folder; it must not exist yet.
        label: name of the run in tables; empty for the method's name.
        method: a plugin of kind "method": "progressive", "mixed", "full", "lora" (or
            package.module:Class); "entprog" is short for the preset of that name.
        method_options: the method's own options.
        preset: "entprog" is what the benchmark found best (docs/benchmarks.md): low rank, on every block in phases of
            single frames, which recompute activations, and on the last third in phases of clips, the backward ending
            there, each sample trained on four times; matrices stepped by Muon; what rests in bf16, reference features
            and what the frozen part made of samples kept on disk (a pose adapter that is new belongs at the blocks
            then, model.pose = "blocks").
            "paper" sets ranking and schedule as published. "" leaves every key to the recipe.
        device: "auto", "cpu", "cuda" or "cuda:N".
        task: a plugin of kind "task": what the model is, what it is trained on and how it is judged.
        task_options: the task's own options.
    """

    output_dir: str = "runs/run"
    label: str = ""
    method: str = "progressive"
    method_options: dict[str, Any] = field(default_factory=dict)
    preset: Literal["", "entprog", "paper"] = ""
    device: str = "auto"
    task: str = "human_video"
    task_options: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    phases: dict[str, PhaseConfig] = field(default_factory=lambda: dict(PUBLISHED))
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


PRESETS: dict[str, dict[str, Any]] = {
    "": {},
    "entprog": {
        "method": "lora",
        "method_options": {"rank": 16, "alpha": 16, "lr_factor": 10.0, "m": 0.34, "m_images": 0, "inputs": "never"},
        "freeze": {"storage": "bf16"},
        "train": {
            "reference_cache": "disk",
            "echo_cache": "disk",
            "optimizer": "muon",
            "optimizer_options": {"rows": 32},
        },
    },
    "paper": {
        "ranking": {"score": "cei", "options": {"entropy": "gaussian", "sigma": "elements"}},
        "schedule": {"name": "adaptive", "options": {"estimator": "supernet"}},
    },
}
"""Values that a preset puts under the recipe's own (the recipe's keys win)."""

IMAGES: dict[str, dict[str, Any]] = {"entprog": {"gradient_checkpointing": True}}
"""Likewise for each phase of single frames, as long as the method is the preset's."""

CLIPS: dict[str, dict[str, Any]] = {"entprog": {"echo": 4, "echo_window": 64}}
"""And for each phase of clips."""
