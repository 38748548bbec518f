"""The names that networks of diffusers have in their original checkpoints, which other tools load.

The inverse of what diffusers does when it converts an original checkpoint. Where that holds several tensors of
diffusers in one, as HunyuanVideo does with queries, keys and values, they follow one another along the first axis.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FAMILIES", "Source", "original_sources", "original_tensors"]

Rules = tuple[tuple[str, str], ...]
"""Patterns and what takes their place; all are applied, in order."""


@dataclass(frozen=True)
class Source:
    """What an original tensor is made of.

    Attributes:
        names: tensors of diffusers' network, one after the other along the first axis.
        swapped: whether the two halves are exchanged (shift and scale of a modulation).
    """

    names: tuple[str, ...]
    swapped: bool = False

    def joined(self, parts: Iterable[Tensor]) -> Tensor:
        """The original tensor of the tensors `names`."""
        whole = torch.cat(list(parts), 0) if len(self.names) > 1 else next(iter(parts))
        return torch.cat([*whole.chunk(2, 0)][::-1], 0) if self.swapped else whole


WAN: Rules = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.image_embedder\.norm1\.", "img_emb.proj.0."),
    (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj\.", "img_emb.proj.1."),
    (r"^condition_embedder\.image_embedder\.ff\.net\.2\.", "img_emb.proj.3."),
    (r"^condition_embedder\.image_embedder\.norm2\.", "img_emb.proj.4."),
    (r"^condition_embedder\.image_embedder\.pos_embed$", "img_emb.emb_pos"),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"^((?:vace_)?blocks\.\d+)\.norm2\.", r"\1.norm3."),
    (r"^(vace_blocks\.\d+)\.proj_in\.", r"\1.before_proj."),
    (r"^(vace_blocks\.\d+)\.proj_out\.", r"\1.after_proj."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"(_attn)\.to_([qkv])\.", r"\1.\2."),
    (r"(_attn)\.to_out\.0\.", r"\1.o."),
    (r"(_attn)\.add_([kv])_proj\.", r"\1.\2_img."),
    (r"(_attn)\.norm_added_k\.", r"\1.norm_k_img."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"^face_encoder\.(conv\w+)\.", r"face_encoder.\1.conv."),
    (r"^face_adapter\.(\d+)\.to_q\.", r"face_adapter.fuser_blocks.\1.linear1_q."),
    (r"^face_adapter\.(\d+)\.to_[kv]\.", r"face_adapter.fuser_blocks.\1.linear1_kv."),
    (r"^face_adapter\.(\d+)\.to_out\.", r"face_adapter.fuser_blocks.\1.linear2."),
    (r"^face_adapter\.(\d+)\.norm_([qk])\.", r"face_adapter.fuser_blocks.\1.\2_norm."),
)
"""Wan 2.1 and 2.2, VACE and Animate."""

LTX: Rules = (
    (r"^proj_in\.", "patchify_proj."),
    (r"^time_embed\.", "adaln_single."),
    (r"\.norm_([qk])\.", r".\1_norm."),
)

HUNYUAN: Rules = (
    (r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_1\.", "txt_in.t_embedder.mlp.0."),
    (r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_2\.", "txt_in.t_embedder.mlp.2."),
    (r"^context_embedder\.time_text_embed\.text_embedder\.", "txt_in.c_embedder."),
    (r"^context_embedder\.proj_in\.", "txt_in.input_embedder."),
    (r"^context_embedder\.token_refiner\.refiner_blocks\.", "txt_in.individual_token_refiner.blocks."),
    (r"^(txt_in\..*)\.attn\.to_[qkv]\.", r"\1.self_attn_qkv."),
    (r"^(txt_in\..*)\.attn\.to_out\.0\.", r"\1.self_attn_proj."),
    (r"^(txt_in\..*)\.ff\.net\.0\.proj\.", r"\1.mlp.fc1."),
    (r"^(txt_in\..*)\.ff\.net\.2\.", r"\1.mlp.fc2."),
    (r"^(txt_in\..*)\.norm_out\.linear\.", r"\1.adaLN_modulation.1."),
    (r"^x_embedder\.", "img_in."),
    (r"^time_text_embed\.timestep_embedder\.linear_1\.", "time_in.mlp.0."),
    (r"^time_text_embed\.timestep_embedder\.linear_2\.", "time_in.mlp.2."),
    (r"^time_text_embed\.guidance_embedder\.linear_1\.", "guidance_in.mlp.0."),
    (r"^time_text_embed\.guidance_embedder\.linear_2\.", "guidance_in.mlp.2."),
    (r"^time_text_embed\.text_embedder\.linear_1\.", "vector_in.in_layer."),
    (r"^time_text_embed\.text_embedder\.linear_2\.", "vector_in.out_layer."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"^single_transformer_blocks\.", "single_blocks."),
    (r"^(single_blocks\.\d+)\.(?:attn\.to_[qkv]|proj_mlp)\.", r"\1.linear1."),
    (r"^(single_blocks\.\d+)\.proj_out\.", r"\1.linear2."),
    (r"^(single_blocks\.\d+)\.norm\.linear\.", r"\1.modulation.linear."),
    (r"^(single_blocks\.\d+)\.attn\.norm_([qk])\.", r"\1.\2_norm."),
    (r"^transformer_blocks\.", "double_blocks."),
    (r"\.norm1\.linear\.", ".img_mod.linear."),
    (r"\.norm1_context\.linear\.", ".txt_mod.linear."),
    (r"^(double_blocks\.\d+)\.attn\.to_[qkv]\.", r"\1.img_attn_qkv."),
    (r"^(double_blocks\.\d+)\.attn\.add_[qkv]_proj\.", r"\1.txt_attn_qkv."),
    (r"\.attn\.norm_([qk])\.", r".img_attn_\1_norm."),
    (r"\.attn\.norm_added_([qk])\.", r".txt_attn_\1_norm."),
    (r"\.attn\.to_out\.0\.", ".img_attn_proj."),
    (r"\.attn\.to_add_out\.", ".txt_attn_proj."),
    (r"\.ff\.net\.0\.proj\.", ".img_mlp.fc1."),
    (r"\.ff\.net\.2\.", ".img_mlp.fc2."),
    (r"\.ff_context\.net\.0\.proj\.", ".txt_mlp.fc1."),
    (r"\.ff_context\.net\.2\.", ".txt_mlp.fc2."),
)

UNKNOWN = (r"^motion_encoder\.",)
"""Tensors of Wan Animate whose original shapes differ, too."""

FUSED = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "proj_mlp")
"""The order of fused tensors along the first axis."""

FAMILIES: Mapping[str, Rules] = {
    **dict.fromkeys(("WanTransformer3DModel", "WanVACETransformer3DModel", "WanAnimateTransformer3DModel"), WAN),
    "HunyuanVideoTransformer3DModel": HUNYUAN,
    "LTXVideoTransformer3DModel": LTX,
}
"""Rules by diffusers' class of the network."""


