"""Flux dev: MMDiT with double and single blocks and distilled guidance, VAE of images, CLIP and T5."""

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from tiny_texts import CLIP_TOKENS, clip, image_vae, t5, tokenizer


def flux(folder: Path) -> None:
    torch.manual_seed(0)
    FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=16, guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, max_shift=1.15),
        vae=image_vae(), text_encoder=clip(16), tokenizer=tokenizer(CLIP_TOKENS),
        text_encoder_2=t5(32), tokenizer_2=tokenizer(512),
    ).save_pretrained(folder)  # fmt: skip


PIPELINES = {"flux": flux}
