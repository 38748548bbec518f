"""Tiny pipelines of the video families, as tests run them, and what a data set would hold of the same inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from entprog.tasks.pretrained.families.base import Latent
from entprog.tasks.pretrained.families.hunyuan_video15 import HunyuanVideo15
from family_calls import Captured, Opened, posterior_mode

PROMPTS = ["", 'a person dances with the "HI" sign']
"""The negative prompt, and the prompt."""

BOTH = ((0, 1),)
"""One call a step for classifier-free guidance, with the negative prompt first; else ((1,), (0,))."""


def transposed(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


@dataclass(frozen=True)
class Case:
    """One pipeline: how it is run, and what the data set would hold of the same inputs.

    Attributes:
        latent: of a sample.
        settings: of the pipeline's call, the sizes and the guidance.
        calls: places in `PROMPTS` of the samples of each call of a step.
        layout: latents [B, T, C, h, w] as the pipeline takes them from its caller.
        image: whether it takes a reference image.
        padding: names of text inputs, whose masked places the network does not read, by the names of their masks.
        guidance: the scale that the network is given, in the case that it is given one.
        within: largest difference of inputs from the pipeline's; above 0 only where its own arithmetic rounds.
    """

    latent: Latent
    settings: dict[str, Any]
    calls: tuple[tuple[int, ...], ...] = BOTH
    layout: Callable[[Tensor], Tensor] = lambda x: x
    image: bool = False
    padding: dict[str, str] = field(default_factory=dict)
    guidance: float = 0.0
    within: float = 0.0

    @property
    def scale(self) -> float:
        """Of classifier-free guidance."""
        return self.settings.get("true_cfg_scale", self.settings.get("guidance_scale", 6.0))

    @property
    def reference(self) -> str:
        return "native" if self.image else "none"


def tokens(x: Tensor) -> Tensor:
    return x.permute(0, 1, 3, 4, 2).flatten(1, 3)


CFG = {"guidance_scale": 3.0}
COG: dict[str, Any] = CFG | {"height": 48, "width": 64, "num_frames": 9, "max_sequence_length": 24}
COG_1_5 = COG | {"width": 32, "num_frames": 13}
HUNYUAN = {"height": 32, "width": 48, "num_frames": 9, "guidance_scale": 6.0, "true_cfg_scale": 2.0}
HUNYUAN_MASK = {"encoder_hidden_states": "encoder_attention_mask"}
HUNYUAN_MASKS = HUNYUAN_MASK | {"encoder_hidden_states_2": "encoder_attention_mask_2"}
LTX = CFG | {"height": 32, "width": 64, "num_frames": 9}
CASES = {
    "cogvideox-2b": Case(Latent(3, 4, 6, 8, 9), COG),
    "cogvideox-5b": Case(Latent(3, 4, 8, 6, 9), COG | {"height": 64, "width": 48}),
    "cogvideox-5b-i2v": Case(Latent(3, 4, 6, 8, 9), COG, image=True),
    "cogvideox-1.5": Case(Latent(4, 4, 6, 4, 13), COG_1_5),
    "cogvideox-1.5-i2v": Case(Latent(4, 4, 6, 4, 13), COG_1_5, image=True, within=1e-6),
    "hunyuan-video": Case(
        Latent(3, 4, 4, 6, 9), HUNYUAN, ((1,), (0,)), transposed, padding=HUNYUAN_MASK, guidance=6.0
    ),
    "hunyuan-video-1.5": Case(
        Latent(3, 4, 4, 6, 9), {"height": 64, "width": 96, "num_frames": 9}, ((1,), (0,)), transposed,
        padding=HUNYUAN_MASKS,
    ),
    "hunyuan-video-1.5-i2v": Case(
        Latent(3, 4, 4, 4, 9), {"num_frames": 9}, ((1,), (0,)), transposed, image=True, padding=HUNYUAN_MASKS
    ),
    "ltx-video": Case(Latent(3, 4, 4, 8, 9), LTX, layout=tokens, padding=HUNYUAN_MASK),
    "ltx-video-i2v": Case(Latent(3, 4, 4, 8, 9), LTX, layout=tokens, image=True, padding=HUNYUAN_MASK),
}  # fmt: skip


@cache
def opened(name: str) -> Opened:
    model = Opened(name)
    family, pipeline = model.family, model.pipeline
    if isinstance(family, HunyuanVideo15):  # shorter texts, which take less time
        padded = pipeline.tokenizer_max_length, pipeline.tokenizer_2_max_length, pipeline.vision_num_semantic_tokens
        assert padded == (family.text_tokens, family.glyph_tokens, family.image_tokens)
        pipeline.tokenizer_max_length = family.text_tokens = 24
        pipeline.tokenizer_2_max_length = family.glyph_tokens = 20
    return model


def picture(name: str) -> Image.Image:
    """A reference image of the size of the case."""
    latent, factor = CASES[name].latent, 16 if "1.5-i2v" in name and "hunyuan" in name else 8
    size = latent.height * factor, latent.width * factor, 3
    values = torch.randint(0, 255, size, generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


@cache
def stored(name: str) -> dict[str, Tensor]:
    """What a data set holds of the reference image, [1, ...], encoded as the codec does."""
    case, pipeline = CASES[name], opened(name).pipeline
    if not case.image:
        return {}
    pixels = pipeline.video_processor.preprocess(picture(name))
    with torch.no_grad(), posterior_mode():
        latents = pipeline.vae.encode(pixels.unsqueeze(2)).latent_dist.mode()
        if "ltx" in name:
            mean, std = (value.view(1, -1, 1, 1, 1) for value in (pipeline.vae.latents_mean, pipeline.vae.latents_std))
            return {"reference": ((latents - mean) / std).transpose(1, 2)}
        found = {"reference": latents.transpose(1, 2) * pipeline.vae.config.scaling_factor}
        if "hunyuan" in name:
            found["image_embeds"] = opened(name).family.encode_image(pipeline, picture(name))[None]
    return found


def condition(
    name: str, prompts: Sequence[int], reference: str = "", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Of a batch with those of `PROMPTS`; `dtype`: in which the data set holds the reference."""
    case, family = CASES[name], opened(name).family
    with torch.no_grad():
        text = family.padded([family.encode_text(opened(name).pipeline, PROMPTS[place]) for place in prompts])
    given = {key: value.to(dtype).expand(len(prompts), *value.shape[1:]) for key, value in stored(name).items()}
    return family.condition(given, text, case.latent, pose="none", reference=reference or case.reference)


def noise(name: str, samples: int = 1, seed: int = 5) -> Tensor:
    return torch.randn(samples, *CASES[name].latent.shape, generator=torch.Generator().manual_seed(seed))


@cache
def captured(name: str) -> Captured:
    case = CASES[name]
    settings = case.settings | {"prompt": PROMPTS[1], "negative_prompt": PROMPTS[0]}
    if case.image:
        settings["image"] = picture(name)
    latents = noise(name)
    if "ltx" in name and case.image:  # latents that its caller gives have the image in them
        latents[:, :1] = stored(name)["reference"]
    return opened(name).run(latents=case.layout(latents), num_inference_steps=3, **settings)


def own_layout(name: str, latents: Tensor) -> Tensor:
    """Latents that a pipeline gives its scheduler, as [B, T, C, h, w]."""
    latent = CASES[name].latent
    if latents.dim() == 3:
        return latents.unflatten(1, (latent.frames, latent.height, latent.width)).permute(0, 1, 4, 2, 3)
    if "cogvideox" in name:
        return latents
    latents = latents.transpose(1, 2)
    missing = latent.frames - latents.shape[1]  # frames that are given, not generated
    return torch.cat([torch.zeros_like(latents[:, :missing]), latents], 1)
