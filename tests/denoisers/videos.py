"""Transformers of videos."""

from typing import Any

import torch

from denoisers import Denoiser, Random

TEXT = 5


def latents(r: Random, text: int, channels: int = 4, frames: int = 2, side: int = 4) -> dict[str, Any]:
    """A video [B, C, F, H, W] in latent space, a text and whole timesteps."""
    return {
        "hidden_states": r(2, channels, frames, side, side), "encoder_hidden_states": r(2, TEXT, text),
        "timestep": r.below(1000, 2),
    }  # fmt: skip


def cogvideo(r: Random) -> dict[str, Any]:
    return {
        "hidden_states": r(2, 2, 4, 8, 8), "encoder_hidden_states": r(2, TEXT, 12), "timestep": r.below(1000, 2)
    }  # fmt: skip


def framepack(r: Random) -> dict[str, Any]:
    """With frames of the past at three resolutions."""
    found = hunyuan(r) | {"hidden_states": r(1, 4, 2, 4, 4), "image_embeds": r(1, 3, 10), "indices_latents": r(2)}
    for name, frames in (("clean", 2), ("history_2x", 2), ("history_4x", 4)):
        found |= {f"latents_{name}": r(1, 4, frames, 4, 4), f"indices_latents_{name}": r(frames)}
    return found


def hunyuan(r: Random) -> dict[str, Any]:
    return {
        "hidden_states": r(1, 4, 2, 4, 4), "timestep": r.below(1000, 1), "encoder_hidden_states": r(1, TEXT, 12),
        "pooled_projections": r(1, 10), "encoder_attention_mask": torch.ones(1, TEXT),
        "guidance": torch.tensor([6000.0]),
    }  # fmt: skip


def helios(r: Random) -> dict[str, Any]:
    """With frames of the past at three resolutions."""
    found: dict[str, Any] = latents(r, 12, side=16) | {"indices_hidden_states": r.below(9, 2, 2)}
    for name, frames in (("short", 1), ("mid", 1), ("long", 4)):
        found[f"latents_history_{name}"] = r(2, 4, frames, 16, 16)
        found[f"indices_latents_history_{name}"] = r.below(9, 2, frames)
    return found


def minimax(r: Random) -> dict[str, Any]:
    """Text, sound and video tokens of one sequence, each with its kind and the time that it takes."""
    text, sound, video = torch.arange(4), torch.arange(4, 10), torch.arange(10, 18)
    kinds = torch.tensor([0] * 4 + [1] * 6 + [2] * 8)
    return {
        "hidden_states": r(2, 8, 16), "audio_hidden_states": r(2, 6, 6), "encoder_hidden_states": r(2, 4, 8),
        "timestep": r.unit(2), "timestep_indices": (kinds == 1).long(), "token_tags": kinds,
        "position_ids": r(18, 3), "video_indices": video, "audio_indices": sound, "text_indices": text,
    }  # fmt: skip


def cosmos_omni(r: Random) -> dict[str, Any]:
    """Two text tokens and four of a picture."""
    return {
        "input_ids": r.below(30, 2), "text_indexes": torch.arange(2), "position_ids": torch.arange(6).expand(3, 6),
        "und_len": 2, "sequence_length": 6, "vision_tokens": [r(1, 2, 1, 2, 2)], "vision_token_shapes": [(1, 2, 2)],
        "vision_sequence_indexes": torch.arange(2, 6), "vision_mse_loss_indexes": torch.arange(2, 6),
        "vision_timesteps": r.unit(4), "vision_noisy_frame_indexes": [torch.tensor([0])],
    }  # fmt: skip


def animate_2(r: Random) -> dict[str, Any]:
    """The pass over the reference, which fills a cache of keys and values."""
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    return {
        "hidden_states": [r(4, 2, 4, 4)], "timestep": r.unit(1), "encoder_hidden_states": [r(TEXT, 12)],
        "condition_latents": [r(6, 2, 4, 4)], "encoder_hidden_states_image": r(1, 3, 1280),
        "kv_cache": WanAnimate2KVCache(3), "kv_cache_mode": "extract", "seq_len": 8,
        "offset_grid_sizes": torch.tensor([[2, 2, 2]]),
    }  # fmt: skip


