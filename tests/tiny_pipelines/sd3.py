"""Stable Diffusion 3: MMDiT, VAE of images, two CLIPs and T5."""

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from tiny_texts import CLIP_TOKENS, clip, image_vae, t5, tokenizer


def sd3(folder: Path) -> None:
    torch.manual_seed(0)
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, num_layers=4, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=16, out_channels=4,
            pos_embed_max_size=16,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=image_vae(),
        text_encoder=clip(16, 8), tokenizer=tokenizer(CLIP_TOKENS),
        text_encoder_2=clip(16, 8), tokenizer_2=tokenizer(CLIP_TOKENS),
        text_encoder_3=t5(32), tokenizer_3=tokenizer(512),
    ).save_pretrained(folder)  # fmt: skip


PIPELINES = {"sd3": sd3}
