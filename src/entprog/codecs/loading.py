"""Load one component of a diffusers model, a VAE or a transformer, and refuse what diffusers would load half.

`from_pretrained` by itself leaves parameters that the weights lack on the meta device, loads weights of another class
where the shapes agree, takes pickles, and takes NaN. Here each of these is a ValueError of one line.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from entprog.config.load import ConfigWarning

__all__ = ["component_config", "load_component", "weights_hash"]

WEIGHTS = "diffusion_pytorch_model"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class _Place:
    """Where a component's files are: a local folder, or (subfolder of) a hub repository."""

    name: str
    local: Path | None
    subfolder: str
    revision: str
    field: str

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"{self.field} = {str(self.local or self.name)!r}: {what}")

    def arguments(self) -> dict[str, Any]:
        """For `from_pretrained` and `load_config`."""
        if self.local is not None:
            return {"pretrained_model_name_or_path": str(self.local)}
        hub = {"subfolder": self.subfolder or None, "revision": self.revision or None}
        return {"pretrained_model_name_or_path": self.name, **{k: v for k, v in hub.items() if v}}


def component_config(
    folder: str | Path, *, subfolder: str = "", revision: str = "", field: str = "pretrained"
) -> dict[str, Any]:
    """config.json of a component; no weights are read.

    Args:
        folder: a pipeline's folder, the component's own folder, or a hub id.
        subfolder: name of the component in a pipeline, such as "vae". Not needed for the component's own folder.
        revision: branch, tag or commit of a hub id.
        field: how error messages call `folder`.

    Raises:
        ValueError: no such folder, no config.json, or not a component's.
    """
    return _read(_place(folder, subfolder, revision, field))[1]


