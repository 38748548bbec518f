"""The task of a pretrained model: windows of latents, text, reference and poses in, the model's own objective.

Shape legend: B samples, F pixel frames, T latent frames, C latent channels, h w latent height and width, N tokens of a
latent frame, D width.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from entprog.codecs.base import Codec
from entprog.codecs.diffusers import DiffusersCodec
from entprog.config.load import ConfigError
from entprog.config.schema import Config, EvaluateConfig, PhaseConfig, SampleConfig
from entprog.core.blocks import Blocks, discover_blocks
from entprog.core.types import Draw, Shape
from entprog.data.fingerprint import record_of
from entprog.data.sampler import generator, stratified_tau
from entprog.data.windows import WindowBatch, Windows, WindowSamples, prompt_hash
from entprog.diffusion.objective import Objective
from entprog.diffusion.windows import Window
from entprog.profiling.device import pick_device, pick_precision
from entprog.savings.weight_precision import set_precision
from entprog.tasks.base import HeldOutClip, Task
from entprog.tasks.pretrained import held_out, model_checks, saving
from entprog.tasks.pretrained.adapters import PoseAdapters, pose_maps, shown, side_of
from entprog.tasks.pretrained.animate import PretrainedAnimator
from entprog.tasks.pretrained.build import frames_of_a_token, new_modules, objective_of, ready
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.families.base import Family, Latent
from entprog.tasks.pretrained.folder import ModelFolder, read_configs
from entprog.tasks.pretrained.generate import generate_clips
from entprog.tasks.pretrained.map_adapters import as_features
from entprog.tasks.pretrained.prefix import Prefix, lowest_active
from entprog.tasks.pretrained.recipe_checks import DROP

POSE = "pose"
CONTROL = "control"
FRAME = "frame"
OWN = (POSE, CONTROL, FRAME)
"""Conditions of the task itself, beside those of the family."""

DROPPED: tuple[Literal["text", "pose", "reference"], ...] = ("text", "pose", "reference")
"""Keys of `model.drop`."""


def build_task(config: Config, weights: str = "") -> "PretrainedTask":
    """The task on its device, with the weights of `model.pretrained`, or those of a run's file."""
    device = pick_device(config.device)
    torch.manual_seed(config.train.seed)
    model = config.model
    bare = bare_task(config)  # first what needs no weights: they may take minutes to load
    if wrong := bare.problems_of_files():
        raise ConfigError(wrong)
    folder = ModelFolder.open(model.pretrained, revision=model.revision, component=model.component)
    bare = replace(bare, folder=folder, objective=objective_of(bare.family, model))
    model_checks.check_experts(bare)
    if config.data.path:
        model_checks.check_codec(bare)
    network = folder.network(model.dtype)
    adapters = ready(network, bare.family, model)
    autocast = pick_precision(config.train.mixed_precision, device)
    task = replace(bare, model=network.to(device), adapters=adapters, autocast=autocast)
    if weights:
        saving.load_weights(task, Path(weights))
    return task


def bare_task(config: Config) -> "PretrainedTask":
    """The task without a network, by the model's configuration files; of a hub id they are fetched.

    Raises:
        ValueError: no such model, or none of a known family.
    """
    model = config.model
    folder = ModelFolder.open(model.pretrained, revision=model.revision, component=model.component, weights=False)
    return PretrainedTask(nn.Module(), family_of(folder.configs, model.family), folder, config, Objective("flow"))


