"""What ComfyUI does with a LoRA file, in our own words: which key belongs to which weight, and what it adds to it.

Learnt from comfy/lora.py (load_lora, model_lora_keys_unet, calculate_weight), comfy/weight_adapter/lora.py and
comfy/supported_models.py (HunyuanVideo) of Comfy-Org/ComfyUI.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["applied", "hunyuan_state"]


def key_map(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Module or parameter as a LoRA file names it -> weight of the network."""
    return {f"diffusion_model.{name.removesuffix('.weight')}": name for name in state}


def applied(
    state: Mapping[str, Tensor], lora: Mapping[str, Tensor], *, hunyuan: bool = False
) -> tuple[dict[str, Tensor], set[str]]:
    """The weights of the network with the file at strength 1, and the keys that were not used."""
    weights, unused = {name: tensor.clone() for name, tensor in state.items()}, set(lora)
    for key, name in key_map(state).items():
        if f"{key}.lora_up.weight" in lora:
            up, down = lora[f"{key}.lora_up.weight"], lora[f"{key}.lora_down.weight"]
            scale = lora[f"{key}.alpha"].item() / down.shape[0] if f"{key}.alpha" in lora else 1.0
            weights[name] += scale * (up.flatten(1) @ down.flatten(1)).reshape(weights[name].shape)
            unused -= {f"{key}.lora_up.weight", f"{key}.lora_down.weight", f"{key}.alpha"}
        for ending, target in ((".diff", name), (".diff_b", f"{name.removesuffix('.weight')}.bias")):
            if key + ending in lora:
                assert lora[key + ending].shape == weights[target].shape  # another shape is not merged
                weights[target] += lora[key + ending].to(weights[target].dtype)
                unused -= {key + ending}
    return weights, unused


def hunyuan_state(original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """HunyuanVideo's original checkpoint under the names of ComfyUI's own network."""
    replaced = (
        ("txt_in.t_embedder.mlp.0.", "txt_in.t_embedder.in_layer."),
        ("txt_in.t_embedder.mlp.2.", "txt_in.t_embedder.out_layer."),
        ("txt_in.c_embedder.linear_1.", "txt_in.c_embedder.in_layer."),
        ("txt_in.c_embedder.linear_2.", "txt_in.c_embedder.out_layer."),
        ("_mod.linear.", "_mod.lin."), ("_attn_qkv.", "_attn.qkv."), ("mlp.fc1.", "mlp.0."), ("mlp.fc2.", "mlp.2."),
        ("_attn_q_norm.weight", "_attn.norm.query_norm.weight"), ("_attn_k_norm.weight", "_attn.norm.key_norm.weight"),
        (".q_norm.weight", ".norm.query_norm.weight"), (".k_norm.weight", ".norm.key_norm.weight"),
        ("_attn_proj.", "_attn.proj."), (".modulation.linear.", ".modulation.lin."),
        ("_in.mlp.2.", "_in.out_layer."), ("_in.mlp.0.", "_in.in_layer."),
    )  # fmt: skip
    found = {}
    for name, tensor in original.items():
        for old, new in replaced:
            name = name.replace(old, new)
        found[name] = tensor
    assert len(found) == len(original) and all(torch.is_tensor(tensor) for tensor in found.values())
    return found
