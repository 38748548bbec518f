"""Published video transformers by configuration: planned without their weights, which are never downloaded."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from entprog.profiling.subject import Case

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}


@dataclass(frozen=True, slots=True)
class Backbone:
    """A transformer of diffusers, with what its inputs look like.

    Attributes:
        network: class name in diffusers.
        config: arguments of the class, as published beside the weights.
        stacks: (list of blocks in the model, argument that gives its length), in the order of execution.
        codec: pixels of a latent cell's side; `codec_frames` frames share a latent frame, but for the first.
        patch: latent cells of a token's side.
        text: tokens and width of the text's encoding.
        sides: short side -> long side of the published sizes; others keep the first one's proportion.
        inputs: names of the extra inputs that this family of networks takes.
        source: where the configuration is published.
    """

    name: str
    network: str
    config: dict[str, Any]
    stacks: tuple[tuple[str, str], ...]
    text: tuple[int, int]
    sides: dict[int, int]
    source: str
    inputs: str = "plain"
    channels: int = 16
    codec: int = 8
    codec_frames: int = 4
    patch: int = 2

    def long_side(self, short: int) -> int:
        """Pixels of the long side: as published, else in the proportion of the smallest published size."""
        if short in self.sides:
            return self.sides[short]
        first = min(self.sides)
        multiple = self.codec * self.patch
        return max(1, round(short * self.sides[first] / first / multiple)) * multiple


def _wan(name: str, heads: int, hidden: int, layers: int) -> Backbone:
    config = {
        "patch_size": (1, 2, 2), "num_attention_heads": heads, "attention_head_dim": 128, "in_channels": 16,
        "out_channels": 16, "text_dim": 4096, "freq_dim": 256, "ffn_dim": hidden, "num_layers": layers,
        "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 1024,
    }  # fmt: skip
    return Backbone(
        name, "WanTransformer3DModel", config, (("blocks", "num_layers"),), (512, 4096), {480: 832, 720: 1280},
        f"Wan-AI/Wan2.1-T2V-{name.rpartition('-')[2].upper()}-Diffusers, transformer/config.json",
    )  # fmt: skip


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        _wan("wan-2.1-1.3b", heads=12, hidden=8960, layers=30),
        _wan("wan-2.1-14b", heads=40, hidden=13824, layers=40),
        Backbone(
            "hunyuan-video-13b",
            "HunyuanVideoTransformer3DModel",
            {
                "in_channels": 16, "out_channels": 16, "num_attention_heads": 24, "attention_head_dim": 128,
                "num_layers": 20, "num_single_layers": 40, "num_refiner_layers": 2, "mlp_ratio": 4.0,
                "patch_size": 2, "patch_size_t": 1, "qk_norm": "rms_norm", "guidance_embeds": True,
                "text_embed_dim": 4096, "pooled_projection_dim": 768, "rope_theta": 256.0,
                "rope_axes_dim": (16, 56, 56),
            },
            (("transformer_blocks", "num_layers"), ("single_transformer_blocks", "num_single_layers")),
            (256, 4096),
            {544: 960, 720: 1280},
            "hunyuanvideo-community/HunyuanVideo, transformer/config.json",
            inputs="hunyuan",
        ),
        Backbone(
            "cogvideox-5b",
            "CogVideoXTransformer3DModel",
            {
                "num_attention_heads": 48, "attention_head_dim": 64, "in_channels": 16, "out_channels": 16,
                "time_embed_dim": 512, "text_embed_dim": 4096, "num_layers": 42, "patch_size": 2,
                "max_text_seq_length": 226, "sample_width": 90, "sample_height": 60, "sample_frames": 49,
                "temporal_compression_ratio": 4, "use_rotary_positional_embeddings": True,
            },
            (("transformer_blocks", "num_layers"),),
            (226, 4096),
            {480: 720},
            "THUDM/CogVideoX-5b, transformer/config.json",
            inputs="cogvideox",
        ),
    )
}  # fmt: skip
"""Backbones by the name that `model.backbone` takes."""


def find_backbone(name: str) -> Backbone:
    """A backbone by name.

    Raises:
        ValueError: there is none; names the nearest and all there are.
    """
    if name not in BACKBONES:
        near = get_close_matches(name.lower(), BACKBONES, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"model.backbone = {name!r}: unknown; {hint}choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


class BackboneSubject:
    """A published transformer as a `Subject`; weights, gradients and states are of the type that it trains in."""

    def __init__(self, backbone: Backbone, precision: str) -> None:
        self.backbone = backbone
        self.name = backbone.name
        self.heads: tuple[str, ...] = ("norm_out", "norm_final", "proj_out", "scale_shift_table")
        self.multiple = backbone.codec * backbone.patch
        self.type = TYPES[precision]
        names = [(stem, f"{stem}.{i}") for stem, argument in backbone.stacks for i in range(backbone.config[argument])]
        self.kinds = tuple(stem for stem, _ in names)
        self.units: tuple[tuple[str, ...], ...] = tuple((name,) for _, name in names)
        self.routed: frozenset[str] = frozenset()

    def build(self, places: Sequence[int]) -> tuple[nn.Module, list[tuple[str, ...]]]:
        """See `Subject.build`."""
        import diffusers

        kinds = [self.kinds[place] for place in places]
        counts = {argument: kinds.count(stem) for stem, argument in self.backbone.stacks}
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.type)
        try:
            model = getattr(diffusers, self.backbone.network)(**self.backbone.config | counts)
        finally:
            torch.set_default_dtype(before)
        return model, [(f"{stem}.{i}",) for stem, argument in self.backbone.stacks for i in range(counts[argument])]

    def step(self, model: nn.Module, case: Case) -> Callable[[], Tensor]:
        """Mean squared error of the network's output on latents in the sizes of a clip."""
        backbone, shape = self.backbone, case.shape
        if (shape.frames - 1) % backbone.codec_frames:
            near = (shape.frames - 1) // backbone.codec_frames * backbone.codec_frames + 1
            raise ValueError(
                f"frames = {shape.frames}: {backbone.name} takes 1 more than a multiple of {backbone.codec_frames}; "
                f"choose {near} or {near + backbone.codec_frames}"
            )
        if case.checkpointing:
            model.enable_gradient_checkpointing()  # type: ignore[operator]
        frames = (shape.frames - 1) // backbone.codec_frames + 1
        height, width = (side // backbone.codec for side in (shape.resolution, backbone.long_side(shape.resolution)))
        tokens, wide = backbone.text
        batch = shape.batch
        clip = (batch, backbone.channels, frames, height, width)
        given: dict[str, Any] = {
            "timestep": torch.zeros(batch, dtype=torch.long),
            "encoder_hidden_states": torch.zeros(batch, tokens, wide, dtype=self.type),
        }
        if backbone.inputs == "cogvideox":
            clip = (batch, frames, backbone.channels, height, width)
            places = frames * (height // backbone.patch) * (width // backbone.patch)
            head = backbone.config["attention_head_dim"]
            given["image_rotary_emb"] = (torch.zeros(places, head), torch.zeros(places, head))
        if backbone.inputs == "hunyuan":
            given["encoder_attention_mask"] = torch.ones(batch, tokens, dtype=self.type)
            given["pooled_projections"] = torch.zeros(batch, backbone.config["pooled_projection_dim"], dtype=self.type)
            given["guidance"] = torch.zeros(batch, dtype=self.type)
        given["hidden_states"] = torch.zeros(clip, dtype=self.type)
        return partial(_loss, model, given, torch.zeros(clip, dtype=self.type))

    def frames(self, limit: int) -> list[int]:
        """See `Subject.frames`."""
        return list(range(1, limit + 1, self.backbone.codec_frames))

    def family(self, name: str) -> tuple[str, ...]:
        """All blocks: they attend over space and time at once.

        Raises:
            ValueError: only some are asked for.
        """
        if name == "temporal":
            raise ValueError(f"phases: blocks = 'temporal': {self.name} has no temporal blocks; set blocks = 'all'")
        return tuple(block for unit in self.units for block in unit)

    def references(self, drawn: int) -> int:
        """None: there is no reference pass."""
        return 0

    def new_rests(self) -> bool:
        """None is: the published weights have trained."""
        return False

    def leave_out(self, model: nn.Module, names: Collection[str]) -> None:
        """None is."""

    def reference_bytes(self, case: Case, trained: Collection[str]) -> int:
        """None: there is no reference pass."""
        return 0

    def hidden_bytes(self, case: Case) -> int:
        """None: nothing is kept for a second step."""
        return 0


def _loss(model: nn.Module, given: dict[str, Any], target: Tensor) -> Tensor:
    out = model(**given, return_dict=False)[0]
    return nn.functional.mse_loss(out.float(), target.float())