WAN: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 12,
    "freq_dim": 16, "ffn_dim": 32, "num_layers": 3, "rope_max_seq_len": 32,
}  # fmt: skip
COG: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "time_embed_dim": 4,
    "text_embed_dim": 12, "num_layers": 3, "sample_width": 8, "sample_height": 8, "sample_frames": 5,
    "patch_size": 2, "max_text_seq_length": TEXT,
}  # fmt: skip
HUNYUAN: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2,
    "num_single_layers": 2, "num_refiner_layers": 1, "patch_size": 1, "patch_size_t": 1, "mlp_ratio": 2.0,
    "text_embed_dim": 12, "pooled_projection_dim": 10, "rope_axes_dim": (4, 4, 4),
}  # fmt: skip
SPARSE = {"freq_dim": 32, "gate_value": 0.25, "deltatime_type": "r"}

DENOISERS = (
    Denoiser(
        "AllegroTransformer3DModel",
        {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "num_layers": 3,
         "cross_attention_dim": 24, "sample_width": 8, "sample_height": 8, "sample_frames": 2,
         "caption_channels": 12},
        lambda r: latents(r, 12, side=8),
    ),
    Denoiser(
        "AnyFlowTransformer3DModel", {**WAN, **SPARSE},
        lambda r: {"hidden_states": r(1, 2, 4, 8, 8), "timestep": torch.full((1, 2), 500.0),
                   "r_timestep": torch.full((1, 2), 250.0), "encoder_hidden_states": r(1, TEXT, 12)},
    ),
    Denoiser(
        "AnyFlowFARTransformer3DModel",
        {**WAN, **SPARSE, "compressed_patch_size": (1, 4, 4), "full_chunk_limit": 3},
        lambda r: {"hidden_states": r(1, 4, 4, 8, 8), "timestep": torch.full((1, 4), 500.0),
                   "r_timestep": torch.full((1, 4), 250.0), "encoder_hidden_states": r(1, TEXT, 12),
                   "chunk_partition": [2, 2]},
    ),
    Denoiser("ChronoEditTransformer3DModel", {**WAN, "rope_temporal_skip_len": 8}, lambda r: latents(r, 12)),
    Denoiser("CogVideoXTransformer3DModel", COG, cogvideo),
    Denoiser(
        "ConsisIDTransformer3DModel",
        {**COG, "cross_attn_interval": 1, "is_train_face": True, "cross_attn_dim_head": 2, "cross_attn_num_heads": 1,
         "LFE_id_dim": 6, "LFE_vit_dim": 6, "LFE_depth": 5, "LFE_dim_head": 4, "LFE_num_heads": 2,
         "LFE_num_id_token": 1, "LFE_num_querie": 2, "LFE_output_dim": 10, "LFE_ff_mult": 1, "LFE_num_scale": 1},
        lambda r: cogvideo(r) | {"id_cond": r(2, 6), "id_vit_hidden": [r(2, 3, 6)]},
    ),
    Denoiser(
        "CosmosTransformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 3,
         "mlp_ratio": 2, "text_embed_dim": 12, "adaln_lora_dim": 4, "max_size": (4, 16, 16), "patch_size": (1, 2, 2),
         "concat_padding_mask": False, "extra_pos_embed_type": "learnable"},
        lambda r: latents(r, 12) | {"attention_mask": torch.ones(2, TEXT), "fps": 24},
    ),
    Denoiser(
        "Cosmos3OmniTransformer",
        {"head_dim": 6, "hidden_act": "relu2", "hidden_size": 12, "intermediate_size": 24, "latent_channel": 2,
         "latent_patch_size": 1, "num_attention_heads": 2, "num_hidden_layers": 3, "num_key_value_heads": 1,
         "patch_latent_dim": 2, "qk_norm_for_text": False, "rope_axes_dim": [1, 1, 1], "vocab_size": 30},
        cosmos_omni, noised="vision_tokens",
    ),
    Denoiser(
        "EasyAnimateTransformer3DModel",
        {"attention_head_dim": 16, "num_attention_heads": 2, "in_channels": 4, "mmdit_layers": 2, "num_layers": 3,
         "out_channels": 4, "patch_size": 2, "sample_height": 8, "sample_width": 8, "text_embed_dim": 12,
         "time_embed_dim": 8},
        lambda r: latents(r, 12),
    ),
    Denoiser(
        "HeliosTransformer3DModel",
        {**{k: v for k, v in WAN.items() if k != "rope_max_seq_len"}, "rope_dim": (4, 4, 4),
         "has_multi_term_memory_patch": True, "guidance_cross_attn": True, "zero_history_timestep": True,
         "is_amplify_history": False},
        helios,
    ),
    Denoiser("HunyuanVideoTransformer3DModel", {**HUNYUAN, "guidance_embeds": True}, hunyuan),
    Denoiser(
        "HunyuanVideoFramepackTransformer3DModel",
        {**HUNYUAN, "patch_size": 2, "guidance_embeds": True, "has_image_proj": True, "image_proj_dim": 10,
         "has_clean_x_embedder": True},
        framepack,
    ),
    Denoiser(
        "HunyuanVideo15Transformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 3,
         "num_refiner_layers": 1, "mlp_ratio": 2.0, "text_embed_dim": 12, "text_embed_2_dim": 8,
         "image_embed_dim": 10, "rope_axes_dim": (4, 4, 4), "target_size": 16, "task_type": "t2v"},
        lambda r: {"hidden_states": r(1, 4, 2, 4, 4), "timestep": r.unit(1), "encoder_hidden_states": r(1, TEXT, 12),
                   "encoder_hidden_states_2": r(1, 3, 8), "encoder_attention_mask": torch.ones(1, TEXT),
                   "encoder_attention_mask_2": torch.ones(1, 3), "image_embeds": torch.zeros(1, 3, 10)},
    ),
    Denoiser(
        "LatteTransformer3DModel",
        {"sample_size": 8, "num_layers": 3, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 2,
         "caption_channels": 12, "in_channels": 4, "cross_attention_dim": 16, "out_channels": 8,
         "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_single", "video_length": 2},
        lambda r: latents(r, 12, side=8),
    ),
    Denoiser(
        "LTXVideoTransformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 12,
         "cross_attention_dim": 24, "num_layers": 3, "caption_channels": 12},
        lambda r: {"hidden_states": r(2, 32, 4), "encoder_hidden_states": r(2, TEXT, 12), "timestep": r.below(1000, 2),
                   "encoder_attention_mask": torch.ones(2, TEXT).bool(), "num_frames": 2, "height": 4, "width": 4},
    ),
    Denoiser(
        "LTX2VideoTransformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 12,
         "cross_attention_dim": 24, "audio_in_channels": 4, "audio_out_channels": 4, "audio_num_attention_heads": 2,
         "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16, "num_layers": 3, "caption_channels": 12,
         "rope_double_precision": False},
        lambda r: {"hidden_states": r(2, 32, 4), "audio_hidden_states": r(2, 6, 4),
                   "encoder_hidden_states": r(2, TEXT, 12), "audio_encoder_hidden_states": r(2, TEXT, 12),
                   "timestep": 1000 * r.unit(2), "encoder_attention_mask": torch.ones(2, TEXT).bool(),
                   "num_frames": 2, "height": 4, "width": 4, "audio_num_frames": 6, "fps": 24.0},
    ),
    Denoiser(
        "MiniMaxH3Transformer3DModel",
        {"num_attention_heads": 2, "attention_head_dim": 16, "hidden_size": 24, "num_layers": 3,
         "num_refiner_layers": 1, "ffn_dim": 32, "in_channels": 4, "audio_in_channels": 6, "text_dim": 8,
         "freq_dim": 8, "time_embed_hidden_dim": 24, "time_embed_dim": 16, "rope_freq_dim": 2},
        minimax,
    ),
    Denoiser(
        "MochiTransformer3DModel",
        {"patch_size": 2, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3,
         "pooled_projection_dim": 12, "in_channels": 4, "text_embed_dim": 16, "time_embed_dim": 8,
         "max_sequence_length": TEXT},
        lambda r: latents(r, 16) | {"encoder_attention_mask": torch.ones(2, TEXT).bool()},
    ),
    Denoiser(
        "MotifVideoTransformer3DModel",
        {"in_channels": 9, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2,
         "num_single_layers": 2, "num_decoder_layers": 0, "mlp_ratio": 2.0, "patch_size": 1, "text_embed_dim": 12,
         "image_embed_dim": 6, "rope_axes_dim": (4, 4, 4)},
        lambda r: latents(r, 12, channels=9),
    ),
    Denoiser(
        "SanaVideoTransformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 3,
         "num_cross_attention_heads": 2, "cross_attention_head_dim": 12, "cross_attention_dim": 24,
         "caption_channels": 12, "rope_max_seq_len": 32},
        lambda r: latents(r, 12),
    ),
    Denoiser("SkyReelsV2Transformer3DModel", WAN, lambda r: latents(r, 12)),
    Denoiser(
        "TransformerTemporalModel",
        {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "num_layers": 3, "norm_num_groups": 2},
        lambda r: {"hidden_states": r(2, 4, 8, 8), "timestep": r.below(1000, 2), "num_frames": 2},
        module="diffusers.models.transformers.transformer_temporal",
    ),
    Denoiser("WanTransformer3DModel", WAN, lambda r: latents(r, 12)),
    Denoiser(
        "WanVACETransformer3DModel", {**WAN, "vace_layers": [0, 2], "vace_in_channels": 12},
        lambda r: latents(r, 12) | {"control_hidden_states": r(2, 12, 2, 4, 4)},
    ),
    Denoiser(
        "WanAnimateTransformer3DModel",
        {**WAN, "in_channels": 12, "latent_channels": 4, "image_dim": 16,
         "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8}, "motion_encoder_size": 16,
         "motion_style_dim": 8, "motion_dim": 4, "motion_encoder_dim": 16, "face_encoder_hidden_dim": 16,
         "face_encoder_num_heads": 2, "inject_face_latents_blocks": 1},
        lambda r: {"hidden_states": r(1, 12, 3, 4, 4), "timestep": r.below(1000, 1),
                   "encoder_hidden_states": r(1, TEXT, 12), "encoder_hidden_states_image": r(1, 3, 16),
                   "pose_hidden_states": r(1, 4, 2, 4, 4), "face_pixel_values": r(1, 3, 5, 16, 16)},
    ),
    Denoiser(
        "WanAnimate2Transformer3DModel",
        {"text_len": 8, "in_dim": 10, "dim": 48, "ffn_dim": 64, "freq_dim": 16, "text_dim": 12, "out_dim": 4,
         "num_heads": 4, "num_layers": 3, "use_img_emb": True},
        animate_2, module="diffusers.models.transformers.transformer_wan_animate_2",
    ),
    Denoiser(
        "Kandinsky5Transformer3DModel",
        {"in_visual_dim": 4, "in_text_dim": 12, "in_text_dim2": 10, "time_dim": 16, "out_visual_dim": 4,
         "model_dim": 24, "ff_dim": 32, "num_text_blocks": 1, "num_visual_blocks": 3, "axes_dims": (4, 4, 4)},
        lambda r: {"hidden_states": r(1, 2, 4, 4, 4), "encoder_hidden_states": r(1, TEXT, 12), "timestep": r.unit(1),
                   "pooled_projections": r(1, 10), "text_rope_pos": torch.arange(TEXT),
                   "visual_rope_pos": [torch.arange(n) for n in (2, 2, 2)]},
    ),
)  # fmt: skip
