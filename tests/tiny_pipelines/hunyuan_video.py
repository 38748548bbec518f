"""HunyuanVideo with a Llama and a CLIP text encoder and a VAE of factor 8 (4 in time)."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tokenizers.processors import TemplateProcessing

from tiny_encoders import clip_text, llama, words


def save(folder: Path, *, guidance: bool = True) -> None:
    """A pipeline of text to video."""
    torch.manual_seed(0)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=20, num_layers=2, num_single_layers=3,
        num_refiner_layers=1, patch_size=2, patch_size_t=1, text_embed_dim=16, pooled_projection_dim=8,
        rope_axes_dim=(4, 8, 8), guidance_embeds=guidance,
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
    )
    tokenizer = words()
    # The pipeline cuts off the tokens of its template, by number.
    before = DEFAULT_PROMPT_TEMPLATE["template"].split("{}")[0]
    missing = DEFAULT_PROMPT_TEMPLATE["crop_start"] - len(tokenizer(before).input_ids)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{'<s> ' * missing}$A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer_2, text_encoder_2 = clip_text()
    HunyuanVideoPipeline(
        text_encoder=llama(), tokenizer=tokenizer, transformer=transformer, vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0), text_encoder_2=text_encoder_2, tokenizer_2=tokenizer_2,
    ).save_pretrained(folder)  # fmt: skip


PIPELINES = {"hunyuan-video": save}