def original_sources(network: str, names: Iterable[str]) -> dict[str, Source]:
    """Original name -> what it is made of, for all tensors of a network.

    Args:
        network: diffusers' class.

    Raises:
        ValueError: a class, or a tensor of it, whose original name is not known.
    """
    if network not in FAMILIES:
        raise ValueError(f"no original names are known of {network}, only of {', '.join(FAMILIES)}")
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_renamed(name, FAMILIES[network]), []).append(name)
    swapped: Callable[[str], bool] = lambda name: name.startswith("final_layer.adaLN_modulation.")  # noqa: E731
    return {name: Source(tuple(sorted(parts, key=_place)), swapped(name)) for name, parts in found.items()}


def _renamed(name: str, rules: Rules) -> str:
    for pattern, place in rules:
        name = re.sub(pattern, place, name)
    return name


def _place(name: str) -> int:
    """Where a tensor is among those that it is fused with."""
    return next((place for place, part in enumerate(FUSED) if f".{part}." in name), 0)


def known(name: str) -> bool:
    """Whether an original tensor has the shape of diffusers' own."""
    return not any(re.match(pattern, name) for pattern in UNKNOWN)


def original_tensors(network: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole state under the original names."""
    sources = original_sources(network, tensors)
    return {name: source.joined([tensors[part] for part in source.names]) for name, source in sources.items()}
