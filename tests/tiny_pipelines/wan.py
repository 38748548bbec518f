"""Tiny pipelines of the Wan families: 2.1, 2.2 with two experts, TI2V-5B, VACE and Animate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

__all__ = ["PIPELINES"]

WORDS = "a person man woman signs dances walks eats milk no in the room with red blue shirt and slowly"
NETWORK: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 16, "out_channels": 16, "text_dim": 32,
    "freq_dim": 32, "ffn_dim": 96, "num_layers": 6, "rope_max_seq_len": 64,
}  # fmt: skip
IMAGE = NETWORK | {"in_channels": 36}
"""With a mask (4 channels) and image latents (16)."""
CLIP = {"image_dim": 16, "added_kv_proj_dim": 48}
ANIMATE = {
    "latent_channels": 16, "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16}, "motion_encoder_size": 16,
    "motion_style_dim": 8, "motion_dim": 4, "motion_encoder_dim": 16, "face_encoder_hidden_dim": 16,
    "face_encoder_num_heads": 2, "inject_face_latents_blocks": 3,
}  # fmt: skip


def randomised(network: nn.Module) -> Any:
    """The network with small random numbers in the place of parameters that start at zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network.eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, with the end token that T5's tokenizers add."""
    words = ["<pad>", "</s>", "<unk>", *WORDS.split()]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def shared(shift: float, vae: AutoencoderKLWan | None = None) -> dict[str, Any]:
    """The parts that every pipeline has, beside its network."""
    config = UMT5Config(vocab_size=3 + len(WORDS.split()), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return {
        "tokenizer": tokenizer(),
        "text_encoder": UMT5EncoderModel(config).eval(),
        "vae": (vae or AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)).eval(),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        ),
    }  # fmt: skip


def vision() -> dict[str, Any]:
    """A CLIP encoder of 16 x 16 patches, as many as the real one has."""
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=2
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return {"image_encoder": CLIPVisionModel(config).eval(), "image_processor": processor}


def residual_vae() -> AutoencoderKLWan:
    """Of the kind of TI2V-5B: residual paths, patches of 2 x 2, so a sixteenth of the side; 8 channels, not 48."""
    return AutoencoderKLWan(
        base_dim=8, decoder_base_dim=8, z_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1, is_residual=True,
        in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16,
        latents_mean=[-0.23, 0.05, 0.11, 0.31, -0.42, 0.02, -0.14, 0.27],
        latents_std=[0.48, 1.07, 0.66, 0.53, 0.71, 0.44, 0.89, 0.62],
    )  # fmt: skip


def seeded(save: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same weights whenever and wherever it is called; the random state of the caller does not move."""

    def saved(folder: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            save(folder)

    return saved


def text_to_video(folder: Path) -> None:
    network = randomised(WanTransformer3DModel(**NETWORK))
    WanPipeline(transformer=network, **shared(3.0)).save_pretrained(folder)


def image_to_video_clip(folder: Path) -> None:
    network = randomised(WanTransformer3DModel(**IMAGE, **CLIP))
    WanImageToVideoPipeline(transformer=network, **shared(5.0), **vision()).save_pretrained(folder)


def image_to_video_experts(folder: Path) -> None:
    high, low = (randomised(WanTransformer3DModel(**IMAGE)) for _ in range(2))
    WanImageToVideoPipeline(
        transformer=high, transformer_2=low, boundary_ratio=0.9, **shared(5.0)
    ).save_pretrained(folder)  # fmt: skip


def text_to_video_experts(folder: Path) -> None:
    high, low = (randomised(WanTransformer3DModel(**NETWORK)) for _ in range(2))
    WanPipeline(transformer=high, transformer_2=low, boundary_ratio=0.875, **shared(3.0)).save_pretrained(folder)


def text_image_to_video(folder: Path) -> None:
    network = randomised(WanTransformer3DModel(**NETWORK | {"in_channels": 8, "out_channels": 8}))
    WanPipeline(transformer=network, expand_timesteps=True, **shared(5.0, residual_vae())).save_pretrained(folder)


def vace(folder: Path) -> None:
    network = randomised(WanVACETransformer3DModel(**NETWORK, vace_layers=[0, 2, 4], vace_in_channels=96))
    WanVACEPipeline(transformer=network, **shared(5.0)).save_pretrained(folder)


def animate(folder: Path) -> None:
    network = randomised(WanAnimateTransformer3DModel(**IMAGE, **CLIP, **ANIMATE))
    WanAnimatePipeline(transformer=network, **shared(5.0), **vision()).save_pretrained(folder)


PIPELINES = {
    "wan-2.1-t2v": seeded(text_to_video),
    "wan-2.1-i2v": seeded(image_to_video_clip),
    "wan-2.2-i2v": seeded(image_to_video_experts),
    "wan-2.2-t2v-a14b": seeded(text_to_video_experts),
    "wan-2.2-ti2v-5b": seeded(text_image_to_video),
    "wan-vace": seeded(vace),
    "wan-animate": seeded(animate),
}
