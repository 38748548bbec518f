"""The Family contract: how a class of pretrained networks is called; nothing else of a family is known outside.

Shape legend: B samples, F pixel frames, T latent frames, C latent channels, h w latent height and width, N tokens of a
latent frame, L text tokens, K reference images.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from entprog.core.blocks import Adapter
from entprog.diffusion.objective import Objective

__all__ = ["Condition", "Configs", "Family", "Latent"]

Group = Literal["text", "pose", "reference", ""]


@dataclass(frozen=True, slots=True)
class Latent:
    """The size of one sample: T latent frames of C x h x w, of F pixel frames."""

    frames: int
    channels: int
    height: int
    width: int
    pixel_frames: int = 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, C, h, w)."""
        return self.frames, self.channels, self.height, self.width


@dataclass(frozen=True, slots=True)
class Condition:
    """A tensor that the network gets beside the noised latents and the time.

    Attributes:
        name: in `Draw.condition`.
        shape: of one sample.
        group: which rate of `model.drop` applies; "" for what is never dropped.
        integer: whether it holds indices (class labels), not numbers.
    """

    name: str
    shape: tuple[int, ...]
    group: Group = ""
    integer: bool = False


@dataclass(frozen=True)
class Configs:
    """The configuration files of a pretrained model in diffusers' layout.

    Attributes:
        network: config.json of the component that trains, with `_class_name`.
        scheduler: scheduler_config.json.
        codec: config.json of the VAE; empty where the folder has none.
        index: model_index.json; empty for a component's own folder.
        component: the folder of the network, such as "transformer".
        text: config.json of each text encoder, by its folder.
    """

    network: Mapping[str, Any]
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    codec: Mapping[str, Any] = field(default_factory=dict)
    index: Mapping[str, Any] = field(default_factory=dict)
    component: str = "transformer"
    text: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Family(ABC):
    """Networks that are called in one way.

    A subclass in a file of this folder, named in its `__all__`, is found by the `_class_name` of config.json;
    `model.family = "package.module:Class"` names one of your own.

    `inputs` is all that must be defined. Latents are [B, T, C, h, w] on our side, whatever the network takes; T is 1
    for images.

    Attributes:
        networks: diffusers' classes that it calls.
        patterns: block names, `*` for one dotted part; empty: found by the network's module lists.
        posed: patterns of the blocks that pose adapters can stand in; empty for all blocks.
        single_stack: whether the output of a block is all that later blocks need of those before it, so that the
            frozen prefix can be cached.
        unguided: conditions that the family's pipeline drops beside the text for classifier-free guidance.
        head: beginnings of the names of output-side parameters.
        native_pose: whether the network has a pose path of its own (`model.pose = "native"`).
        native_reference: whether it has inputs for a reference image (`model.reference = "native"`).
        entrance: name of the module that embeds the latents (a convolution or a linear layer), for
            `model.pose = "input"`.
        text_length: tokens that text is padded to; 0 for a network without text.
        guided_by: the conditions that classifier-free guidance leaves out in its second call: "text" (the empty prompt
            in their place), or "reference" or "pose" for models without text.
        posed_maps: whether the blocks of `posed` take maps [B T, C, h, w], as U-Nets do, and not tokens.
    """

    networks: ClassVar[tuple[str, ...]]
    patterns: ClassVar[tuple[str, ...]] = ()
    posed: ClassVar[tuple[str, ...]] = ()
    single_stack: ClassVar[bool] = True
    unguided: ClassVar[tuple[str, ...]] = ()
    head: ClassVar[tuple[str, ...]] = ("proj_out", "norm_out", "scale_shift_table", "conv_out", "conv_norm_out")
    entrance: ClassVar[str] = "patch_embedding"
    guided_by: ClassVar[Group] = "text"
    posed_maps: ClassVar[bool] = False

    def __init__(self, configs: Configs) -> None:
        self.configs = configs
        self.network = configs.network

    # What the configuration files say

    def objective(self, **settings: Any) -> Objective:
        """The objective of scheduler_config.json; `settings` as `Objective.from_scheduler_config` takes them."""
        return Objective.from_scheduler_config(self.configs.scheduler, **settings)

    @property
    def channels(self) -> int:
        """Latent channels C that the network predicts."""
        return int(self.network.get("out_channels") or self.network["in_channels"])

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a token."""
        return 1, 1, 1

    @property
    def width(self) -> int:
        """Width of a token in the blocks of `posed`."""
        return int(self.network["num_attention_heads"]) * int(self.network["attention_head_dim"])

    @property
    def native_pose(self) -> bool:
        """See the class."""
        return False

    @property
    def native_reference(self) -> bool:
        """See the class."""
        return False

    @property
    def text_length(self) -> int:
        """See the class."""
        return 0

    def notes(self) -> tuple[str, ...]:
        """What a user must know who trains this component of this model."""
        return ()

    def problem(self, *, pose: str, reference: str) -> str:
        """Why these settings of `model.pose` and `model.reference` can't be used; empty where they can."""
        return ""

    def leading(self, *, reference: str) -> int:
        """Latent frames in front of the clip's own that are noised and denoised with them: the clean latents there are
        those of the reference image. They do not count in the loss, and a generated clip is cut by them."""
        return 0

    def first_counted(self, *, reference: str) -> int:
        """The first latent frame that counts in the loss."""
        return self.leading(reference=reference)

    def skip_adapters(self, network: nn.Module) -> Mapping[str, Adapter]:
        """The outputs of skipped blocks that can't be found by the probe (see `Blocks`), by block name."""
        return {}

    @property
    def joint_tokens(self) -> int:
        """Text tokens that the blocks return beside the video's (joint attention), which a prefix cache keeps, too."""
        return 0

    @property
    def frames_factor(self) -> int:
        """Pixel frames of a latent frame, after the first; by the VAE's configuration."""
        scale = self.configs.codec.get("scale_factor_temporal") or self.configs.codec.get("temporal_compression_ratio")
        return int(scale or 1)

    def part(self) -> tuple[float, float]:
        """The lowest and highest noise level that this component sees; of two experts its own share."""
        return 0.0, 1.0

    def tokens(self, latent: Latent) -> tuple[int, int, int]:
        """Frames, rows and columns of the tokens that a sample becomes."""
        frames, rows, columns = self.patch
        return -(-latent.frames // frames), latent.height // rows, latent.width // columns

    def block_names(self, network: nn.Module) -> list[str]:
        """The blocks in order of execution, where patterns can't put them in it; empty: as `patterns` say."""
        return []

    # Conditions. A `latent` is the size of what the network gets: frames in front of the clip's own are counted in its
    # `frames`, but not in its `pixel_frames`.

    def stored(self, *, pose: str, reference: str) -> tuple[str, ...]:
        """Names of tensors that the data set must hold beside the latents and poses ("first", "reference", "image",
        "image_embeds", "control", "face", "blank": the latents of a clip whose pixels are all 0 in -1..1; see
        data/windows.py), for `model.pose` and `model.reference`."""
        return ("reference",) if reference == "frame" else ()

    def conditions(self, latent: Latent, *, pose: str, reference: str) -> tuple[Condition, ...]:
        """The conditions of a sample, for plans and for fake inputs; their order does not matter."""
        return ()

    def condition(
        self, stored: Mapping[str, Tensor], text: Mapping[str, Tensor], latent: Latent, *, pose: str, reference: str
    ) -> dict[str, Tensor]:
        """The tensors that `conditions` names, of a batch.

        Args:
            stored: what `stored` asked for, [B, ...], one reference image a sample already chosen (no K axis).
            text: the padded text (see `padded`).
        """
        return dict(text)

    def nothing(self, name: str, condition: Mapping[str, Tensor]) -> Tensor:
        """What takes the place of a condition that is dropped, in the shape of `condition[name]`."""
        return torch.zeros_like(condition[name])

    def encode_text(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        """What the family's own pipeline makes of a prompt: tensors without the batch axis, without padding.

        Args:
            pipeline: diffusers' pipeline, loaded without network and VAE.
        """
        raise ValueError(f"{type(self).__name__}: takes no text")

    def padded(self, texts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The text of a batch as the network takes it: by default "text" [B, L, D], zeros after the last token."""
        if not texts:
            return {}
        return {"text": stacked([text["text"] for text in texts], self.text_length)}

    # The call

    @abstractmethod
    def inputs(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Any]:
        """The arguments of the network's forward.

        Args:
            x: noised latents [B, T, C, h, w].
            time: [B], in the unit of the scheduler's timesteps.
        """

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        """What the network returned, as [B, T, C, h, w]; by default it is [B, C, T, h, w]."""
        return out.transpose(1, 2)

    def control(self, latents: Tensor) -> Tensor:
        """Control latents [B, T, C, h, w] in the layout of the input of `entrance`; by default [B, C, T, h, w]."""
        return latents.transpose(1, 2)

    def keep(self, x: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The latents of a sampling step with those frames restored that are given, not generated."""
        return x

    # Generating

    def timesteps(self, scheduler: Any, steps: int, latent: Latent, device: torch.device) -> Tensor:
        """Sets the scheduler's timesteps, as the family's own pipeline does."""
        scheduler.set_timesteps(steps, device=device)
        return scheduler.timesteps  # type: ignore[no-any-return]

    def component_at(self, time: float) -> str:
        """The component that denoises at a time, in the unit of the scheduler's timesteps."""
        return self.configs.component

    def guidance(self, scale: float, x: Tensor) -> float | Tensor:
        """The scale of classifier-free guidance for latents x, from that of the recipe; as a tensor where it differs
        from frame to frame."""
        return scale

    def sampling_problem(self, scheduler: Any) -> str:
        """Why clips can't be generated; empty where they can."""
        return ""

    def sampler(self, scheduler: Any) -> Any:
        """The scheduler that generates: by default the folder's own; another one where the step of that takes more than
        (prediction, time, latents)."""
        return scheduler

    frame_rate: float = 0.0
    """Frames per second of the videos, set by whoever knows the data; 0: the default of the family's own pipeline."""

    @property
    def embedded_guidance(self) -> float:
        """For a distilled network that takes the guidance scale as an input: the scale that its pipeline generates with
        by default. `condition` gives 1 as "guidance" [B], for training; whoever generates puts this there and calls the
        network once a step. 0: the network takes none."""
        return 0.0

    def prepared(self, network: nn.Module) -> nn.Module:
        """The network after loading, and a plan's copy of it: changed in place where the class of diffusers can't run
        on fake tensors. Its parameters, their names and the name of its class stay the same."""
        return network

    def size_problem(self, latent: Latent) -> str:
        """Why the network can't take samples of this size, and the remedy; empty where it can. That a side is a
        multiple of the patch is checked elsewhere."""
        return ""

    # Images

    def encode_image(self, pipeline: Any, image: Any) -> Tensor:
        """What the family's own pipeline makes of a reference image for `image_embeds`: states [L, D].

        Args:
            pipeline: diffusers' pipeline, loaded without network, VAE and text encoder.
            image: of PIL.
        """
        raise ValueError(f"{type(self).__name__}: takes no states of an image encoder")


def stacked(tokens: Sequence[Tensor], length: int) -> Tensor:
    """Texts [L_i, D] as [B, length, D], cut or filled with zeros."""
    out = tokens[0].new_zeros(len(tokens), length, tokens[0].shape[-1])
    for row, text in zip(out, tokens, strict=True):
        row[: min(length, len(text))] = text[:length]
    return out


def lengths(tokens: Sequence[Tensor], length: int) -> Tensor:
    """The mask [B, length] of `stacked`: 1 where there is a token."""
    out = tokens[0].new_zeros(len(tokens), length)
    for row, text in zip(out, tokens, strict=True):
        row[: len(text)] = 1
    return out
