"""LTX-Video with T5 and a VAE of factor 8 (4 in time), as a pipeline of text to video and as one of image to video."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)

from tiny_encoders import t5


def save(folder: Path, kind: Any) -> None:
    """A pipeline of a kind; the network is the same."""
    torch.manual_seed(0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        num_layers=6, caption_channels=16,
    )  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(4, 4), decoder_block_out_channels=(4, 4),
        down_block_types=("LTXVideoDownBlock3D",) * 2, layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True), decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False, False, False), downsample_type=("conv", "conv"), upsample_residual=(False, False),
        upsample_factor=(1, 1), patch_size=2,
    )  # fmt: skip
    vae.latents_mean.copy_(torch.randn(4))
    vae.latents_std.copy_(torch.rand(4) + 0.5)
    tokenizer, encoder = t5()
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096,
        shift_terminal=0.1,
    )  # fmt: skip
    kind(
        tokenizer=tokenizer, text_encoder=encoder, vae=vae, transformer=transformer, scheduler=scheduler
    ).save_pretrained(folder)


PIPELINES = {
    "ltx-video": lambda folder: save(folder, LTXPipeline),
    "ltx-video-i2v": lambda folder: save(folder, LTXImageToVideoPipeline),
}
