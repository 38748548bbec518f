"""`entprog export RUN OUT --as KIND`: a trained pretrained model as files that other tools load."""

from difflib import get_close_matches
from pathlib import Path

import torch

from entprog.export import hub
from entprog.export.comfy import comfy_problem, write_comfy
from entprog.export.delta import apply_delta, write_delta
from entprog.export.destination import check_free, fresh
from entprog.export.lora import lora_problem, write_lora
from entprog.export.trained import Trained
from entprog.files import save_weights
from entprog.tasks.pretrained.folder import read_configs
from entprog.tasks.pretrained.saving import ADAPTERS, DELTA, EMA
from entprog.tasks.pretrained.stored import link, write_network

__all__ = ["KINDS", "apply_delta", "export"]

WEIGHTS = ("auto", "model", "ema")
KINDS = ("diffusers", "delta", "comfy", "lora")
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def export(
    run: Path, out: Path, kind: str, *, dtype: str | None = None, rank: int | None = None, copy: bool = False,
    push: str = "", weights: str = "auto",
) -> list[str]:  # fmt: skip
    """Write a finished run of a pretrained model into the folder `out`, whole or not at all; returns lines to print.

    diffusers    the pipeline's folder with the trained network, for `from_pretrained`
    delta        delta.safetensors: the tensors that moved, for `apply_delta`
    comfy        comfyui.safetensors: differences under the original names, which ComfyUI loads as a LoRA
    lora         pytorch_lora_weights.safetensors, for `load_lora_weights`

    Pose adapters lie beside it as entprog_adapters.safetensors, for `entprog.load_adapters`.

    Args:
        dtype: "float32" (the default), "bf16" or "fp16", of comfy and lora.
        rank: of the best approximation (lora), for runs that trained weights in full.
        copy: copy files that are the same in the run, instead of linking them.
        push: a repository on the Hugging Face hub to upload to.
        weights: "model" (of the last step), "ema", or "auto": EMA weights where the run kept them.

    Raises:
        ValueError: anything that the user can mend; nothing is written then.
    """
    _check(kind, dtype, rank)
    if weights not in WEIGHTS:
        raise ValueError(f"--weights {weights!r}: choose {', '.join(WEIGHTS)}")
    check_free(out)
    if push:
        hub.check_push(push)
    trained = Trained.open(run, weights)
    about = {
        "as": kind,
        "run": run.resolve().name,
        "base": trained.changed.about["base"],
        "base_hash": trained.base_hash,
    }
    _check_family(trained, kind)
    number_type, notes = DTYPES[dtype or "float32"], []
    with fresh(out, about) as folder:
        if kind == "diffusers":
            _write_whole(trained, folder, copy)
        elif kind == "delta":
            write_delta(trained, folder)
        elif kind == "comfy":
            notes = write_comfy(trained, folder, number_type)
        else:
            notes = write_lora(trained, folder, number_type, rank)
        if trained.adapters is not None and trained.averaged:
            save_weights(dict(trained.adapters), folder / ADAPTERS, trained.adapters.about)
        elif trained.adapters is not None:
            link(trained.adapters.path, folder / ADAPTERS, copy=copy)
    if trained.averaged:
        notes.append("these are the run's EMA weights; --weights model for those of the last step")
    lines = [f"{out}: {kind} of {run}", *(f"  note: {note}" for note in notes)]
    if push:
        lines.append(hub.push(trained, out, push, kind))
    return lines


def _check(kind: str, dtype: str | None, rank: int | None) -> None:
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, 1, 0.4)
        guess = f"; did you mean {near[0]}?" if near else f"; choose {', '.join(KINDS)}"
        raise ValueError(f"--as {kind!r}: unknown{guess}")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"--dtype {dtype!r}: choose {', '.join(DTYPES)}")
    if dtype is not None and kind not in ("comfy", "lora"):
        raise ValueError(f"--dtype {dtype}: only with --as comfy and lora; {kind} keeps the type that was trained")
    if rank is not None and kind != "lora":
        raise ValueError(f"--rank {rank}: only with --as lora")
    if rank is not None and rank < 1:
        raise ValueError(f"--rank {rank}: must be at least 1")


def _check_family(trained: Trained, kind: str) -> None:
    problem = ""
    if kind == "comfy":
        problem = comfy_problem(trained.network)
    elif kind == "lora":
        index = read_configs(trained.final, trained.component).index
        problem = lora_problem(str(index.get("_class_name", "")))
    if problem:
        raise ValueError(problem)


def _write_whole(trained: Trained, folder: Path, copy: bool) -> None:
    """The run's folder in diffusers' layout, with EMA weights in the network's place where these are exported."""
    for file in sorted(path for path in trained.final.rglob("*") if path.is_file()):
        place = file.relative_to(trained.final)
        own = trained.averaged and place.parts[0] == trained.component
        if place.name not in (DELTA, EMA, ADAPTERS) and not own and not any(p.startswith(".") for p in place.parts):
            link(file, folder / place, copy=copy)
    if trained.averaged:
        write_network(trained.final / trained.component, folder / trained.component, trained.changed)