def load_component(
    cls: type[Any],
    folder: str | Path,
    *,
    subfolder: str = "",
    revision: str = "",
    dtype: torch.dtype = torch.float32,
    field: str = "pretrained",
) -> nn.Module:
    """An instance of `cls`, a model class of diffusers, in evaluation mode on the CPU with all its weights.

    Arguments are those of `component_config`. Only safetensors are read.

    Raises:
        ValueError: as for `component_config`; or another class, pickled, truncated, missing or non-finite weights, or
            weights of other shapes than config.json says.
    """
    place, config = _read(_place(folder, subfolder, revision, field))
    found = config["_class_name"]
    if found != cls.__name__:
        raise place.wrong(
            f"config.json says _class_name = {found!r}, but {cls.__name__} is needed; give another folder"
        )
    variant = {} if place.local is None else _check_files(place, place.local)
    with _quiet(), _default_dtype():
        try:
            model, report = cls.from_pretrained(
                **place.arguments(), **variant, torch_dtype=dtype, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise place.wrong(_reworded(error, place)) from error
        except (TypeError, AttributeError, KeyError, ArithmeticError) as error:
            raise place.wrong(
                f"config.json does not describe a {found} ({_first_line(error)}); copy the one of these weights"
            ) from error
    _check_weights(place, model, report)
    model.eval()
    return model


def weights_hash(tensors: Mapping[str, Tensor], *more: str) -> str:
    """sha256, in hex, of `more` and of every tensor's name, dtype, shape and bytes; independent of the order."""
    digest = sha256("\0".join(more).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        data: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(data)
    return digest.hexdigest()


def _place(folder: str | Path, subfolder: str, revision: str, field: str) -> _Place:
    path = Path(folder)
    if not path.is_dir():
        place = _Place(str(folder), None, subfolder, revision, field)
        if path.exists():
            raise place.wrong("a file; give the folder that holds config.json")
        if str(folder).count("/") != 1 or str(folder)[0] in "./~":
            raise place.wrong('no such folder; give a folder in diffusers\' layout, or a hub id such as "owner/model"')
        return place
    if not subfolder:
        return _Place(str(folder), path, "", "", field)
    if (path / subfolder).is_dir():
        return _Place(str(folder), path / subfolder, "", "", field)
    if not (path / "config.json").is_file():
        parts = sorted(part.parent.name for part in path.glob("*/config.json"))
        has = f"it has {', '.join(parts)}" if parts else "no folder in it has a config.json"
        raise _Place(str(folder), path, "", "", field).wrong(
            f"no {subfolder}/ and no config.json in it ({has}); give a pipeline's folder or the component's own"
        )
    return _Place(str(folder), path, "", "", field)


def _read(place: _Place) -> tuple[_Place, dict[str, Any]]:
    """config.json, and the place where it was found: a hub repository may hold the component at its root."""
    if place.local is None:
        return _read_from_hub(place)
    path = place.local / "config.json"
    if not path.is_file():
        pipeline = (place.local / "model_index.json").is_file()
        raise place.wrong(
            "a whole pipeline; name the component's folder in it" if pipeline else "no config.json in it; copy it too"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise place.wrong(f"config.json is no JSON ({error}); copy it again") from error
    return place, _with_class(place, config)


def _read_from_hub(place: _Place) -> tuple[_Place, dict[str, Any]]:
    root = _Place(place.name, None, "", place.revision, place.field)
    first: Exception | None = None
    for candidate in (place, root) if place.subfolder else (place,):
        try:
            with _quiet():
                config: Any = _Named.load_config(**candidate.arguments())
            return candidate, _with_class(candidate, dict(config))
        except (OSError, RuntimeError) as error:
            first = first or error
    assert first is not None
    raise place.wrong(_reworded(first, place)) from first


class _Named(ConfigMixin):
    """Reads config.json of any class."""

    config_name: Any = "config.json"


def _with_class(place: _Place, config: Any) -> dict[str, Any]:
    if not isinstance(config, dict) or "_class_name" not in config:
        raise place.wrong("config.json has no _class_name, so it is not of a diffusers model; give another folder")
    return config


def _check_files(place: _Place, folder: Path) -> dict[str, str]:
    """The weights' files are there, whole, and no pickles; returns the `variant` to load, if any."""
    index, variant = folder / f"{WEIGHTS}.safetensors.index.json", {}
    if index.is_file():
        try:
            files = sorted(
                {folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise place.wrong(f"{index.name} cannot be read ({error}); copy it again") from error
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise place.wrong(f"{len(missing)} of {len(files)} weight files are missing ({missing[0]}); copy them too")
    elif (folder / f"{WEIGHTS}.safetensors").is_file():
        files = [folder / f"{WEIGHTS}.safetensors"]
    else:
        files = sorted(folder.glob(f"{WEIGHTS}.*.safetensors"))
        if len(files) != 1:
            raise place.wrong(_without_weights(folder))
        variant = {"variant": files[0].name.removeprefix(f"{WEIGHTS}.").removesuffix(".safetensors")}
    for file in files:
        try:
            with safe_open(str(file), "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise place.wrong(f"{file.name} is truncated or no safetensors ({error}); copy it again") from error
    return variant


def _without_weights(folder: Path) -> str:
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in PICKLES)
    if pickles:
        return f"{pickles[0]} is a pickle, which can run code and is not read; save the weights as safetensors"
    return f"no {WEIGHTS}.safetensors in it; copy the weights too"


def _check_weights(place: _Place, model: nn.Module, report: Mapping[str, Any]) -> None:
    tensors = dict(model.state_dict())
    missing = sorted({*report["missing_keys"], *(name for name, tensor in tensors.items() if tensor.is_meta)})
    if missing:
        raise place.wrong(
            f"the weights lack {len(missing)} of {len(tensors)} tensors that config.json asks for "
            f"(first {missing[0]}); copy the weights that belong to it"
        )
    broken = [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if broken:
        raise place.wrong(f"NaN or infinite weights in {len(broken)} tensors (first {broken[0]}); copy them again")
    unknown = sorted(report["unexpected_keys"])
    if unknown:
        where = f"{place.field} = {str(place.local or place.name)!r}"
        warnings.warn(
            f"{where}: {len(unknown)} tensors of the weights have no place in the model (first {unknown[0]})",
            ConfigWarning,
            stacklevel=3,
        )


def _reworded(error: Exception, place: _Place) -> str:
    first = _first_line(error)
    if "expected shape" in first:
        return f"the weights do not have the shapes of config.json ({first.split('. If you')[0]}); copy both again"
    if place.local is None:
        return (
            "not in the local cache, and not to be had from the hub as safetensors "
            f"({first}); check the id and the network, or give a folder"
        )
    return f"cannot be loaded ({first}); copy it again"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _default_dtype() -> Iterator[None]:
    """torch's default dtype is afterwards what it was: `from_pretrained` leaves its own where it fails."""
    before = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' own messages: what they say of is raised here."""
    before = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(before)
