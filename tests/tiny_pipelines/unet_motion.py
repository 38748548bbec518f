"""AnimateDiff: U-Net with motion modules, VAE of images, CLIP."""

from pathlib import Path

import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, UNetMotionModel

from tiny_texts import CLIP_TOKENS, clip, image_vae, tokenizer


def unet_motion(folder: Path) -> None:
    torch.manual_seed(0)
    unet = UNetMotionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=2, norm_num_groups=8, cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), num_attention_heads=2,
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), motion_num_attention_heads=2,
        motion_max_seq_length=8,
    ).eval()  # fmt: skip
    for name, module in unet.named_modules():  # new motion modules change nothing: fill their last layers
        if "motion_modules" in name and name.endswith("proj_out"):
            torch.nn.init.normal_(module.weight, std=0.1)
    AnimateDiffPipeline(
        vae=image_vae(), text_encoder=clip(16), tokenizer=tokenizer(CLIP_TOKENS), unet=unet, motion_adapter=None,
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1,
                                clip_sample=False),
    ).save_pretrained(folder)  # fmt: skip


PIPELINES = {"unet-motion": unet_motion}
