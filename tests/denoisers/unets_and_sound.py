"""U-Nets, and transformers of sound."""

from typing import Any

import torch

from denoisers import Denoiser, Random

TEXT = 5


def latents(r: Random, text: int, *frames: int) -> dict[str, Any]:
    return {"sample": r(2, 4, *frames, 8, 8), "timestep": 10, "encoder_hidden_states": r(2, TEXT, text)}


UNET: dict[str, Any] = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 2,
    "norm_num_groups": 4,
}  # fmt: skip
TWO_LEVELS = {"down_block_types": ("CrossAttnDownBlock{}", "DownBlock{}"),
              "up_block_types": ("UpBlock{}", "CrossAttnUpBlock{}")}  # fmt: skip


def levels(kind: str) -> dict[str, Any]:
    """Attention to the text at the first of two resolutions."""
    return {name: tuple(block.format(kind) for block in blocks) for name, blocks in TWO_LEVELS.items()}


DENOISERS = (
    Denoiser(
        "UNet1DModel",
        {"block_out_channels": (8, 8, 16), "in_channels": 4, "out_channels": 4, "time_embedding_type": "positional",
         "use_timestep_embedding": True, "flip_sin_to_cos": False, "freq_shift": 1.0,
         "out_block_type": "OutConv1DBlock", "mid_block_type": "MidResTemporalBlock1D", "act_fn": "swish",
         "down_block_types": ("DownResnetBlock1D",) * 3, "up_block_types": ("UpResnetBlock1D",) * 2},
        lambda r: {"sample": r(2, 4, 16), "timestep": r.below(1000, 2)}, noised="sample",
    ),
    Denoiser(
        "UNet2DModel",
        {**UNET, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
         "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 4},
        lambda r: {"sample": r(2, 4, 8, 8), "timestep": 10}, noised="sample",
    ),
    Denoiser(
        "UNet2DConditionModel", {**UNET, **levels("2D"), "cross_attention_dim": 12, "attention_head_dim": 2},
        lambda r: latents(r, 12), noised="sample",
    ),
    Denoiser(
        "UNet3DConditionModel", {**UNET, **levels("3D"), "cross_attention_dim": 12, "attention_head_dim": 4},
        lambda r: latents(r, 12, 2), noised="sample",
    ),
    Denoiser(
        "I2VGenXLUNet",
        {**UNET, **levels("3D"), "in_channels": 4, "cross_attention_dim": 12, "num_attention_heads": 2,
         "block_out_channels": (8, 16), "attention_head_dim": 4},
        lambda r: latents(r, 12, 2) | {
            "timestep": r.below(1000, 2), "fps": torch.tensor([8, 8]), "image_latents": r(2, 4, 2, 8, 8),
            "image_embeddings": r(2, 12)},
        noised="sample",
    ),
    Denoiser(
        "UNetMotionModel", {**UNET, **levels("Motion"), "cross_attention_dim": 12, "num_attention_heads": 2},
        lambda r: latents(r, 12, 2) | {"encoder_hidden_states": r(4, TEXT, 12)}, noised="sample",
    ),
    Denoiser(
        "UNetSpatioTemporalConditionModel",
        {"sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (32, 64),
         "layers_per_block": 1, "cross_attention_dim": 12, "num_attention_heads": 2,
         "projection_class_embeddings_input_dim": 24, "addition_time_embed_dim": 8, **levels("SpatioTemporal")},
        lambda r: {"sample": r(1, 2, 4, 8, 8), "timestep": 10, "encoder_hidden_states": r(1, 1, 12),
                   "added_time_ids": torch.tensor([[6.0, 127.0, 0.02]])},
        noised="sample",
    ),
    Denoiser(
        "UNetControlNetXSModel",
        {"sample_size": 8, "block_out_channels": (8, 16), "cross_attention_dim": 12, "num_attention_heads": 2,
         "transformer_layers_per_block": 1, "norm_num_groups": 4, "ctrl_block_out_channels": [4, 8],
         "ctrl_num_attention_heads": 2, "ctrl_max_norm_num_groups": 4,
         "ctrl_conditioning_embedding_out_channels": (4, 4), **levels("2D")},
        lambda r: latents(r, 12) | {"controlnet_cond": r(2, 3, 16, 16), "conditioning_scale": 1},
        noised="sample",
    ),
    Denoiser(
        "Kandinsky3UNet",
        {"in_channels": 4, "time_embedding_dim": 16, "groups": 2, "attention_head_dim": 4, "layers_per_block": 2,
         "block_out_channels": (8, 8, 16, 16), "cross_attention_dim": 12, "encoder_hid_dim": 12},
        lambda r: {"sample": r(2, 4, 16, 16), "timestep": 10, "encoder_hidden_states": r(2, TEXT, 12),
                   "encoder_attention_mask": torch.ones(2, TEXT)},
        noised="sample",
    ),
    Denoiser(
        "StableCascadeUNet",
        {"in_channels": 4, "out_channels": 4, "timestep_ratio_embedding_dim": 8, "conditioning_dim": 12,
         "block_out_channels": (16, 16), "num_attention_heads": (2, 2), "down_num_layers_per_block": (2, 2),
         "up_num_layers_per_block": (2, 2), "clip_text_in_channels": 10, "clip_text_pooled_in_channels": 8,
         "clip_image_in_channels": 6},
        lambda r: {"sample": r(2, 4, 8, 8), "timestep_ratio": r.unit(2), "clip_text_pooled": r(2, 1, 8),
                   "clip_text": r(2, TEXT, 10), "clip_img": r(2, 1, 6)},
        noised="sample",
    ),
    Denoiser(
        "AceStepTransformer1DModel",
        {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 6, "in_channels": 12, "audio_acoustic_hidden_dim": 4, "patch_size": 2,
         "sliding_window": 16},
        lambda r: {"hidden_states": r(2, 8, 4), "timestep": r.unit(2), "timestep_r": r.unit(2),
                   "encoder_hidden_states": r(2, TEXT, 24), "context_latents": r(2, 8, 8)},
    ),
    Denoiser(
        "LongCatAudioDiTTransformer",
        {"dit_dim": 32, "dit_depth": 3, "dit_heads": 2, "dit_text_dim": 12, "latent_dim": 4, "text_conv": False},
        lambda r: {"hidden_states": r(2, 8, 4), "encoder_hidden_states": r(2, TEXT, 12),
                   "encoder_attention_mask": torch.ones(2, TEXT).bool(), "attention_mask": torch.ones(2, 8).bool(),
                   "timestep": r.unit(2)},
    ),
    Denoiser(
        "MiniMaxMusic3Transformer1DModel",
        {"in_channels": 4, "condition_dim": 12, "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 8,
         "ff_inner_dim": 32, "rotary_dim": 4, "fourier_embedding_dim": 8},
        lambda r: {"hidden_states": r(2, 4, 12), "encoder_hidden_states": r(2, 12, 12), "timestep": r.unit(2)},
    ),
    Denoiser(
        "StableAudio3DiTModel",
        {"io_channels": 4, "embed_dim": 24, "depth": 3, "num_heads": 2, "cond_token_dim": 12, "global_cond_dim": 10,
         "local_add_cond_dim": 5, "timestep_features_dim": 16, "ff_mult": 2, "num_memory_tokens": 2,
         "use_differential_attention": False},
        lambda r: {"hidden_states": r(2, 4, 12), "timestep": r.unit(2), "encoder_hidden_states": r(2, TEXT, 12),
                   "global_hidden_states": r(2, 10)},
    ),
    Denoiser(
        "StableAudioDiTModel",
        {"sample_size": 12, "in_channels": 4, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
         "num_key_value_attention_heads": 1, "out_channels": 4, "cross_attention_dim": 8, "time_proj_dim": 8,
         "global_states_input_dim": 10, "cross_attention_input_dim": 12},
        lambda r: {"hidden_states": r(2, 4, 12), "timestep": r.unit(2), "encoder_hidden_states": r(2, TEXT, 12),
                   "global_hidden_states": r(2, 1, 10), "rotary_embedding": (r(13, 4), r(13, 4))},
    ),
)  # fmt: skip
