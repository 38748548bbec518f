"""A file that ComfyUI loads as a LoRA: differences of weights under the original names.

ComfyUI adds `NAME.diff` to a weight, `NAME.diff_b` to the bias beside it, and lora_up lora_down alpha / rank to a
weight, where NAME is the module's name in the original network with "diffusion_model." in front; a parameter that is
neither weight nor bias is named in full.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from entprog.export.original_names import FAMILIES, Source, known, original_sources
from entprog.export.trained import Trained
from entprog.files import save_weights

__all__ = ["comfy_keys", "comfy_problem", "write_comfy"]

PREFIX = "diffusion_model."

HUNYUAN = (
    (r"^txt_in\.t_embedder\.mlp\.0\.", "txt_in.t_embedder.in_layer."),
    (r"^txt_in\.t_embedder\.mlp\.2\.", "txt_in.t_embedder.out_layer."),
    (r"^txt_in\.c_embedder\.linear_1\.", "txt_in.c_embedder.in_layer."),
    (r"^txt_in\.c_embedder\.linear_2\.", "txt_in.c_embedder.out_layer."),
    (r"^(\w+_in)\.mlp\.0\.", r"\1.in_layer."),
    (r"^(\w+_in)\.mlp\.2\.", r"\1.out_layer."),
    (r"_mod\.linear\.", "_mod.lin."),
    (r"\.modulation\.linear\.", ".modulation.lin."),
    (r"_attn_(qkv|proj)\.", r"_attn.\1."),
    (r"mlp\.fc1\.", "mlp.0."),
    (r"mlp\.fc2\.", "mlp.2."),
    (r"_attn_q_norm\.weight$", "_attn.norm.query_norm.weight"),
    (r"_attn_k_norm\.weight$", "_attn.norm.key_norm.weight"),
    (r"\.q_norm\.weight$", ".norm.query_norm.weight"),
    (r"\.k_norm\.weight$", ".norm.key_norm.weight"),
)
"""ComfyUI's network has other names than the original checkpoint here."""


def comfy_problem(network: str) -> str:
    """Why networks of a class can't be exported; empty where they can."""
    if network in FAMILIES:
        return ""
    return (
        f"--as comfy: the names that ComfyUI has for {network} are not known, only those for {', '.join(FAMILIES)}; "
        "export --as diffusers, or --as delta"
    )


def comfy_keys(network: str, name: str, names: Mapping[str, Source]) -> tuple[str, ...]:
    """The keys of an original tensor's difference; several where versions of ComfyUI name it differently.

    Args:
        names: all original names.
    """
    stem, _, last = name.rpartition(".")
    if last == "bias" and f"{stem}.weight" in names:
        return (f"{PREFIX}{_renamed(network, name).removesuffix('.bias')}.diff_b",)
    renamed = _renamed(network, name)
    if last != "weight":
        return (f"{PREFIX}{renamed}.diff",)
    module = renamed.removesuffix(".weight")
    older = (f"{PREFIX}{module}.scale.diff",) if module.endswith((".query_norm", ".key_norm")) else ()
    return (f"{PREFIX}{module}.diff", *older)


def _renamed(network: str, name: str) -> str:
    for pattern, place in HUNYUAN if network.startswith("HunyuanVideo") else ():
        name = re.sub(pattern, place, name)
    return name


def write_comfy(trained: Trained, folder: Path, dtype: torch.dtype) -> list[str]:
    """folder/comfyui.safetensors; returns notes for the user.

    Raises:
        ValueError: a network or a tensor whose original name is not known.
    """
    tensors = differences(trained, dtype)
    about = {"base": trained.changed.about["base"], "base_hash": trained.base_hash, "format": "pt"}
    save_weights(tensors, folder / "comfyui.safetensors", about)
    if trained.adapters is None:
        return []
    return ["comfyui.safetensors has no pose adapters, as ComfyUI has no place for them: it generates without poses"]


def differences(trained: Trained, dtype: torch.dtype) -> dict[str, Tensor]:
    """All that moved, by ComfyUI's keys."""
    network = trained.network
    if problem := comfy_problem(network):
        raise ValueError(problem)
    names = original_sources(network, trained.base)
    if other := [name for name in trained.changed if name not in trained.base or not known(name)]:
        raise ValueError(
            f"--as comfy: the original form of {other[0]} is not known ({len(other)} such tensors moved); "
            "export --as diffusers, or --as delta"
        )
    found: dict[str, Tensor] = {}
    for name, source in names.items():
        if not any(part in trained.changed for part in source.names):
            continue
        if low := _low_rank(trained, source):
            module = f"{PREFIX}{_renamed(network, name).removesuffix('.weight')}"
            down, up = low
            found |= {f"{module}.lora_down.weight": down.to(dtype), f"{module}.lora_up.weight": up.to(dtype)}
            found[f"{module}.alpha"] = torch.tensor(float(len(down)))
            continue
        whole = source.joined([trained.difference(part) for part in source.names])
        found |= {key: whole.to(dtype, copy=True) for key in comfy_keys(network, name, names)}
    return found


def _low_rank(trained: Trained, source: Source) -> tuple[Tensor, Tensor] | None:
    """The factors of a weight that only moved by LoRA: those of fused parts side by side."""
    layers = [part.removesuffix(".weight") for part in source.names]
    moved = [layer for layer, part in zip(layers, source.names, strict=True) if part in trained.changed]
    if not all(layer in trained.factors for layer in moved):
        return None
    downs, ups = [], []
    for layer, part in zip(layers, source.names, strict=True):
        rows, columns = trained.base[part].shape
        down, up = trained.factors.get(layer, (torch.zeros(0, columns), torch.zeros(rows, 0)))
        downs.append(down)
        ups.append(up)
    up = torch.block_diag(*ups) if len(ups) > 1 else ups[0]
    return torch.cat(downs), Source(source.names[:1], source.swapped).joined([up])
