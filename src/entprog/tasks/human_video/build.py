"""From a configuration, or a finished run's folder, to a task with its weights."""

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from entprog.codecs.pca import PatchCodec
from entprog.config.schema import Config, ModelConfig
from entprog.data.shards import save_tensors
from entprog.diffusion.objective import Noising
from entprog.nets.dit import VideoDiT, build_dit
from entprog.tasks.human_video.task import HumanVideo


def build_task(config: Config) -> HumanVideo:
    """The human video task on its device, with weights as `config.model.init` says."""
    device = pick_device(config.device)
    torch.manual_seed(config.train.seed)
    model = build_model(config.model)
    precision = pick_precision(config.train.mixed_precision, device)
    model.gradient_checkpointing = config.train.gradient_checkpointing
    full = max(config.data.sizes) if not config.data.path else max(p.resolution for p in config.phases.values())
    return HumanVideo(
        model.to(device),
        Noising(config.model.beta_schedule),
        full_size=full,
        dropout=config.model.condition_dropout,
        autocast=precision,
    )


def build_model(config: ModelConfig) -> VideoDiT:
    """The transformer with its starting weights.

    Weights that the file has not got (per-block pose adapters, a separate reference network) keep their
    initialisation: adapters start at zero, a separate reference network as a copy of the spatial blocks. So do
    those that `config.fresh` names.
    """
    model = build_dit(config.size, reference=config.reference, pose=config.pose)
    model.reference_gradient = config.reference_gradient
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
    load_weights(model, path / "model.safetensors" if path.is_dir() else path)


def _is_of(name: str, kind: str) -> bool:
    """Whether a weight belongs to the pose adapters, or to the temporal blocks."""
    return name.startswith(("pose_embed.", "temporal.")[kind == "temporal"]) or (kind == "pose" and ".pose." in name)


def new_modules(config: ModelConfig) -> tuple[str, ...]:
    """Patterns of the modules inside blocks that start untrained, `*` for one dotted part."""
    return tuple({"pose": "blocks.*.pose", "temporal": "temporal.*"}[kind] for kind in config.fresh)


def new_temporal(config: ModelConfig) -> bool:
    """Whether temporal blocks start untrained: each is the identity until it has trained."""
    return config.init == "scratch" or "temporal" in config.fresh


def load_weights(model: nn.Module, path: Path) -> None:
    """Load safetensors weights of any float type into `model`, refusing what does not fit."""
    if not path.is_file():
        raise ValueError(f"model.init = {str(path)!r}: no such file; give 'base', 'scratch' or a safetensors file")
    try:
        stored = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"model.init = {str(path)!r}: not a readable safetensors file ({error})") from error
    own = model.state_dict()
    strange = sorted(stored.keys() - own.keys())
    wrong = [k for k in stored.keys() & own.keys() if stored[k].shape != own[k].shape]
    missing = [k for k in own.keys() - stored.keys() if not _may_be_new(k)]
    if strange or wrong or missing:
        what = "; ".join(
            f"{label}: {', '.join(sorted(names)[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            for label, names in (("unknown", strange), ("other shape", wrong), ("missing", missing))
            if names
        )
        raise ValueError(f"model.init = {str(path)!r}: these weights are of another model ({what})")
    for name in own.keys() - stored.keys():
        if name.startswith("reference_blocks."):
            stored[name] = stored[name.removeprefix("reference_")]
    model.load_state_dict({k: v.float() for k, v in stored.items()}, strict=False)


def _may_be_new(name: str) -> bool:
    return name.startswith("reference_blocks.") or (name.startswith("blocks.") and ".pose." in name)


def save_weights(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write weights aside and rename them into place."""
    aside = path.with_name(path.name + ".partial")
    try:
        save_tensors({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, aside, metadata)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def pick_device(name: str) -> torch.device:
    """ "auto" is the first CUDA device where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device = {name!r}: choose auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device = {name!r}: no CUDA device here; choose cpu or auto")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve "auto": bf16 where the processor has instructions for it."""
    if name == "fp16" and device.type == "cpu":
        raise ValueError("train.mixed_precision = 'fp16': only on a CUDA device; choose bf16 or no")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"


def open_run(run: Path, weights: str = "auto", device: str = "") -> tuple[Config, HumanVideo, PatchCodec]:
    """Configuration, task with the trained weights, and codec of a finished run.

    Args:
        weights: "model", "ema", or "auto": averaged weights where the run kept them.
        device: where the task goes; empty for the run's own. What trained in fp16 on a CUDA device runs elsewhere as
            "auto" does.

    Raises:
        ValueError: no run, not finished, averaged weights asked for that it has not got, or no such device.
    """
    from entprog.config.load import read_config

    final = run / "final"
    if not (run / "config.toml").is_file():
        raise ValueError(f"run = {str(run)!r}: no config.toml there; give a folder made by entprog train")
    if not (final / "model.safetensors").is_file():
        raise ValueError(
            f"run = {str(run)!r}: it has no final weights yet; finish it with --resume-from-checkpoint latest"
        )
    config = read_config(run / "config.toml", resolved=True)
    if device and device != config.device:
        half = config.train.mixed_precision == "fp16" and pick_device(device).type == "cpu"
        precision = "auto" if half else config.train.mixed_precision
        config = replace(config, device=device, train=replace(config.train, mixed_precision=precision))
    averaged = final / "ema.safetensors"
    if weights == "ema" and not averaged.is_file():
        raise ValueError(f"weights = 'ema': {run} has no averaged weights; set train.ema_decay, or choose model")
    chosen = averaged if averaged.is_file() and weights != "model" else final / "model.safetensors"
    task = build_task(_with_init(config, str(chosen)))
    task.model.eval()
    return config, task, PatchCodec.default()


def _with_init(config: Config, path: str) -> Config:
    return replace(config, model=replace(config.model, init=path, fresh=()))
