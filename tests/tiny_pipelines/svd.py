"""Stable Video Diffusion: U-Net over space and time, temporal VAE (f8 c4), CLIP image encoder.

The VAE's scaling factor is a power of two, so that scaled latents, scaled back, are the same to the bit.
"""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection


def svd(folder: Path) -> None:
    torch.manual_seed(0)
    StableVideoDiffusionPipeline(
        vae=AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32, 32, 32), layers_per_block=1, latent_channels=4, sample_size=64,
            scaling_factor=0.25, force_upcast=False, down_block_types=("DownEncoderBlock2D",) * 4,
        ),
        image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                             image_size=224, patch_size=56, projection_dim=16)
        ).eval(),
        unet=UNetSpatioTemporalConditionModel(
            sample_size=8, in_channels=8, out_channels=4, block_out_channels=(32, 64), layers_per_block=2,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=16,
            num_attention_heads=(2, 4), addition_time_embed_dim=8, projection_class_embeddings_input_dim=24,
            num_frames=5,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", interpolation_type="linear",
            prediction_type="v_prediction", sigma_max=700.0, sigma_min=0.002, steps_offset=1,
            timestep_spacing="leading", timestep_type="continuous", use_karras_sigmas=True,
        ),
        feature_extractor=CLIPImageProcessor(),
    ).save_pretrained(folder)  # fmt: skip


PIPELINES = {"svd": svd}
