"""CogVideoX: 2B, 5B and image to video, 1.5 included, with T5 and a VAE of factor 8 (4 in time)."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

from tiny_encoders import t5

CHANNELS = 4
LAYERS = 6


def scheduler(kind: Any = CogVideoXDDIMScheduler, shift: float = 1.0) -> Any:
    """As the released models have it: v-prediction, zero terminal SNR, 3 as the shift of 2B and 1 as that of 5B."""
    return kind(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, snr_shift_scale=shift,
        rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing",
    )  # fmt: skip


def save(folder: Path, *, image: bool = False, invert: bool = False, schedule: Any = None, **network: Any) -> None:
    """A pipeline whose network differs from that of 2B by `network`."""
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=CHANNELS * (1 + image), out_channels=CHANNELS,
        time_embed_dim=16, text_embed_dim=16, num_layers=LAYERS, sample_width=8, sample_height=6, sample_frames=9,
        max_text_seq_length=24, **network,
    )  # fmt: skip
    blocks = "CogVideoXDownBlock3D", "CogVideoXUpBlock3D"
    vae = AutoencoderKLCogVideoX(
        down_block_types=(blocks[0],) * 4, up_block_types=(blocks[1],) * 4, block_out_channels=(4, 4, 4, 4),
        latent_channels=CHANNELS, layers_per_block=1, norm_num_groups=2, sample_height=48, sample_width=64,
        scaling_factor=0.7, invert_scale_latents=invert,
    )  # fmt: skip
    tokenizer, encoder = t5()
    kind = CogVideoXImageToVideoPipeline if image else CogVideoXPipeline
    kind(
        tokenizer=tokenizer, text_encoder=encoder, vae=vae, transformer=transformer,
        scheduler=schedule or scheduler(),
    ).save_pretrained(folder)  # fmt: skip


ROTARY: dict[str, Any] = {"use_rotary_positional_embeddings": True}
V1_5: dict[str, Any] = ROTARY | {"patch_size_t": 2, "patch_bias": False}

PIPELINES = {
    "cogvideox-2b": lambda folder: save(folder, schedule=scheduler(shift=3.0)),
    "cogvideox-5b": lambda folder: save(folder, schedule=scheduler(CogVideoXDPMScheduler), **ROTARY),
    "cogvideox-5b-i2v": lambda folder: save(folder, image=True, use_learned_positional_embeddings=True, **ROTARY),
    "cogvideox-1.5": lambda folder: save(folder, **V1_5),
    "cogvideox-1.5-i2v": lambda folder: save(folder, image=True, invert=True, ofs_embed_dim=16, **V1_5),
}
