"""The transformer with its starting weights."""

from importlib.resources import as_file, files
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from entprog.config.schema import ModelConfig
from entprog.nets.dit import VideoDiT, build_dit
from entprog.tasks.human_video.dit_weights import find_dit, load_dit


def build_model(config: ModelConfig, weights: str = "") -> VideoDiT:
    """The transformer with its starting weights.

    Weights that are not in the file (per-block pose adapters, a separate reference network) keep their
    initialisation: adapters start at zero, a separate reference network as a copy of the spatial blocks. So do
    those that `config.fresh` names. `weights`: a file that replaces the `config`'s, with nothing fresh.
    """
    model = build_dit(config.size, reference=config.reference, pose=config.pose)
    model.reference_gradient = config.reference_gradient
    if weights:
        load_weights(model, Path(weights))
        return model
    if config.init == "scratch":
        return model
    initial = {k: v.clone() for k, v in model.state_dict().items() if any(_is_of(k, kind) for kind in config.fresh)}
    _load_init(model, config)
    model.load_state_dict(initial, strict=False)
    return model


def _load_init(model: VideoDiT, config: ModelConfig) -> None:
    if config.init == "base":
        with as_file(files("entprog") / "assets" / f"base-{config.size}.safetensors") as path:
            if not path.is_file():
                raise ValueError(
                    f"model.init = 'base': no base of size {config.size!r} ships with the package; "
                    "choose size = 'nano', init = 'scratch' or a path"
                )
            load_weights(model, path)
        return
    path = Path(config.init)
    if path.is_dir() and (dit := find_dit(path)) is not None:
        load_dit(model, dit)
        return
    load_weights(model, path / "model.safetensors" if path.is_dir() else path)


def _is_of(name: str, kind: str) -> bool:
    """Whether a weight belongs to the pose adapters, or to the temporal blocks."""
    return name.startswith(("pose_embed.", "temporal.")[kind == "temporal"]) or (kind == "pose" and ".pose." in name)


def new_modules(config: ModelConfig) -> tuple[str, ...]:
    """Patterns of the untrained modules inside blocks, `*` for one dotted part."""
    return tuple({"pose": "blocks.*.pose", "temporal": "temporal.*"}[kind] for kind in config.fresh)


def new_temporal(config: ModelConfig) -> bool:
    """Whether temporal blocks start untrained: each is the identity until it has trained."""
    return config.init == "scratch" or "temporal" in config.fresh or find_dit(Path(config.init)) is not None


def load_weights(model: nn.Module, path: Path) -> None:
    """Load safetensors weights of any float type into `model`, refusing what does not fit."""
    if not path.is_file():
        raise ValueError(f"model.init = {str(path)!r}: no such file; give 'base', 'scratch' or a safetensors file")
    try:
        stored = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"model.init = {str(path)!r}: not a readable safetensors file ({error})") from error
    own = model.state_dict()
    unknown = sorted(stored.keys() - own.keys())
    wrong = [k for k in stored.keys() & own.keys() if stored[k].shape != own[k].shape]
    missing = [k for k in own.keys() - stored.keys() if not _may_be_new(k)]
    if unknown or wrong or missing:
        what = "; ".join(
            f"{label}: {', '.join(sorted(names)[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            for label, names in (("unknown", unknown), ("other shape", wrong), ("missing", missing))
            if names
        )
        raise ValueError(f"model.init = {str(path)!r}: these weights are of another model ({what})")
    for name in own.keys() - stored.keys():
        if name.startswith("reference_blocks."):
            stored[name] = stored[name.removeprefix("reference_")]
    model.load_state_dict({k: v.float() for k, v in stored.items()}, strict=False)


def _may_be_new(name: str) -> bool:
    return name.startswith("reference_blocks.") or (name.startswith("blocks.") and ".pose." in name)
