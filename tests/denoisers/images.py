"""Transformers of images."""

from typing import Any

import torch

from denoisers import Denoiser, Random

TEXT = 5
SIDE = 4
GRID = SIDE * SIDE


def packed(r: Random, channels: int, text: int, axes: int = 3) -> dict[str, Any]:
    """Tokens of an image and of a text with their positions, as Flux takes them."""
    return {
        "hidden_states": r(2, GRID, channels), "encoder_hidden_states": r(2, TEXT, text), "timestep": r.unit(2),
        "img_ids": r(GRID, axes), "txt_ids": r(TEXT, axes),
    }  # fmt: skip


def latents(r: Random, text: int, channels: int = 4, side: int = 8) -> dict[str, Any]:
    """An image in latent space, a text and whole timesteps."""
    return {
        "hidden_states": r(2, channels, side, side), "encoder_hidden_states": r(2, TEXT, text),
        "timestep": r.below(1000, 2),
    }  # fmt: skip


def sized(r: Random, text: int) -> dict[str, Any]:
    """With the sizes that CogView takes."""
    size = torch.full((2, 2), 64.0)
    return latents(r, text) | {"original_size": size, "target_size": size, "crop_coords": torch.zeros(2, 2)}


def ideogram(r: Random) -> dict[str, Any]:
    """One sequence of four text and four image tokens, each marked as such."""
    image = torch.tensor([False] * 4 + [True] * 4)[:, None]
    x, y = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    places = torch.cat([torch.arange(4)[:, None].expand(4, 3), 65536 + torch.stack([0 * x, x, y], 1)])
    return {
        "hidden_states": r(1, 8, 8) * image, "encoder_hidden_states": r(1, 8, 12) * ~image, "timestep": r.unit(1),
        "position_ids": places[None], "segment_ids": torch.ones(1, 8, dtype=torch.long),
        "indicator": torch.tensor([[3] * 4 + [2] * 4]),
    }  # fmt: skip


def omnigen(r: Random) -> dict[str, Any]:
    """Text, a time token and image tokens in one sequence, with one image given."""
    tokens = TEXT + 16 + 1 + 16
    return {
        "hidden_states": r(1, 4, 8, 8), "timestep": r.unit(1), "input_ids": r.below(50, 1, TEXT + 16),
        "input_img_latents": [r(1, 4, 8, 8)], "input_image_sizes": {0: [[TEXT, TEXT + 16]]},
        "attention_mask": torch.ones(1, tokens, tokens), "position_ids": torch.arange(tokens)[None],
    }  # fmt: skip


QWEN: dict[str, Any] = {
    "patch_size": 2, "in_channels": 8, "out_channels": 2, "num_layers": 3, "attention_head_dim": 12,
    "num_attention_heads": 2, "joint_attention_dim": 16, "axes_dims_rope": (4, 4, 4),
}  # fmt: skip
JOY: dict[str, Any] = {
    "patch_size": [1, 2, 2], "in_channels": 4, "hidden_size": 24, "num_attention_heads": 2, "text_dim": 16,
    "num_layers": 3, "rope_dim_list": [4, 4, 4],
}  # fmt: skip
FLUX: dict[str, Any] = {
    "patch_size": 1, "in_channels": 4, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 12,
    "num_attention_heads": 2, "joint_attention_dim": 16, "axes_dims_rope": [4, 4, 4],
}  # fmt: skip
DIT: dict[str, Any] = {
    "sample_size": 8, "num_layers": 3, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 2,
    "in_channels": 4,
}  # fmt: skip


def qwen(r: Random) -> dict[str, Any]:
    return {
        "hidden_states": r(2, GRID, 8), "encoder_hidden_states": r(2, TEXT, 16), "timestep": r.unit(2),
        "encoder_hidden_states_mask": torch.ones(2, TEXT, dtype=torch.long), "img_shapes": [(1, SIDE, SIDE)] * 2,
    }  # fmt: skip