@dataclass
class PretrainedTask(Task):
    """A pretrained network with its family's objective and conditions, on a data set of format 2.

    Attributes:
        model: the network of diffusers, with pose adapters where `model.pose` asks for them; always in evaluation mode,
            as dropout and random labels are not part of fine-tuning.
        family: how it is called.
        folder: its files.
        objective: noise levels and what the network predicts.
        adapters: its pose adapters; None without any.
    """

    model: nn.Module
    family: Family
    folder: ModelFolder
    config: Config
    objective: Objective
    adapters: PoseAdapters | None = None
    autocast: str = "no"
    windows: Windows | None = None
    _codec: Codec | None = None
    _sides: tuple[int, int] | None = None
    _prefix: Prefix = field(default_factory=Prefix, repr=False)
    _experts: dict[str, nn.Module] = field(default_factory=dict, repr=False)

    generates: ClassVar[bool] = True
    bands: ClassVar[bool] = True

    # Data

    def problems_of_files(self) -> list[str]:
        """What keeps the run from training, as far as the model's configuration files and the data set say it."""
        wrong = list(model_checks.of_model(self.folder.configs, self.family, self.config.model))
        if not wrong and (why := self.guidance_problem(self.config.sample)):
            wrong.append(f'sample.guided_by = "{self.config.sample.guided_by}": {why}')
        if self.config.data.path and not any(line.startswith("model.pretrained") for line in wrong):
            wrong += model_checks.of_data(self, self.config)
        return wrong

    def guidance_problem(self, settings: SampleConfig) -> str:
        """See `Task.guidance_problem`."""
        return model_checks.of_guidance(self.family, self.config.model, settings.guided_by)

    @property
    def data(self) -> Windows:
        """The data set, opened at first use."""
        if self.windows is None:
            self.windows = Windows(self.config.data.path)
            self.family.frame_rate = float(self.windows.about["fps"])
        return self.windows

    @property
    def codec(self) -> Codec:  # type: ignore[override]
        """The model's VAE, loaded at first use; of a network without one the packaged codec of the data set."""
        if self._codec is None and not self.folder.configs.codec:
            from entprog.codecs.pca import PatchCodec

            self._codec = PatchCodec.default()
        if self._codec is None:
            self._codec = DiffusersCodec.load(self.folder.path, field="model.pretrained")
        return self._codec

    def decoded(self, latents: Tensor) -> Tensor:
        """Frames [..., F, 3, H, W] in 0..1, on the CPU, decoded on the network's device."""
        if isinstance(self.codec, DiffusersCodec):
            self.codec.to(self.device)
        return self.codec.decode(latents.to(self.device)).cpu()

    def latent(self, sides: tuple[int, int], frames: int) -> Latent:
        """The size of a clip of the data set, without frames in front of it."""
        about = self.data.about["codec"]
        factor, per = int(about["factor"]), int(about["frames_factor"])
        length = (frames - 1) // per + 1
        return Latent(length, int(about["channels"]), sides[0] // factor, sides[1] // factor, frames)

    def check(self, config: Config) -> None:
        """See `Task.check`."""
        held_out.check_data(self, config)

    def samples(self, split: str, frames: int, seed: int) -> WindowSamples:
        """See `Task.samples`: windows of the phase's size."""
        height, width = self._sides or list(self.config.phases.values())[-1].sides
        return WindowSamples(self.data, split, seed=seed, frames=frames, size=f"{height}x{width}")

    # A phase

    def blocks(self, phase: PhaseConfig, patterns: Sequence[str] = ()) -> Blocks:
        """See `Task.blocks`; those of the family's patterns, in execution order."""
        return discover_blocks(self.model, list(patterns) or None)

    def enter(self, phase: PhaseConfig) -> None:
        """The phase's size, its noise levels where they depend on it, and recomputation."""
        self._sides = phase.sides
        self.model.eval()
        frames, rows, columns = self.family.tokens(self.latent(phase.sides, phase.frames))
        self.objective = objective_of(self.family, self.config.model, frames * rows * columns)
        self.recompute(phase.gradient_checkpointing or self.config.train.gradient_checkpointing)

    def new_modules(self) -> tuple[str, ...]:
        """The pose adapters."""
        return new_modules(self.adapters, self.config.model)

    # Data and loss

    def data_record(self) -> dict[str, Any]:
        """See `Task.data_record`."""
        return record_of(self.data)

    def draw(self, batch: WindowBatch, shape: Shape, seed: int, *, dropout: float | None = None) -> Draw:
        """Fix everything random about a batch: noise level, noise, which reference, which conditions are dropped.

        A pure function of (seed, positions). A dropped text is the empty prompt's; for others see `Family.nothing`.
        """
        model, device = self.config.model, self.device
        latent = self.led(self.latent(shape.sides, shape.frames))
        tau = torch.from_numpy(stratified_tau(seed, batch.positions, shape.band)).float().to(device)
        noise = [generator(seed, 2, int(p)).standard_normal(latent.shape, dtype=np.float32) for p in batch.positions]
        clean = batch.tensors["latents"]
        if latent.frames > clean.shape[1]:
            clean = torch.cat([batch.tensors["reference"][:, :1], clean], 1)
        clean = clean.to(device)
        eps = torch.from_numpy(np.stack(noise)).to(device)
        rates = {group: model.drop.get(group, DROP) if dropout is None else dropout for group in DROPPED}
        kept: dict[str, Tensor] = {
            group: self._kept(batch.positions, seed, place, rate) for place, (group, rate) in enumerate(rates.items())
        }
        nothing = self.data.text(prompt_hash(""))
        texts = [text if keep else nothing for text, keep in zip(batch.text, kept["text"].tolist(), strict=True)]
        condition = self.conditioned(batch.tensors, texts, latent, kept)
        x, target = self.objective.add(clean, eps, tau), self.objective.target(clean, eps, tau)
        return Draw(x, tau, target, condition)

    def _kept(self, positions: np.ndarray, seed: int, place: int, rate: float) -> Tensor:
        """[B] 1 where a condition is kept."""
        kept = [generator(seed, 4, int(p), place).random() >= rate for p in positions]
        return torch.tensor(kept, dtype=torch.float32)

    def conditioned(
        self, stored: Mapping[str, Tensor], texts: Sequence[Mapping[str, Tensor]], latent: Latent,
        kept: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        """The conditions of a batch of unpadded texts; see `with_text`."""
        text = self.family.padded(texts) if self.family.text_length else {}
        return self.with_text(stored, text, latent, kept)

    def with_text(
        self, stored: Mapping[str, Tensor], text: Mapping[str, Tensor], latent: Latent, kept: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The conditions of a batch, on the device.

        Args:
            stored: tensors of the data set, [B, ...], of one reference image.
            text: padded, as `Family.padded` gives it.
            kept: group -> [B], 0 where that condition is dropped.
        """
        model, device = self.config.model, self.device
        whole = self.framed(latent)
        one = {name: stored[name] for name in self.stored}
        found = self.family.condition(one, text, whole, pose=model.pose, reference=model.reference)
        groups = {c.name: c.group for c in self.family.conditions(whole, pose=model.pose, reference=model.reference)}
        if self.adapters is not None and model.pose == "blocks":
            _, rows, columns = self.family.tokens(latent)
            found[POSE], groups[POSE] = pose_maps(stored["pose"].numpy(), (rows, columns)), "pose"
        if model.pose == "input":
            found[CONTROL], groups[CONTROL] = stored["control"].float(), "pose"
        if model.reference == "frame":
            found[FRAME], groups[FRAME] = one["reference"][:, :1].float(), "reference"
        for name, group in groups.items():
            if group in ("pose", "reference") and not bool(kept[group].all()):
                keep = kept[group].view(-1, *[1] * (found[name].dim() - 1))
                nothing = torch.zeros_like(found[name]) if name in OWN else self.family.nothing(name, found)
                found[name] = torch.where(keep > 0, found[name], nothing)
        return {name: tensor.to(device) for name, tensor in found.items()}

    @property
    def stored(self) -> tuple[str, ...]:
        """Names of the tensors that the data set must hold beside latents and poses."""
        model = self.config.model
        names = list(self.family.stored(pose=model.pose, reference=model.reference))
        names += ["control"] * (model.pose == "input") + ["reference"] * (model.reference == "frame")
        return tuple(dict.fromkeys(names))

    def led(self, latent: Latent) -> Latent:
        """The size with the frames in front that are denoised with a clip."""
        return replace(latent, frames=latent.frames + self.family.leading(reference=self.config.model.reference))

    def framed(self, latent: Latent) -> Latent:
        """The size with the reference as one more latent frame, where `model.reference` is "frame"."""
        return replace(latent, frames=latent.frames + 1) if self.config.model.reference == "frame" else latent

    def predict(self, draw: Draw) -> Tensor:
        """What the network predicts, [B, T, C, h, w] float32, without the reference frame."""
        with self._entered(draw.hidden):
            return self.call(draw.x, self.objective.time(draw.tau), draw.condition)

    def call(
        self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor], network: nn.Module | None = None
    ) -> Tensor:
        """The prediction of `network` (by default `model`) at a time in the unit of the scheduler's timesteps."""
        given = {name: value for name, value in condition.items() if name not in OWN}
        frames = [condition[FRAME].to(x.dtype)] if FRAME in condition else []
        whole = torch.cat([*frames, x], 1)
        self._show(condition, whole)
        with self.precision():
            out = (network or self.model)(**self.family.inputs(whole, time, given), return_dict=False)[0]
        return self.family.output(out.float(), whole)[:, len(frames) :]

    def _show(self, condition: Mapping[str, Tensor], whole: Tensor) -> None:
        """Set what the adapters see."""
        side = side_of(self.model)
        if side is None:
            return
        grid = Latent(*whole.shape[1:])
        front = int(FRAME in condition) + self.family.leading(reference=self.config.model.reference)
        frames, rows, columns = self.family.tokens(grid)
        if POSE in condition:
            maps = condition[POSE].float() / 255
            tokens = shown(maps, frames, front, self.group, (rows, columns))
            side.pose = as_features(tokens, (rows, columns)) if self.family.posed_maps else tokens
        if CONTROL in condition:
            control = condition[CONTROL]
            control = torch.cat([control.new_zeros(len(control), front, *control.shape[2:]), control], 1)
            side.control = self.family.control(control)

    @property
    def group(self) -> int:
        """Pixel frames of a token frame."""
        return frames_of_a_token(self.family)

    def errors(self, draw: Draw) -> Tensor:
        """See `Task.errors`; latent frames that are given, not generated, are left out."""
        first = self.family.first_counted(reference=self.config.model.reference)
        return (self.predict(draw) - draw.target)[:, first:].pow(2)

    # Savings

    def prefix_place(self) -> int:
        """See `Task.prefix_place`: the place of the lowest active block, where the prefix can be cached."""
        if not self.family.single_stack:
            return 0
        return lowest_active(self.model, discover_blocks(self.model), self.family.head)

    @torch.no_grad()
    def prefix(self, draw: Draw) -> Draw:
        """See `Task.prefix`; `hidden` is the output of the block below the lowest active one."""
        place = self.prefix_place()
        if not place or draw.hidden is not None:
            return draw
        hidden = self._prefix.output(discover_blocks(self.model), place, lambda: self.predict(draw))
        return draw if hidden is None else replace(draw, hidden=hidden)

    @contextmanager
    def _entered(self, hidden: Tensor | None) -> Iterator[None]:
        """Within the context, the network starts from the output of its frozen prefix, if that is known."""
        if hidden is None:
            yield
            return
        with self._prefix.entered(discover_blocks(self.model), self.prefix_place(), hidden):
            yield

    def hidden_bytes(self, shape: Shape) -> int:
        """See `Task.hidden_bytes`: tokens of video, text beside them in joint attention."""
        if not self.family.single_stack:
            return 0
        latent = self.framed(self.led(self.latent(shape.sides, shape.frames)))
        tokens = math.prod(self.family.tokens(latent)) + self.family.joint_tokens
        return shape.batch * tokens * self.family.width * (4 if self.autocast == "no" else 2)

    # Clips

    def network_at(self, time: float) -> nn.Module:
        """The network that denoises at this time: of two experts also the one that does not train, as it was given.

        It stays on the CPU; whoever calls it moves it.
        """
        component = self.family.component_at(time)
        if component == self.folder.configs.component:
            return self.model
        if component not in self._experts:
            other = replace(self.folder, configs=read_configs(self.folder.path, component))
            dtype = self.config.model.dtype
            network = self.family.prepared(other.network(dtype)).requires_grad_(False)
            set_precision(network, dtype, "float32")
            self._experts[component] = network
        return self._experts[component]

    def held_out(self, settings: EvaluateConfig) -> Iterator[list[HeldOutClip]]:
        """See `Task.held_out`: the first held-out windows of the evaluation's size."""
        return held_out.batches(self, settings)

    def generate(
        self, conditions: Mapping[str, Tensor], settings: SampleConfig, keys: Sequence[int], *, progress: bool = False,
        window: Window | None = None,
    ) -> Tensor:  # fmt: skip
        """See `Task.generate`; conditions are those that `held_out` gives."""
        return generate_clips(self, conditions, settings, keys, progress=progress, window=window)

    def animator(self, prompt: str = "") -> PretrainedAnimator:
        """See `Task.animator`."""
        return PretrainedAnimator(self, prompt)

    def save(self, folder: Path) -> None:
        """See `Task.save`: the model in diffusers' layout, and what moved."""
        saving.save(self, folder)
