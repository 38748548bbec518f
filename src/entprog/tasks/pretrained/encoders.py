"""The text or image encoders of a pretrained pipeline: loaded whole or refused, without network and VAE.

transformers fills what the weights lack with random numbers and says so in a warning at most; here that is an error.
Only safetensors are read, and only classes of transformers and diffusers are used: code that comes with a model never
runs.
"""

import gc
import json
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import file_digest, sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn

from entprog.plugins import not_installed
from entprog.profiling.device import pick_device
from entprog.tasks.pretrained.families import family_of
from entprog.tasks.pretrained.families.base import Configs, Family
from entprog.tasks.pretrained.folder import read_configs

__all__ = ["DTYPES", "EXTRA", "Encoders"]

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EXTRA = 'pip install "entprog[pretrained]"'
WEIGHTS = "model"
PREFIXES = {"text": ("text_encoder", "tokenizer"), "image": ("image_encoder", "image_processor", "feature_extractor")}
LIBRARIES = ("transformers", "diffusers")
SIDE_FILES = ("*.json", "*/*.json", "*/*.model", "*/*.txt", "*/*.jinja")


@dataclass(frozen=True)
class Encoders:
    """The encoders of one kind in a pipeline's folder; nothing is loaded before `pipeline` is called.

    Attributes:
        source: as the user gave it, for error messages.
        field: how error messages call it.
        path: the folder on this machine.
        configs: its configuration files.
        kind: which encoders: "text" or "image".
        own_family: a family of the user's as "package.module:Class"; empty: by the network's class.
    """

    source: str
    field: str
    path: Path
    configs: Configs
    kind: Literal["text", "image"]
    own_family: str = ""

    @classmethod
    def open(
        cls, source: str, kind: Literal["text", "image"], *, revision: str = "", component: str = "", field: str = "",
        family: str = "",
    ) -> "Encoders":  # fmt: skip
        """Find the folder; of a hub id, fetch the encoders' files that are not yet in the cache.

        Args:
            source: a whole pipeline's folder, or a hub id.
            revision: branch, tag or commit of a hub id.
            component: the network's folder, as for `read_configs`.
            field: how error messages call `source`; empty: "--text" or "--image".
            family: `own_family`.

        Raises:
            ValueError: no such folder or id, no pipeline, no encoder of this kind in it, weights missing or pickled, or
                a package that it needs is not installed.
        """
        field = field or f"--{kind}"
        needed = {"transformers": EXTRA}
        path = Path(source).expanduser()
        if path.is_dir() and revision:
            raise ValueError(f"revision = {revision!r}: only for hub ids, but {field} is a folder")
        if not path.is_dir():
            needed["huggingface_hub"] = EXTRA
        if absent := not_installed(needed):
            raise ValueError(f"{field} = {source!r}: {absent}")
        if not path.is_dir():
            path = _fetched(source, kind, revision, field)
        try:
            found = cls(source, field, path, read_configs(path, component), kind, family)
        except ValueError as error:
            raise ValueError(str(error).replace("model.pretrained", field)) from error
        found._check()
        return found

    @cached_property
    def family(self) -> Family:
        """How the network is called."""
        return family_of(self.configs, self.own_family)

    @cached_property
    def parts(self) -> dict[str, type[Any]]:
        """The encoders' classes, by folder."""
        return {name: cls for name, cls in self._kept.items() if issubclass(cls, nn.Module)}

    @property
    def name(self) -> str:
        """The encoders' classes, such as "CLIPTextModel+T5EncoderModel"."""
        return "+".join(cls.__name__ for _, cls in sorted(self.parts.items()))

    @cached_property
    def hash(self) -> str:
        """sha256, in hex, of the classes and weight files of the encoders.

        Files are read once, at the disk's speed. Those in the hub's cache are not read: there the name of a large file
        is its sha256. The same weights in other files (other shards, another precision) have another hash.
        """
        digest = sha256()
        for name, cls in sorted(self.parts.items()):
            files = "\0".join(_sha256(file) for file in self._weights(name)[0])
            digest.update(f"{name}\0{cls.__name__}\0{files}\0".encode())
        return digest.hexdigest()

    @contextmanager
    def pipeline(self, *, device: str = "cpu", dtype: str = "float32") -> Iterator[Any]:
        """The pipeline with these encoders on `device`, and nothing else that has weights; freed at the end.

        Raises:
            ValueError: weights are missing, of other shapes, truncated or not finite, the pipeline can't be made, or
                there is no such device or dtype.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype = {dtype!r}: choose {' or '.join(DTYPES)}")
        place = pick_device(device)
        loaded: Any = None
        parts: dict[str, Any] = {}
        try:
            with _quiet():
                parts = {name: self._loaded(name, cls, DTYPES[dtype]).to(place) for name, cls in self.parts.items()}
                loaded = self._made(parts)
            loaded.set_progress_bar_config(disable=True)
            with torch.no_grad():
                yield loaded
        finally:
            for name in parts if loaded is not None else ():
                setattr(loaded, name, None)
            parts.clear()
            gc.collect()
            if place.type == "cuda":
                torch.cuda.empty_cache()

    def _made(self, parts: dict[str, Any]) -> Any:
        """The pipeline of these components, in which all others with weights are None."""
        left_out: dict[str, Any] = {name: None for name in self._components if name not in self._kept}
        try:
            try:
                return self._class.from_pretrained(str(self.path), **left_out, **parts, use_safetensors=True)
            except AttributeError:  # HunyuanVideo 1.5's asks the VAE for its configuration while it is made
                if not self.configs.codec:
                    raise
            with torch.device("meta"):
                vae: type[Any] = getattr(import_module("diffusers"), str(self.configs.codec["_class_name"]))
                left_out["vae"] = vae.from_config(dict(self.configs.codec))
            made = self._class.from_pretrained(str(self.path), **left_out, **parts, use_safetensors=True)
        except (OSError, ValueError, RuntimeError, TypeError, ImportError, AttributeError) as error:
            raise self._wrong(f"{self._class.__name__} cannot be loaded ({_first_line(error)})") from error
        made.vae = None
        return made

    @property
    def _class(self) -> type[Any]:
        """The pipeline's class."""
        name = self.configs.index.get("_class_name", "")
        found = getattr(import_module("diffusers"), name, None) if isinstance(name, str) and name else None
        if not isinstance(found, type):
            raise self._wrong(f"model_index.json says _class_name = {name!r}, which diffusers does not have; update it")
        return found

    @property
    def _components(self) -> dict[str, list[Any]]:
        index = self.configs.index
        return {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}

    @cached_property
    def _kept(self) -> dict[str, type[Any]]:
        """Components that are loaded: of this kind, and those that have no weights, such as the scheduler."""
        others = tuple(prefix for kind, prefixes in PREFIXES.items() if kind != self.kind for prefix in prefixes)
        kept: dict[str, type[Any]] = {}
        for name, (library, cls) in self._components.items():
            own = name.startswith(PREFIXES[self.kind])
            if cls is None or name.startswith(others):
                continue
            found = getattr(import_module(library), str(cls), None) if library in LIBRARIES else None
            if own and not isinstance(found, type):
                raise self._wrong(
                    f"model_index.json says {name} = {library}.{cls}, which is neither diffusers' nor transformers'; "
                    "code that comes with a model is not run"
                )
            if isinstance(found, type) and (own or not issubclass(found, nn.Module)):
                kept[name] = found
        return kept

    def _check(self) -> None:
        if not self.configs.index:
            raise self._wrong("no model_index.json in it; give the whole pipeline's folder")
        if not self.parts:
            said = f"it has no {self.kind} encoder"
            raise self._wrong(f"{said}; give a pipeline that has one, or leave {self.field} out")
        for name in self.parts:
            self._weights(name)
        for name in self._kept:
            if not (self.path / name).is_dir():
                raise self._wrong(f"model_index.json names {name}, but there is no folder {name}/; copy it too")
        module: Any = sys.modules[self._class.__module__]
        needed = {}
        if self.kind == "text" and hasattr(module, "prompt_clean") and hasattr(module, "is_ftfy_available"):
            needed["ftfy"] = EXTRA  # without it, diffusers fails at the first prompt, or leaves it unmended
        for name in self._kept:
            files = {file.name for file in (self.path / name).iterdir()}
            if any(file.endswith(".model") for file in files) and "tokenizer.json" not in files:
                needed |= {"sentencepiece": EXTRA, "google.protobuf": EXTRA}
        if absent := not_installed(needed):
            raise self._wrong(absent)

    def _weights(self, name: str) -> tuple[list[Path], str]:
        """The weight files that are loaded, and their variant, such as "fp16", where there are no others."""
        folder = self.path / name
        index, whole = folder / f"{WEIGHTS}.safetensors.index.json", folder / f"{WEIGHTS}.safetensors"
        variant = ""
        if index.is_file():
            try:
                names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise self._wrong(f"{name}/{index.name} cannot be read ({error}); copy it again") from error
            files = sorted(folder / str(file) for file in names)
            if absent := [file.name for file in files if not file.is_file()]:
                raise self._wrong(f"{len(absent)} weight files are missing in {name}/ ({absent[0]}); copy them too")
        elif whole.is_file():
            files = [whole]
        else:
            files = sorted(folder.glob(f"{WEIGHTS}.*.safetensors"))
            variant = files[0].name.split(".")[1] if len(files) == 1 else ""
        if not files or (len(files) > 1 and not index.is_file()):
            pickles = sorted(file.name for file in folder.glob("*") if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
            if pickles:
                raise self._wrong(
                    f"{name}/{pickles[0]} is a pickle, which can run code and is not read; "
                    "save the weights as safetensors"
                )
            raise self._wrong(f"no weights (*.safetensors) in {name}/; copy them too")
        return files, variant

    def _loaded(self, name: str, cls: type[Any], dtype: torch.dtype) -> nn.Module:
        """One encoder, in evaluation mode."""
        folder = self.path / name
        try:
            said = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [
                cls.__name__
            ]
            model, report = cls.from_pretrained(
                str(folder),
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                variant=self._weights(name)[1] or None,
            )
        except (OSError, ValueError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
            raise self._wrong(f"{name} cannot be loaded ({_first_line(error)}); copy it again") from error
        if missing := sorted(report["missing_keys"]):
            raise self._wrong(
                f"the weights of {name}, of {said[0]}, lack {len(missing)} tensors of {cls.__name__} "
                f"(first {missing[0]}); "
                "copy the weights that belong to it"
            )
        if other := report.get("mismatched_keys"):
            first = sorted(str(key[0] if isinstance(key, tuple) else key) for key in other)[0]
            raise self._wrong(f"{first} of {name} does not have the shape that config.json says; copy both again")
        broken = [key for key, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
        if broken:
            raise self._wrong(f"NaN or infinite weights in {name} (first {broken[0]}); copy them again")
        found: nn.Module = model.eval().requires_grad_(False)
        return found

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{self.field} = {self.source!r}: {what}")


def _fetched(source: str, kind: str, revision: str, field: str) -> Path:
    """The local copy of a hub id: configuration files, and the weights of one kind of encoder."""
    from huggingface_hub import snapshot_download

    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        raise ValueError(f'{field} = {source!r}: no such folder; give a folder, or a hub id such as "owner/model"')
    wanted = [*SIDE_FILES, *(f"{prefix}*/*.safetensors" for prefix in PREFIXES[kind])]
    try:
        return Path(snapshot_download(source, revision=revision or None, allow_patterns=wanted))
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{field} = {source!r}: not in the local cache, and not to be had from the hub ({_first_line(error)}); "
            "check the id and the network, or give a folder"
        ) from error


def _sha256(file: Path) -> str:
    target = file.resolve()
    if target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name):
        return target.name
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' own messages: what matters of them is raised here."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries: tuple[Any, ...] = (of_diffusers, of_transformers)
    before = [library.get_verbosity() for library in libraries]
    bars = of_transformers.is_progress_bar_enabled()
    for library in libraries:
        library.set_verbosity(library.CRITICAL)
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, level in zip(libraries, before, strict=True):
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()
