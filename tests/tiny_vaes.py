"""Random VAEs of every class that the codec knows, small enough for tests, saved as diffusers folders."""

from pathlib import Path
from typing import Any

import diffusers
import torch

MEAN, STD = [0.3, -0.2, 0.1, 0.0], [1.5, 0.5, 2.0, 1.0]

CONFIGS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [8, 16], "norm_num_groups": 4, "latent_channels": 4, "shift_factor": 0.1,
        "scaling_factor": 0.36, "sample_size": 32,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8], "num_encoder_blocks": [1, 1],
        "num_decoder_blocks": [1, 1], "latent_channels": 4,
    },
    "AutoencoderKLTemporalDecoder": {
        "down_block_types": ["DownEncoderBlock2D"] * 2, "block_out_channels": [32, 32], "latent_channels": 4,
    },
    "AutoencoderKLWan": {
        "base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "latents_mean": MEAN,
        "latents_std": STD,
    },
    "AutoencoderKLWan-f16": {
        "base_dim": 4, "decoder_base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
        "latents_mean": MEAN, "latents_std": STD, "is_residual": True, "in_channels": 12, "out_channels": 12,
        "patch_size": 2, "scale_factor_spatial": 16,
    },
    "AutoencoderKLCogVideoX": {
        "down_block_types": ["CogVideoXDownBlock3D"] * 3, "up_block_types": ["CogVideoXUpBlock3D"] * 3,
        "block_out_channels": [4, 4, 4], "norm_num_groups": 2, "latent_channels": 4, "layers_per_block": 1,
    },
    "AutoencoderKLHunyuanVideo": {
        "down_block_types": ["HunyuanVideoDownBlock3D"] * 4, "up_block_types": ["HunyuanVideoUpBlock3D"] * 4,
        "block_out_channels": [4, 4, 4, 4], "norm_num_groups": 2, "latent_channels": 4, "layers_per_block": 1,
    },
    "AutoencoderKLHunyuanVideo15": {
        "block_out_channels": [8, 8, 8, 16, 16], "latent_channels": 4, "layers_per_block": 1,
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 4, "block_out_channels": [8, 8, 8, 8], "decoder_block_out_channels": [8, 8, 8, 8],
        "layers_per_block": [1] * 5, "decoder_layers_per_block": [1] * 5,
    },
}  # fmt: skip
"""One entry for each class, and Wan's two."""


def build(name: str) -> Any:
    """The VAE of an entry of CONFIGS, random but fixed."""
    torch.manual_seed(0)
    vae = getattr(diffusers, name.split("-")[0])(**CONFIGS[name]).eval()
    if "LTX" in name:
        vae.latents_mean.copy_(torch.tensor(MEAN))
        vae.latents_std.copy_(torch.tensor(STD))
    return vae


def save(folder: Path, name: str = "AutoencoderKLWan", subfolder: str = "vae") -> Path:
    """Save the VAE of an entry of CONFIGS to `folder`/vae, and return `folder`."""
    build(name).save_pretrained(folder / subfolder)
    return folder
