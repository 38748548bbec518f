"""HunyuanVideo 1.5, text and image to video, with stand-ins of its encoders and a VAE of factor 16 (4 in time)."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from tiny_encoders import llama, siglip, t5_encoder, words

CUT = 108
"""Tokens of its chat template that the pipeline cuts off."""


def chat(system: str) -> PreTrainedTokenizerFast:
    """`words` with a chat template whose part before the prompt has as many tokens as the pipeline cuts off."""
    tokenizer = words()
    missing = CUT - len(tokenizer(system).input_ids)
    tokenizer.chat_template = "<s>" * missing + "{% for m in messages %}{{ m['content'] }} {% endfor %}<unk>"
    return tokenizer


def save(folder: Path, *, image: bool = False) -> None:
    """A pipeline of text to video, or of image to video."""
    torch.manual_seed(0)
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=20, num_layers=4,
        num_refiner_layers=1, patch_size=1, patch_size_t=1, text_embed_dim=16, text_embed_2_dim=12, image_embed_dim=8,
        rope_axes_dim=(4, 8, 8), target_size=64, task_type="i2v" if image else "t2v",
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1, spatial_compression_ratio=16
    )
    glyphs = ByT5Tokenizer()
    parts: dict[str, Any] = {
        "text_encoder": llama(), "tokenizer": words(), "transformer": transformer, "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0), "text_encoder_2": t5_encoder(len(glyphs), 12),
        "tokenizer_2": glyphs, "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }  # fmt: skip
    if image:
        processor, encoder = siglip()
        pipeline: Any = HunyuanVideo15ImageToVideoPipeline(**parts, feature_extractor=processor, image_encoder=encoder)
    else:
        pipeline = HunyuanVideo15Pipeline(**parts)
    pipeline.register_modules(tokenizer=chat(pipeline.system_message))
    pipeline.save_pretrained(folder)


PIPELINES = {
    "hunyuan-video-1.5": save,
    "hunyuan-video-1.5-i2v": lambda folder: save(folder, image=True),
}
