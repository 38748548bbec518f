"""What a trained model is saved as: a folder in diffusers' layout, the adapters, and only what moved."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from entprog.codecs.loading import weights_hash
from entprog.files import save_tensors, save_weights
from entprog.savings.frozen_storage import original
from entprog.savings.weight_precision import load_exactly

if TYPE_CHECKING:
    from entprog.tasks.pretrained.task import PretrainedTask

__all__ = ["ADAPTERS", "DELTA", "base_hash", "base_tensors", "load_weights", "moved", "save", "write_delta"]

ADAPTERS = "entprog_adapters.safetensors"
DELTA = "delta.safetensors"
WEIGHTS = "diffusion_pytorch_model"


def save(task: "PretrainedTask", folder: Path) -> None:
    """Write the final model.

    folder/model_index.json, scheduler/, vae/ ...    linked to the base's files
    folder/COMPONENT/                                the trained network, without adapters
    folder/entprog_adapters.safetensors              the pose adapters, where there are any
    folder/delta.safetensors                         the tensors of the network that moved
    """
    folder.mkdir(parents=True, exist_ok=True)
    with task.adapters.off() if task.adapters is not None else nullcontext():
        changed = moved(exact_state(task.model), task.folder.component)
        link_others(task.folder.path, folder, task.folder.configs.component)
        write_network(task, folder / task.folder.configs.component, changed)
    about = {"base": task.folder.name, "base_hash": base_hash(task.folder.component), "entprog": version("entprog")}
    write_delta(folder / DELTA, changed, about)
    if task.adapters is not None:
        save_weights(task.adapters.tensors(), folder / ADAPTERS, {**about, "pose": task.config.model.pose})


def base_tensors(component: Path) -> Iterator[tuple[str, Tensor]]:
    """The stored weights of a network, tensor by tensor."""
    for file in sorted(component.glob(f"{WEIGHTS}*.safetensors")):
        with safe_open(str(file), "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                yield name, opened.get_tensor(name)


def exact_state(model: nn.Module) -> dict[str, Tensor]:
    """The state on the host, with the exact values of weights that are held rounded."""
    held = {name: original(parameter).detach().cpu() for name, parameter in model.named_parameters()}
    return {name: held.get(name, tensor.detach().cpu()) for name, tensor in model.state_dict().items()}


def moved(now: Mapping[str, Tensor], component: Path) -> dict[str, Tensor]:
    """The tensors that differ from the base's in the type that they are held in, or that the base has not."""
    same = set()
    for name, base in base_tensors(component):
        if name in now and torch.equal(now[name], base.to(now[name].dtype)):
            same.add(name)
    return {name: tensor for name, tensor in now.items() if name not in same}


def base_hash(component: Path) -> str:
    """sha256 of the stored weights of a network: names, dtypes, shapes and bytes."""
    return weights_hash(dict(base_tensors(component)))


def write_delta(path: Path, changed: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Only what moved, with what it belongs to in the metadata."""
    save_weights(dict(changed), path, _texts(about))


def _texts(about: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def write_network(task: "PretrainedTask", folder: Path, changed: Mapping[str, Tensor]) -> None:
    """The trained network as diffusers saves it: what did not move as the base stores it, bit for bit."""
    tensors = dict(base_tensors(task.folder.component)) | dict(changed)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(task.folder.component / "config.json", partial / "config.json")
    save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, partial / f"{WEIGHTS}.safetensors",
                 metadata={"format": "pt"})  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def link_others(base: Path, folder: Path, component: str) -> None:
    """Everything of the base but the trained network: hard links where the file system has them, else copies."""
    for file in sorted(path for path in base.rglob("*") if path.is_file()):
        place = file.relative_to(base)
        if place.parts[0] == component or place.parts[0].startswith("."):
            continue
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(file.resolve(), target)
        except OSError:
            shutil.copyfile(file, target)


def load_weights(task: "PretrainedTask", path: Path) -> None:
    """Load a run's weights: its delta with the adapters beside it, or a file of the whole state (EMA).

    Raises:
        ValueError: not readable, of another base, or tensors that the network has not.
    """
    try:
        with safe_open(str(path), "pt") as opened:
            about = opened.metadata() or {}
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"weights = {str(path)!r}: can't be read as safetensors ({error}); train again") from error
    if (expected := about.get("base_hash")) and expected != (found := base_hash(task.folder.component)):
        raise ValueError(
            f"weights = {str(path)!r}: trained on another base (hash {expected[:12]}) than {task.folder.name} "
            f"({found[:12]}); give model.pretrained of that run"
        )
    adapters = path.with_name(ADAPTERS)
    if path.name == DELTA and task.adapters is not None:
        task.adapters.load(load_file(str(adapters)))
    own = task.model.state_dict()
    if unknown := sorted(tensors.keys() - own.keys()):
        raise ValueError(f"weights = {str(path)!r}: the network has no {unknown[0]}; give the run's own model")
    load_exactly(task.model, exact_state(task.model) | tensors)