DENOISERS = (
    Denoiser(
        "DiTTransformer2DModel", {**DIT, "out_channels": 8, "num_embeds_ada_norm": 10},
        lambda r: {"hidden_states": r(2, 4, 8, 8), "timestep": r.below(1000, 2), "class_labels": r.below(10, 2)},
    ),
    Denoiser(
        "PixArtTransformer2DModel",
        {**DIT, "out_channels": 8, "cross_attention_dim": 16, "caption_channels": 12,
         "use_additional_conditions": False, "norm_type": "ada_norm_single"},
        lambda r: latents(r, 12) | {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
    ),
    Denoiser(
        "Transformer2DModel",
        {**DIT, "out_channels": 4, "num_embeds_ada_norm": 10, "norm_type": "ada_norm_zero"},
        lambda r: {"hidden_states": r(2, 4, 8, 8), "timestep": r.below(1000, 2), "class_labels": r.below(10, 2)},
    ),
    Denoiser(
        "HunyuanDiT2DModel",
        {**DIT, "num_layers": 4, "cross_attention_dim": 12, "cross_attention_dim_t5": 8, "pooled_projection_dim": 6,
         "hidden_size": 16, "text_len": TEXT, "text_len_t5": TEXT, "activation_fn": "gelu-approximate"},
        lambda r: latents(r, 12) | {
            "text_embedding_mask": torch.ones(2, TEXT), "encoder_hidden_states_t5": r(2, TEXT, 8),
            "text_embedding_mask_t5": torch.ones(2, TEXT), "image_meta_size": r(2, 6), "style": r.below(1, 2),
            "image_rotary_emb": [r(GRID, 8), r(GRID, 8)], "timestep": 1000 * r.unit(2),
        },
    ),
    Denoiser(
        "SanaTransformer2DModel",
        {**DIT, "patch_size": 1, "out_channels": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8,
         "cross_attention_dim": 16, "caption_channels": 12},
        lambda r: latents(r, 12),
    ),
    Denoiser(
        "SD3Transformer2DModel",
        {**DIT, "out_channels": 4, "caption_projection_dim": 16, "joint_attention_dim": 12, "pos_embed_max_size": 8,
         "pooled_projection_dim": 10, "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
        lambda r: latents(r, 12) | {"pooled_projections": r(2, 10)},
    ),
    Denoiser(
        "AuraFlowTransformer2DModel",
        {"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_mmdit_layers": 2, "num_single_dit_layers": 2,
         "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16, "joint_attention_dim": 12,
         "out_channels": 4, "pos_embed_max_size": 64},
        lambda r: latents(r, 12),
    ),
    Denoiser(
        "CogView3PlusTransformer2DModel",
        {**DIT, "out_channels": 4, "text_embed_dim": 12, "time_embed_dim": 8, "condition_dim": 4,
         "pos_embed_max_size": 8},
        lambda r: sized(r, 12),
    ),
    Denoiser(
        "CogView4Transformer2DModel",
        {"patch_size": 2, "in_channels": 4, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
         "out_channels": 4, "text_embed_dim": 12, "time_embed_dim": 8, "condition_dim": 4},
        lambda r: sized(r, 12),
    ),
    Denoiser(
        "GlmImageTransformer2DModel",
        {"patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8,
         "num_attention_heads": 2, "text_embed_dim": 12, "time_embed_dim": 8, "condition_dim": 4,
         "prior_vq_quantizer_codebook_size": 20},
        lambda r: latents(r, 12) | {
            "prior_token_id": r.below(20, 2, GRID), "prior_token_drop": torch.zeros(2, GRID, dtype=torch.bool),
            "target_size": torch.full((2, 2), 8.0), "crop_coords": torch.zeros(2, 2),
        },
    ),
    Denoiser(
        "ErnieImageTransformer2DModel",
        {"hidden_size": 24, "num_attention_heads": 2, "num_layers": 3, "ffn_hidden_size": 32, "in_channels": 8,
         "out_channels": 8, "patch_size": 1, "text_in_dim": 12, "rope_axes_dim": (4, 4, 4), "qk_layernorm": True},
        lambda r: {"hidden_states": r(2, 8, SIDE, SIDE), "timestep": r.unit(2), "text_bth": r(2, TEXT, 12),
                   "text_lens": torch.tensor([TEXT, TEXT - 1])},
    ),
    Denoiser("FluxTransformer2DModel", {**FLUX, "pooled_projection_dim": 10},
             lambda r: packed(r, 4, 16) | {"pooled_projections": r(2, 10)}),
    Denoiser(
        "Flux2Transformer2DModel",
        {**FLUX, "attention_head_dim": 16, "timestep_guidance_channels": 32, "axes_dims_rope": [4, 4, 4, 4]},
        lambda r: packed(r, 4, 16, axes=4) | {
            "img_ids": r.below(4, 2, GRID, 4), "txt_ids": r.below(9, 2, TEXT, 4), "guidance": r.unit(2)},
    ),
    Denoiser(
        "ChromaTransformer2DModel",
        {**FLUX, "approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1},
        lambda r: packed(r, 4, 16),
    ),
    Denoiser("BriaTransformer2DModel", {**FLUX, "axes_dims_rope": [0, 6, 6]}, lambda r: packed(r, 4, 16)),
    Denoiser(
        "BriaFiboTransformer2DModel", {**FLUX, "axes_dims_rope": [0, 6, 6], "text_encoder_dim": 10},
        lambda r: packed(r, 4, 16) | {"text_encoder_layers": [r(2, TEXT, 10) for _ in range(4)]},
    ),
    Denoiser("LongCatImageTransformer2DModel", {**FLUX, "pooled_projection_dim": 16},
             lambda r: packed(r, 4, 16) | {"guidance": r.unit(2)}),
    Denoiser("OvisImageTransformer2DModel", {**FLUX, "out_channels": 4}, lambda r: packed(r, 4, 16)),
    Denoiser(
        "HiDreamImageTransformer2DModel",
        {"patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2, "num_single_layers": 2,
         "attention_head_dim": 8, "num_attention_heads": 2, "caption_channels": [12, 6], "text_emb_dim": 8,
         "num_routed_experts": 2, "num_activated_experts": 2, "axes_dims_rope": (4, 2, 2), "max_resolution": (8, 8),
         "llama_layers": (0, 1, 1, 0), "force_inference_output": True},
        lambda r: {"hidden_states": r(2, 4, 8, 8), "encoder_hidden_states_t5": r(2, TEXT, 12),
                   "encoder_hidden_states_llama3": r(2, 2, TEXT, 6), "pooled_embeds": r(2, 8),
                   "timesteps": r.below(1000, 2)},
    ),
    Denoiser(
        "HunyuanImageTransformer2DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
         "num_single_layers": 2, "num_refiner_layers": 1, "mlp_ratio": 2.0, "text_embed_dim": 12,
         "rope_axes_dim": (4, 4)},
        lambda r: latents(r, 12, side=SIDE) | {
            "encoder_attention_mask": torch.ones(2, TEXT), "timestep": 1000 * r.unit(2)},
    ),
    Denoiser(
        "Ideogram4Transformer2DModel",
        {"in_channels": 8, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2, "intermediate_size": 24,
         "adaln_dim": 16, "llm_features_dim": 12, "mrope_section": (2, 1, 1)},
        ideogram,
    ),
    Denoiser(
        "JoyImageEditTransformer3DModel", JOY,
        lambda r: {"hidden_states": r(2, 4, 1, 8, 8), "encoder_hidden_states": r(2, TEXT, 16), "timestep": r.unit(2)},
    ),
    Denoiser(
        "JoyImageEditPlusTransformer3DModel", JOY,
        lambda r: {"hidden_states": r(1, 3, 4, 1, 2, 2), "encoder_hidden_states": r(1, TEXT, 16),
                   "timestep": r.unit(1), "shape_list": [[(1, 1, 1)] * 3]},
    ),
    Denoiser(
        "Krea2Transformer2DModel",
        {"in_channels": 8, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 24, "timestep_embed_dim": 8, "text_hidden_dim": 12,
         "num_text_layers": 2, "text_num_attention_heads": 2, "text_num_key_value_heads": 1,
         "text_intermediate_size": 16, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1,
         "axes_dims_rope": (4, 2, 2)},
        lambda r: {"hidden_states": r(2, GRID, 8), "encoder_hidden_states": r(2, TEXT, 2, 12), "timestep": r.unit(2),
                   "position_ids": r(TEXT + GRID, 3), "encoder_attention_mask": torch.ones(2, TEXT).bool()},
    ),
    Denoiser(
        "LuminaNextDiT2DModel",
        {"sample_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 24, "num_layers": 3,
         "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 16, "learn_sigma": False, "qk_norm": True,
         "cross_attention_dim": 12},
        lambda r: latents(r, 12) | {
            "timestep": r.unit(2), "encoder_mask": torch.ones(2, TEXT), "image_rotary_emb": r(8, 8, 4),
            "cross_attention_kwargs": {}},
    ),
    Denoiser(
        "Lumina2Transformer2DModel",
        {"sample_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 24, "num_layers": 3,
         "num_refiner_layers": 1, "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 2,
         "axes_dim_rope": (4, 2, 2), "axes_lens": (32, 32, 32), "cap_feat_dim": 12},
        lambda r: latents(r, 12) | {"timestep": r.unit(2), "encoder_attention_mask": torch.ones(2, TEXT).bool()},
    ),
    Denoiser(
        "NucleusMoEImageTransformer2DModel", {**QWEN, "moe_enabled": False, "capacity_factors": [8.0] * 3}, qwen
    ),
    Denoiser("QwenImageTransformer2DModel", QWEN, qwen),
    Denoiser(
        "OmniGenTransformer2DModel",
        {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 24,
         "num_layers": 3, "pad_token_id": 0, "vocab_size": 50, "in_channels": 4, "time_step_dim": 4,
         "rope_scaling": {"long_factor": [1, 2], "short_factor": [1, 2]}},
        omnigen,
    ),
    Denoiser(
        "PRXTransformer2DModel",
        {"in_channels": 4, "patch_size": 2, "context_in_dim": 12, "hidden_size": 16, "mlp_ratio": 2.0, "num_heads": 2,
         "depth": 3, "axes_dim": [4, 4]},
        lambda r: latents(r, 12) | {"timestep": r.unit(2)},
    ),
    Denoiser(
        "ZImageTransformer2DModel",
        {"in_channels": 4, "dim": 24, "n_layers": 3, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
         "cap_feat_dim": 12, "axes_dims": [4, 4, 4], "axes_lens": [64, 16, 16]},
        lambda r: {"x": [r(4, 1, 8, 8)], "cap_feats": [r(TEXT, 12)], "t": r.unit(1)},
        noised="x",
    ),
    Denoiser(
        "PriorTransformer",
        {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "embedding_dim": 12,
         "num_embeddings": TEXT, "additional_embeddings": 4},
        lambda r: {"hidden_states": r(2, 12), "timestep": r.below(1000, 2), "proj_embedding": r(2, 12),
                   "encoder_hidden_states": r(2, TEXT, 12)},
    ),
)  # fmt: skip
