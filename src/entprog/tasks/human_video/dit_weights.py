"""The weights of a pretrained DiT (Peebles & Xie 2023) as a start for our transformer of the same depth and width.

diffusers' DiTTransformer2DModel and our spatial blocks are the same function of tokens and condition vector, so blocks
are taken over exactly. The time embedding is, up to its frequencies (ours are those of the original DiT). Embedding and
head belong to the latents of its VAE, not to those of ours, and stay new, as do temporal blocks and pose adapters.

Shape legend: D width.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from entprog.codecs.loading import load_component
from entprog.nets.dit import VideoDiT

__all__ = ["find_dit", "load_dit"]

CLASS = "DiTTransformer2DModel"


def find_dit(folder: Path) -> Path | None:
    """The folder of a DiT's network in a pipeline's folder, or itself; None where it is something else."""
    for path in (folder / "transformer", folder):
        config = path / "config.json"
        if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("_class_name") == CLASS:
            return path
    return None


def load_dit(model: VideoDiT, folder: Path) -> None:
    """Fill spatial blocks and the time embedding of `model`.

    Raises:
        ValueError: another depth, width or number of heads, or files that can't be loaded whole.
    """
    from diffusers import DiTTransformer2DModel

    network: Any = load_component(DiTTransformer2DModel, folder, field="model.init")
    own, config = model.config, network.config
    sizes = {
        "depth": (own.depth, config.num_layers), "heads": (own.heads, config.num_attention_heads),
        "width": (own.width, config.num_attention_heads * config.attention_head_dim),
    }  # fmt: skip
    if wrong := [f"{name} {theirs} (ours {mine})" for name, (mine, theirs) in sizes.items() if mine != theirs]:
        raise ValueError(f"model.init = {str(folder)!r}: a DiT of {', '.join(wrong)}; set the model.size that it fits")
    model.load_state_dict(converted(network.state_dict(), own.depth), strict=False)
    for own_block, block in zip(model.reference_blocks, model.blocks, strict=False):
        own_block.load_state_dict(block.state_dict(), strict=False)


def converted(theirs: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Our names for a DiT's weights."""
    ours: dict[str, Tensor] = {}
    for i in range(depth):
        block, name = f"transformer_blocks.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            ours[f"{name}.qkv.{kind}"] = torch.cat([theirs[f"{block}.attn1.to_{part}.{kind}"] for part in "qkv"])
            ours[f"{name}.out.{kind}"] = theirs[f"{block}.attn1.to_out.0.{kind}"]
            ours[f"{name}.mlp.up.{kind}"] = theirs[f"{block}.ff.net.0.proj.{kind}"]
            ours[f"{name}.mlp.down.{kind}"] = theirs[f"{block}.ff.net.2.{kind}"]
            ours[f"{name}.modulation.{kind}"] = theirs[f"{block}.norm1.linear.{kind}"]
    # diffusers repeats the embeddings of time and class in each block. Its codes begin with cosines, ours with sines.
    time = "transformer_blocks.0.norm1.emb.timestep_embedder"
    cosines, sines = theirs[f"{time}.linear_1.weight"].chunk(2, 1)
    ours["tau_embed.mlp.0.weight"] = torch.cat([sines, cosines], 1)
    ours["tau_embed.mlp.0.bias"] = theirs[f"{time}.linear_1.bias"]
    ours["tau_embed.mlp.2.weight"] = theirs[f"{time}.linear_2.weight"]
    # Without classes, its condition is that of the class "none", the last one: a constant beside the time's.
    nothing = theirs["transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"][-1]
    ours["tau_embed.mlp.2.bias"] = theirs[f"{time}.linear_2.bias"] + nothing
    return ours
