"""A pretrained model's files in diffusers' layout: a local folder, or a hub id."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from entprog.tasks.pretrained.families.base import Configs

__all__ = ["ModelFolder", "planned_configs", "read_configs", "shipped_models"]

COMPONENTS = ("transformer", "unet")
JSON = ("*.json", "*/*.json")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}


def read_configs(folder: Path, component: str = "") -> Configs:
    """The configuration files of a folder: of a whole pipeline, or of one network with its scheduler beside it.

    Args:
        component: the network's folder; empty for the only one there is.

    Raises:
        ValueError: no such component, no scheduler, or a file that is not JSON.
    """
    if not folder.is_dir():
        raise ValueError(f"model.pretrained = {str(folder)!r}: no such folder")
    found = component or _component(folder)
    network = folder / found / "config.json"
    if not network.is_file():
        there = sorted(path.parent.name for path in folder.glob("*/config.json"))
        raise ValueError(
            f"model.component = {found!r}: {folder} has no {found}/config.json; it has {', '.join(there) or 'none'}"
        )
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if not scheduler.is_file():
        raise ValueError(
            f"model.pretrained = {str(folder)!r}: no scheduler/scheduler_config.json, which says what the model "
            "predicts; give the whole pipeline's folder"
        )
    codec, index = folder / "vae" / "config.json", folder / "model_index.json"
    return Configs(
        network=_whole(_json(network)), scheduler=_json(scheduler),
        codec=_whole(_json(codec)) if codec.is_file() else {},
        index=_json(index) if index.is_file() else {}, component=found,
        text={path.parent.name: _json(path) for path in sorted(folder.glob("text_encoder*/config.json"))},
    )  # fmt: skip


def _component(folder: Path) -> str:
    found = [name for name in COMPONENTS if (folder / name / "config.json").is_file()]
    if not found:
        raise ValueError(
            f"model.pretrained = {str(folder)!r}: no {' or '.join(f'{name}/config.json' for name in COMPONENTS)} in "
            "it; give a folder in diffusers' layout (original checkpoints: convert them with diffusers' scripts first)"
        )
    return found[0]


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: can't be read as JSON ({error}); fetch the model again") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path}: expected a JSON object; fetch the model again")
    return read


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """A component's configuration with its class's defaults for what the file leaves out."""
    import diffusers

    found = getattr(diffusers, str(config.get("_class_name", "")), None)
    if found is None:
        return config
    defaults = inspect.signature(found.__init__).parameters.values()
    return {p.name: p.default for p in defaults if p.default is not inspect.Parameter.empty} | config


@dataclass(frozen=True)
class ModelFolder:
    """A pretrained model on this machine.

    Attributes:
        name: as the recipe gives it, a path or hub id.
        path: the local folder.
        configs: its configuration files.
    """

    name: str
    path: Path
    configs: Configs

    @classmethod
    def open(cls, name: str, *, revision: str = "", component: str = "", weights: bool = True) -> "ModelFolder":
        """Find the folder; of a hub id, fetch what is not yet in the cache.

        Args:
            weights: the weights, too, safetensors only; False: configuration files only.

        Raises:
            ValueError: no such folder or hub id, offline, or files missing.
        """
        path = Path(name).expanduser()
        if not path.is_dir():
            path = _fetched(name, revision, weights)
        elif revision:
            raise ValueError(f"model.revision = {revision!r}: only for hub ids, but model.pretrained is a folder")
        return cls(name, path, read_configs(path, component))

    @property
    def component(self) -> Path:
        """The folder of the network."""
        return self.path / self.configs.component

    def network(self, dtype: str = "float32") -> nn.Module:
        """The network with its weights, in evaluation mode.

        Raises:
            ValueError: its files are missing, damaged, of another class, or hold what is no number.
        """
        import diffusers

        from entprog.codecs.loading import load_component

        found = getattr(diffusers, str(self.configs.network["_class_name"]))
        return load_component(found, self.component, dtype=DTYPES[dtype]).eval()

    def scheduler(self) -> Any:
        """The scheduler that comes with the model, for sampling."""
        import diffusers

        config = dict(self.configs.scheduler)
        return getattr(diffusers, str(config["_class_name"])).from_config(config)


def shipped_models() -> dict[str, Path]:
    """Hub ids whose configuration files (no weights) come with entprog, with their folders."""
    root = Path(__file__).parents[2] / "assets" / "models"
    return {path.name.replace("--", "/"): path for path in sorted(root.iterdir()) if path.is_dir()}


def planned_configs(name: str, *, revision: str = "", component: str = "") -> tuple[Configs, str]:
    """Configuration files for a plan, and where they are from.

    The first of: the local folder, the hub's cache, the files that come with entprog (not of a named revision), the
    hub itself.

    Raises:
        ValueError: as for `ModelFolder.open`.
    """
    if Path(name).expanduser().is_dir():
        return ModelFolder.open(name, revision=revision, component=component, weights=False).configs, "its folder"
    if (cached := _cached(name, revision)) is not None:
        return read_configs(cached, component), "the hub's cache"
    if not revision and (own := shipped_models().get(name)) is not None:
        return read_configs(own, component), "the configuration that comes with entprog"
    return ModelFolder.open(name, revision=revision, component=component, weights=False).configs, "the hub"


def _cached(name: str, revision: str) -> Path | None:
    """The folder of a hub id in the hub's cache, if it has a network's configuration."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        found = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return found if any((found / part / "config.json").is_file() for part in COMPONENTS) else None


def _fetched(name: str, revision: str, weights: bool) -> Path:
    """The local copy of a hub id."""
    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise ValueError(f"model.pretrained = {name!r}: no such folder, and no hub id (OWNER/NAME)")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise ValueError(
            f'model.pretrained = {name!r}: huggingface_hub is not installed; pip install "entprog[pretrained]"'
        ) from error
    wanted = [*JSON, *(("*/*.safetensors", "*/*.model", "*/*.txt") if weights else ())]
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"model.pretrained = {name!r}: not on this machine, and can't be fetched ({said}); "
            "give a local folder, or check the id and the connection"
        ) from error
