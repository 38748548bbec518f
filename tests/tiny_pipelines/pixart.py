"""PixArt-alpha of 1024 px (given the image's size), and PixArt-Sigma: transformer, VAE of images, T5."""

from pathlib import Path

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)

from tiny_texts import image_vae, t5, tokenizer


def pixart(folder: Path, *, sigma: bool = False) -> None:
    torch.manual_seed(0)
    (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=8, num_layers=4, patch_size=2,
            sample_size=64 if sigma else 128, cross_attention_dim=48, caption_channels=16, norm_num_groups=4,
            use_additional_conditions=not sigma,
        ).eval(),
        vae=image_vae(), text_encoder=t5(16), tokenizer=tokenizer(512),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    ).save_pretrained(folder)  # fmt: skip


def pixart_sigma(folder: Path) -> None:
    pixart(folder, sigma=True)


PIPELINES = {"pixart": pixart, "pixart-sigma": pixart_sigma}
