"""What a trained model is saved as: a folder in diffusers' layout, the adapters, and only what moved."""

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from entprog.files import save_weights
from entprog.savings.frozen_storage import original
from entprog.savings.weight_precision import load_exactly
from entprog.tasks.pretrained.folder import DTYPES
from entprog.tasks.pretrained.stored import StoredTensors, base_hash, link_others, write_network

if TYPE_CHECKING:
    from entprog.tasks.pretrained.task import PretrainedTask

__all__ = ["ADAPTERS", "DELTA", "EMA", "Held", "load_weights", "moved", "save", "shared_name", "write_delta"]

ADAPTERS = "entprog_adapters.safetensors"
DELTA = "delta.safetensors"
EMA = "ema.safetensors"


def save(task: "PretrainedTask", folder: Path) -> None:
    """Write the final model.

    folder/model_index.json, scheduler/, vae/ ...    linked to the base's files
    folder/COMPONENT/                                the trained network, without adapters
    folder/entprog_adapters.safetensors              the pose adapters, where there are any
    folder/delta.safetensors                         the tensors of the network that moved
    """
    folder.mkdir(parents=True, exist_ok=True)
    base, component = task.folder.component, task.folder.configs.component
    with task.adapters.off() if task.adapters is not None else nullcontext():
        held = Held(task.model)
    changed = held.only(moved(held, StoredTensors(base), DTYPES[task.config.model.dtype]))
    link_others(task.folder.path, folder, component)
    write_network(base, folder / component, changed)
    about = {
        "base": shared_name(task.folder.name), "base_hash": base_hash(base), "component": component,
        "entprog": version("entprog"),
    }  # fmt: skip
    if task.adapters is not None:
        save_weights(task.adapters.tensors(), folder / ADAPTERS, _texts(about | adapter_settings(task)))
    write_delta(folder / DELTA, changed, about)  # last: a run with this file is finished


def shared_name(base: str) -> str:
    """A hub id, or a folder's own name: files that are passed on say nothing of where it lay."""
    path = Path(base).expanduser()
    return path.resolve().name if path.is_dir() else base


class Held(Mapping[str, Tensor]):
    """The exact state of a network by name, also of weights held rounded; each comes to the host when asked for."""

    def __init__(self, model: nn.Module) -> None:
        exact = {name: original(parameter) for name, parameter in model.named_parameters()}
        self._tensors = {name: exact.get(name, tensor).detach() for name, tensor in model.state_dict().items()}

    def only(self, names: list[str]) -> "Held":
        """The same, of these names."""
        fewer = object.__new__(Held)
        fewer._tensors = {name: self._tensors[name] for name in names}
        return fewer

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].cpu()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def moved(now: Mapping[str, Tensor], base: Mapping[str, Tensor], loaded: torch.dtype = torch.float32) -> list[str]:
    """Names of the tensors that differ from the base's, or that the base has not.

    Args:
        loaded: the type that the base was rounded to when it was loaded; that alone is no difference.
    """
    return [name for name in now if name not in base or not _same(now[name], base[name], loaded)]


def _same(now: Tensor, base: Tensor, loaded: torch.dtype) -> bool:
    if torch.equal(now, base.to(now.dtype)):
        return True
    return base.is_floating_point() and torch.equal(now, base.to(loaded).to(now.dtype))


def adapter_settings(task: "PretrainedTask") -> dict[str, Any]:
    """What `entprog.load_adapters` must know beside the adapters' names and shapes."""
    config = task.config.model
    front = task.family.leading(reference=config.reference) + int(config.reference == "frame")
    return {
        "pose": config.pose, "group": task.group, "channels": task.family.channels, "front": front,
        "patch": list(task.family.patch), "frames_factor": int(task.data.about["codec"]["frames_factor"]),
        "factor": int(task.data.about["codec"]["factor"]), "network": type(task.model).__name__,
        "family": config.family,
    }  # fmt: skip


def write_delta(path: Path, changed: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Only what moved, with what it belongs to in the metadata."""
    save_weights(dict(changed), path, _texts(about))


def _texts(about: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


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
    load_exactly(task.model, {**Held(task.model), **tensors})
