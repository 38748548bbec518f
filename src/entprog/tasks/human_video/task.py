"""The human video task: a reference image and poses in, a clip of that person out.

Shape legend: B samples, F frames, C latent channels, h w latent height and width, D width.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from entprog.codecs.base import Codec
from entprog.codecs.pca import PatchCodec
from entprog.config.schema import Config, DataConfig, EvaluateConfig, PhaseConfig, SampleConfig
from entprog.core.types import Draw, Shape
from entprog.data.clips import Batch, Clips
from entprog.data.fingerprint import record_of
from entprog.data.sampler import generator, sample_noise, stratified_tau
from entprog.data.shards import Shards
from entprog.data.source import open_data
from entprog.diffusion.objective import Objective
from entprog.diffusion.windows import Window
from entprog.files import write_atomically
from entprog.nets.dit import VideoDiT
from entprog.profiling.device import pick_device, pick_precision
from entprog.savings.reference_cache import ReferenceCache
from entprog.tasks.base import CacheOptions, HeldOutClip, Task
from entprog.tasks.human_video import held_out
from entprog.tasks.human_video.animate import HumanVideoAnimator
from entprog.tasks.human_video.build import build_model, new_modules
from entprog.tasks.human_video.data_checks import check_data
from entprog.tasks.human_video.generate import sample_clips

FAMILIES: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "spatial": lambda name: not name.startswith("temporal."),
    "temporal": lambda name: name.startswith("temporal."),
}


def build_task(config: Config, weights: str = "") -> "HumanVideoTask":
    """The task on its device, with weights as `config.model.init` says, or those of a file."""
    device = pick_device(config.device)
    torch.manual_seed(config.train.seed)
    model = build_model(config.model, weights)
    model.gradient_checkpointing = config.train.gradient_checkpointing
    full = max(config.data.sizes) if config.data.rendered else max(p.sides[0] for p in config.phases.values())
    return HumanVideoTask(
        model.to(device),
        Objective(beta_schedule=config.model.beta_schedule),
        full_size=full,
        dropout=config.model.condition_dropout,
        autocast=pick_precision(config.train.mixed_precision, device),
        config=config,
    )


@dataclass
class HumanVideoTask(Task):
    """Noise prediction with mean squared error (published objective) on latent clips.

    Attributes:
        model: the transformer.
        objective: the forward process and what the model predicts.
        full_size: largest side in pixels of the data set; noise is drawn at it and cropped to smaller shapes.
        pose: whether the phase shows poses to the model (phase 1 does not).
        dropout: share of samples whose whole condition is zeroed, for classifier-free guidance.
        neutral: side in pixels at which times are used as drawn; at any other they are shifted to the same
            signal-to-noise ratio (`Objective.shifted`). 0: never.
        autocast: dtype of the forward pass ("bf16", "fp16") or "no".
        reference_cache: output of the frozen part of the reference pass, for draws that `prepare` has seen.
        config: of the run; if None, `shards` must be given for `samples`, `held_out` and `mean_frame`.
    """

    model: VideoDiT
    objective: Objective
    full_size: int = 64
    pose: bool = True
    dropout: float = 0.0
    neutral: int = 0
    autocast: str = "no"
    reference_cache: ReferenceCache | None = None
    config: Config | None = None
    shards: Shards | None = None
    codec: Codec = field(default_factory=PatchCodec.default)  # type: ignore[assignment]

    generates: ClassVar[bool] = True
    bands: ClassVar[bool] = True

    # Building and saving

    def build(self, config: Config, weights: str = "") -> "HumanVideoTask":
        """See `TaskPlugin.build`."""
        return build_task(config, weights)

    @property
    def data(self) -> Shards:
        """The data set, opened (rendered people: rendered) at first use."""
        if self.shards is None:
            self.shards = open_data(self.config.data if self.config else DataConfig(), self.codec)
        return self.shards

    def on(self, shards: Shards) -> "HumanVideoTask":
        """This task, with another data set."""
        self.shards = shards
        return self

    @property
    def sizes(self) -> Sequence[int]:  # type: ignore[override]
        """Sides in pixels that latents are stored for."""
        return self.data.sizes

    def check(self, config: Config) -> None:
        """See `Task.check`: a resolution that is not stored, too few frames, a batch larger than the data set."""
        check_data(config, self.data)

    def save(self, folder: Path) -> None:
        """See `Task.save`; config.json describes the model of the weights."""
        super().save(folder)
        write_atomically(folder / "config.json", json.dumps(asdict(self.model.config), indent=2) + "\n")

    def with_model(self, model: nn.Module) -> "HumanVideoTask":
        """See `Task.with_model`."""
        assert isinstance(model, VideoDiT)
        return replace(self, model=model, reference_cache=None)

    # A phase

    def in_phase(self, block: str, phase: PhaseConfig) -> bool:
        """Spatial blocks, temporal blocks, or all."""
        return FAMILIES[phase.blocks](block)

    def enter(self, phase: PhaseConfig) -> None:
        """Poses shown or not, temporal blocks off in phases of spatial ones, activations recomputed or not."""
        train = self.config.train if self.config else None
        self.pose = phase.pose
        self.neutral = phase.sides[0] if train and train.resolution_shift else 0
        self.model.temporal_off, self.model.idle = phase.blocks == "spatial", frozenset()
        self.recompute(phase.gradient_checkpointing or bool(train and train.gradient_checkpointing))

    def leave(self) -> None:
        """Poses shown, temporal blocks on."""
        self.pose, self.model.temporal_off = True, False

    def start_training(self) -> None:
        """New temporal blocks that do not train stay the identity for the whole phase: they are skipped, exactly."""
        self.model.idle = self.model.idle_temporal()

    def recompute(self, on: bool) -> None:
        """See `Task.recompute`."""
        self.model.gradient_checkpointing = on

    def new_modules(self) -> tuple[str, ...]:
        """Those that `model.fresh` names."""
        return new_modules(self.config.model) if self.config else ()

    # Data and loss

    def samples(self, split: str, frames: int, seed: int) -> Clips:
        """See `Task.samples`."""
        return Clips(self.data, split, seed=seed, frames=frames)

    def data_record(self) -> dict[str, Any]:
        """See `Task.data_record`."""
        return record_of(self.data)

    def draw(self, batch: Batch, shape: Shape, seed: int, *, dropout: float | None = None) -> Draw:
        """Fix everything random about a batch: tau, noise and which conditions are dropped.

        A pure function of (seed, positions): the same sample gets the same tau, noise and dropout in any batch,
        on any rank, and at any size (noise is drawn at full size and cropped). With `shape.tokens` below 1 the draw
        lists which tokens the middle blocks see.

        Raises:
            ValueError: the resolution is not a multiple of codec factor times patch.
        """
        factor = self.codec.factor
        unit = factor * self.model.config.patch
        if shape.resolution % unit:
            raise ValueError(f"resolution = {shape.resolution}: must be a multiple of {unit} (codec {factor} x patch)")
        side = shape.resolution // factor
        full = (self.codec.channels, self.full_size // factor, self.full_size // factor)
        noise = [sample_noise(seed, int(p), shape.frames, full, (side, side)) for p in batch.positions]
        eps = torch.from_numpy(np.stack(noise)).to(self.device)
        tau = torch.from_numpy(stratified_tau(seed, batch.positions, shape.band)).float().to(self.device)
        if self.neutral and self.neutral != shape.resolution:
            tau = self.objective.shifted(tau, self.neutral / shape.resolution)
        rate = self.dropout if dropout is None else dropout
        kept = [generator(seed, 4, int(p)).random() >= rate for p in batch.positions]
        keep = torch.tensor(kept, dtype=torch.float32, device=self.device)
        condition = {"reference": batch.reference.to(self.device) * keep.view(-1, 1, 1, 1)}
        if self.pose:
            maps = batch.pose.to(self.device).float() / 255
            condition["pose"] = maps * keep.view(-1, 1, 1, 1, 1)
        places = self._places(batch.positions, shape, seed) if shape.tokens < 1 else None
        clean = batch.latents.to(self.device)
        x, target = self.objective.add(clean, eps, tau), self.objective.target(clean, eps, tau)
        return Draw(x, tau, target, condition, places=places)

    def _places(self, positions: np.ndarray, shape: Shape, seed: int) -> Tensor:
        """The tokens that the middle blocks see, [B, K] in order, K at least 1; fixed by (seed, position) and size.

        A smaller share takes a subset of the places of a larger one.
        """
        side = shape.resolution // self.codec.factor // self.model.config.patch
        count = max(1, round(shape.tokens * side * side))
        drawn = [np.sort(generator(seed, 6, int(p)).permutation(side * side)[:count]) for p in positions]
        return torch.from_numpy(np.stack(drawn)).to(self.device)

    def predict(self, draw: Draw) -> Tensor:
        """eps_hat [B, F, C, h, w] float32."""
        entered = None if draw.hidden is None else (self.model.lowest_active(), draw.hidden)
        return self._run(draw, entered=entered)

    def _run(self, draw: Draw, *, entered: tuple[int, Tensor] | None = None, until: int | None = None) -> Tensor:
        reference = draw.condition["reference"]
        with self.precision():
            states = None
            if self.reference_cache is not None:
                states = self.reference_cache.states(reference, last=until is None)
            if states is not None or until is not None:
                last = None if until is None else (until - 1) // 2
                states = self.model.reference_states(reference, known=states or (), until=last)
            return self.model(
                draw.x, draw.tau, reference, draw.condition.get("pose"), reference_states=states,
                places=draw.places, entered=entered, until=until,
            )  # fmt: skip

    # Savings

    def prepare(self, draw: Draw) -> None:
        """Before a training step's loss: look up or compute the cached states for this draw's references.

        Only prepared draws use the cache, once: scores and readings of the holdout run the whole network.
        """
        if self.reference_cache is not None:
            with self.precision():
                self.reference_cache.prepare(draw.condition["reference"])

    def prefix_place(self) -> int:
        """The entrance of the lowest active block, as `VideoDiT.forward` counts them."""
        return self.model.lowest_active()

    @torch.no_grad()
    def prefix(self, draw: Draw) -> Draw:
        """See `Task.prefix`; `hidden` is [B, F, N, D]. None where middle blocks see a share of the tokens."""
        until = self.model.lowest_active()
        if not until or draw.places is not None:
            return draw
        return replace(draw, hidden=self._run(draw, until=until))

    def hidden_bytes(self, shape: Shape) -> int:
        """Bytes of hidden states [B, F, N, D] of a micro-batch at one position in the network."""
        tokens = (shape.resolution // (self.codec.factor * self.model.config.patch)) ** 2
        return shape.batch * shape.frames * tokens * self.model.config.width * (4 if self.autocast == "no" else 2)

    def open_cache(self, options: CacheOptions) -> None:
        """The reference cache of `train.reference_cache`."""
        kind = options.train.reference_cache
        if kind == "off":
            return
        self.reference_cache = ReferenceCache(
            self.model, kind, options.train.reference_cache_bytes, folder=options.folder if kind == "disk" else None,
            warn=options.warn, computing=options.computing,
        )  # fmt: skip

    def cache_counts(self) -> dict[str, int] | None:
        """See `Task.cache_counts`."""
        cache = self.reference_cache
        return None if cache is None else {"hits": cache.hits, "misses": cache.misses, "bytes": cache.size}

    def close_cache(self) -> None:
        """See `Task.close_cache`."""
        if self.reference_cache is not None:
            self.reference_cache.close()

    # Clips

    def held_out(self, settings: EvaluateConfig) -> Iterator[list[HeldOutClip]]:
        """See `Task.held_out`."""
        held_out.check_size(self.data, settings)
        clips = held_out.holdout_clips(self.data, settings.frames)
        return held_out.batches(clips, settings, self.codec, self.model.config.patch)

    def generate(
        self, conditions: Mapping[str, Tensor], settings: SampleConfig, keys: Sequence[int], *, progress: bool = False,
        window: Window | None = None,
    ) -> Tensor:  # fmt: skip
        """See `Task.generate`; conditions are "reference" latents [B, C, h, w] and "pose" maps [B, F, 3, S, S]."""
        pose = conditions["pose"]
        latents = sample_clips(
            self, conditions["reference"], pose if self.pose else None, frames=pose.shape[1],
            scheduler=settings.scheduler, num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale, seed=settings.seed, keys=keys, codec=self.codec, progress=progress,
            window=window,
        )  # fmt: skip
        return self.codec.decode(latents.cpu())

    def animator(self, prompt: str = "") -> HumanVideoAnimator:
        """See `Task.animator`."""
        if prompt:
            raise ValueError(f"prompt = {prompt!r}: the task 'human_video' takes no text; leave it out")
        return HumanVideoAnimator(self, self.config or Config())

    def mean_frame(self, resolution: int) -> Tensor:
        """See `Task.mean_frame`."""
        return held_out.mean_frame(self.data, resolution, self.codec)
