"""A LoRA that `load_lora_weights` of diffusers reads."""

from pathlib import Path

import torch
from torch import Tensor

from entprog.export.trained import Trained
from entprog.files import save_weights

__all__ = ["lora_problem", "write_lora"]

FILE = "pytorch_lora_weights.safetensors"
EXACT = 1024
"""Up to this many rows or columns the singular values are computed exactly, above by a randomised method."""


def lora_problem(pipeline: str) -> str:
    """Why LoRA can't be loaded into a pipeline's class; empty where it can."""
    import diffusers

    if not pipeline or hasattr(getattr(diffusers, pipeline, None), "load_lora_weights"):
        return ""
    return f"--as lora: {pipeline} of diffusers loads no LoRA; export --as diffusers, or --as delta"


def write_lora(trained: Trained, folder: Path, dtype: torch.dtype, rank: int | None = None) -> list[str]:
    """folder/pytorch_lora_weights.safetensors; returns notes for the user.

    Args:
        rank: of the best approximation, for runs that trained weights in full; None: the run's own adapters, exactly.

    Raises:
        ValueError: more moved than a LoRA can hold, and no rank is given.
    """
    if rank is None:
        _check_exact(trained)
        found, notes = dict(trained.factors), list[str]()
    else:
        found, notes = approximated(trained, rank)
    prefix = "unet" if trained.component == "unet" else "transformer"
    tensors = {}
    for layer, (a, b) in found.items():
        tensors[f"{prefix}.{layer}.lora_A.weight"] = a.to(dtype)
        tensors[f"{prefix}.{layer}.lora_B.weight"] = b.to(dtype)
    about = {"base": trained.changed.about["base"], "base_hash": trained.base_hash, "format": "pt"}
    save_weights(tensors, folder / FILE, about)
    if trained.component == "transformer_2":
        notes.append("these are of the second network: load_lora_weights(..., load_into_transformer_2=True)")
    return notes


def _check_exact(trained: Trained) -> None:
    full = [name for name in trained.changed if name.removesuffix(".weight") not in trained.factors]
    instead = "export --as comfy or --as delta, or give --rank R for the best approximation of rank R"
    if trained.averaged and full:
        raise ValueError(
            "--as lora: an average of weights is not the product of the run's adapters; give --weights model for those "
            "of the last step, or --rank R for the best approximation of rank R"
        )
    if not trained.factors:
        raise ValueError(f"--as lora: run {trained.run} trained its weights in full; {instead}")
    if full:
        raise ValueError(
            f"--as lora: {len(full)} tensors moved beside the adapters (first {full[0]}), which no LoRA holds; "
            f"{instead}, or train with phases.NAME.outside = false"
        )


def approximated(trained: Trained, rank: int) -> tuple[dict[str, tuple[Tensor, Tensor]], list[str]]:
    """The best factors of rank `rank` of each linear layer that moved, and how far they are off."""
    found, whole, missed, left_out = {}, 0.0, 0.0, []
    for name in trained.changed:
        moved = trained.difference(name)
        size = float(moved.double().pow(2).sum())
        whole += size
        layer = name.removesuffix(".weight")
        if not name.endswith(".weight") or layer not in trained.layers:
            left_out.append(name)
            missed += size
            continue
        a, b = best_factors(moved, rank)
        found[layer] = a, b
        missed += float((moved - b @ a).double().pow(2).sum())
    error = (missed / whole) ** 0.5 if whole else 0.0
    without = f", of it {len(left_out)} tensors left out (first {left_out[0]})" if left_out else ""
    return found, [f"rank {rank}: relative error {error:.3g} of all that moved{without}"]


def best_factors(moved: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [rank, in] and B [out, rank] with the least squared error of B A; zeros where the rank is above the matrix's.

    Deterministic. By Eckart and Young (1936) the largest `rank` singular values and their vectors.
    """
    if min(moved.shape) <= EXACT:
        left, values, right = torch.linalg.svd(moved, full_matrices=False)
        right = right.T
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            left, values, right = torch.svd_lowrank(moved, min(rank + 16, *moved.shape), niter=6)
    root = values[:rank].sqrt()
    a = moved.new_zeros(rank, moved.shape[1])
    b = moved.new_zeros(moved.shape[0], rank)
    a[: len(root)], b[:, : len(root)] = root[:, None] * right[:, :rank].T, left[:, :rank] * root
    return a, b
