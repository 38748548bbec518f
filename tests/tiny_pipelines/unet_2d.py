"""Stable Diffusion 1: U-Net of images, VAE of images, CLIP."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from tiny_texts import CLIP_TOKENS, clip, image_vae, tokenizer


def unet_2d(folder: Path) -> None:
    torch.manual_seed(0)
    StableDiffusionPipeline(
        vae=image_vae(), text_encoder=clip(16), tokenizer=tokenizer(CLIP_TOKENS),
        unet=UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=2,
            norm_num_groups=8, cross_attention_dim=16, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ).eval(),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                                clip_sample=False, set_alpha_to_one=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


PIPELINES = {"unet-2d": unet_2d}
