"""Latte: spatial and temporal blocks in turn, VAE of images, T5."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, LattePipeline, LatteTransformer3DModel

from tiny_texts import image_vae, t5, tokenizer


def latte(folder: Path) -> None:
    torch.manual_seed(0)
    LattePipeline(
        transformer=LatteTransformer3DModel(
            sample_size=8, num_layers=3, patch_size=2, attention_head_dim=16, num_attention_heads=2,
            caption_channels=16, in_channels=4, cross_attention_dim=32, out_channels=8, attention_bias=True,
            activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
            norm_elementwise_affine=False, norm_eps=1e-6, video_length=3,
        ).eval(),
        vae=image_vae(), text_encoder=t5(16), tokenizer=tokenizer(512),
        scheduler=DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False),
    ).save_pretrained(folder)  # fmt: skip


PIPELINES = {"latte": latte}
