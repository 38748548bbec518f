"""DiT: class-conditional transformer with learned variance, VAE of images."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import nn

from tiny_texts import image_vae


def dit(folder: Path) -> None:

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=4, sample_size=8,
        patch_size=2, norm_num_groups=4, num_embeds_ada_norm=1000,
    ).eval()  # fmt: skip
    nn.init.normal_(transformer.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight)
    DiTPipeline(
        transformer=transformer, vae=image_vae(), scheduler=DDIMScheduler(beta_schedule="linear")
    ).save_pretrained(folder)


PIPELINES = {"dit": dit}
