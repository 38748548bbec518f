"""Only what moved, and how it becomes the trained folder again."""

import json
from importlib.metadata import version
from pathlib import Path

from entprog.export.destination import fresh
from entprog.export.trained import TensorFile, Trained
from entprog.files import save_weights
from entprog.tasks.pretrained.folder import ModelFolder
from entprog.tasks.pretrained.saving import DELTA
from entprog.tasks.pretrained.stored import base_hash, link_others, write_network

__all__ = ["apply_delta", "write_delta"]


def write_delta(trained: Trained, folder: Path) -> None:
    """folder/delta.safetensors: the tensors that moved, in the type that they trained in.

    Metadata: base, base_hash, component, entprog, method, and as JSON ranking (phase -> blocks, most important first)
    and stages (which blocks trained, from which step of which phase on).
    """
    about = {key: value if isinstance(value, str) else json.dumps(value) for key, value in trained.story().items()}
    about = {**trained.changed.about, **about, "entprog": version("entprog")}
    save_weights(dict(trained.changed), folder / DELTA, about)


def apply_delta(base: str | Path, delta: str | Path, out: str | Path) -> Path:
    """The trained model's folder, bit for bit as the run saved it.

    Args:
        base: the folder or hub id of the model that the run began with.
        delta: delta.safetensors, or the folder that it is in.
        out: the new folder; not there yet, or an earlier export.

    Raises:
        ValueError: another base than the delta's, or `out` holds something else.
    """
    path, out = Path(delta), Path(out)
    changed = TensorFile(path / DELTA if path.is_dir() else path)
    if missing := {"base_hash", "component"} - changed.about.keys():
        raise ValueError(f"delta = {str(path)!r}: no {min(missing)} in its metadata; give a delta.safetensors")
    folder = ModelFolder.open(str(base), component=changed.about["component"])
    if (found := base_hash(folder.component)) != changed.about["base_hash"]:
        raise ValueError(
            f"base = {str(base)!r}: its weights have the hash {found[:12]}, but the delta belongs to "
            f"{changed.about['base_hash'][:12]} ({changed.about.get('base')}); give that base"
        )
    with fresh(out, {"as": "diffusers", "delta": path.name, "base_hash": found}) as partial:
        link_others(folder.path, partial, folder.configs.component)
        write_network(folder.component, partial / folder.configs.component, changed)
    return out
