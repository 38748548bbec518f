"""What keeps a model and a data set from being trained, by their configuration files and the index: no weight is read.

A problem is one line that begins with a key of the recipe.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from entprog.config.checks import running
from entprog.config.load import ConfigError
from entprog.config.schema import Config, ModelConfig, PhaseConfig
from entprog.core.types import Shape
from entprog.data.windows import OF_REFERENCES, Windows
from entprog.methods.config_checks import sizes_from
from entprog.tasks.pretrained.build import settings_problems
from entprog.tasks.pretrained.families.base import Configs, Family, Latent
from entprog.tasks.pretrained.sizes import size_problem
from entprog.tasks.pretrained.stored import StoredTensors

if TYPE_CHECKING:
    from entprog.tasks.pretrained.task import PretrainedTask

__all__ = ["check_codec", "check_experts", "of_data", "of_model"]

ANY_SIZE = Latent(1, 1, 1, 1)


def of_model(configs: Configs, family: Family, model: ModelConfig) -> Iterator[str]:
    """Problems of a model with the settings of [model]."""
    import diffusers

    said, listed = str(configs.network.get("_class_name")), configs.index.get(configs.component)
    if not isinstance(getattr(diffusers, said, None), type):
        yield (
            f"model.pretrained = {model.pretrained!r}: {configs.component}/config.json says _class_name = {said!r}, "
            f"which diffusers {diffusers.__version__} does not have; update diffusers, or give another model"
        )
    elif isinstance(listed, list) and len(listed) == 2 and listed[1] not in (None, said):
        yield (
            f"model.pretrained = {model.pretrained!r}: {configs.component}/config.json says _class_name = {said!r}, "
            f"but model_index.json says {listed[1]!r}; copy the one that belongs to the weights again"
        )
        return
    try:
        yield from settings_problems(family, model, said)
        _ = family.patch, family.width, family.channels, family.frames_factor, family.text_length
        family.conditions(ANY_SIZE, pose=model.pose, reference=model.reference)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        yield (
            f"model.pretrained = {model.pretrained!r}: {configs.component}/config.json lacks a value or has one of "
            f"another type ({type(error).__name__}: {error}); copy it again"
        )


def of_guidance(family: Family, model: ModelConfig, by: str) -> str:
    """Why `sample.guided_by` can't be `by`; empty where it can."""
    if by and family.embedded_guidance:
        return "this model takes the scale of guidance as an input and is called once a step; leave it empty"
    lacks = {"text": not family.text_length, "pose": model.pose == "none", "reference": model.reference == "none"}
    return f"this model gets no {by}; leave it empty" if by and lacks[by] else ""


def of_data(task: "PretrainedTask", config: Config) -> Iterator[str]:
    """Problems of the data set with this model and these phases; `task` may have no network yet."""
    try:
        windows = task.data
    except ValueError as error:
        yield str(error)
        return
    family, give = task.family, config.model.pretrained
    about: dict[str, Any] = windows.about["codec"]
    own, stored = str(task.folder.configs.codec.get("_class_name", "")), str(about.get("class", about.get("name")))
    if int(about["channels"]) != family.channels:
        yield str(
            windows.wrong(
                f"its latents have {about['channels']} channels ({stored}), but {give} takes {family.channels}; "
                f"prepare it with --codec {give}"
            )
        )
    elif own and "class" in about and own != stored:
        yield str(windows.wrong(f"its latents are of {stored}, but {give} has {own}; prepare it with --codec {give}"))
    if lacking := [name for name in task.stored if name not in windows.stored]:
        yield str(
            windows.wrong(
                f"stores no {', '.join(lacking)}, which model.pose = {config.model.pose!r} and model.reference = "
                f"{config.model.reference!r} of this model need; {remedy(lacking, give)}"
            )
        )
    if family.text_length and windows.about["text"] is None:
        yield str(windows.wrong(f"has no text, but the model takes text; prepare it with --text {give}"))
    for name, phase in running(config).items():
        yield from _phase(task, windows, f"phases.{name}", phase, config)
    if config.evaluate.clips:
        if config.evaluate.frames > int(windows.about["frames"]):
            yield (
                f"evaluate.frames = {config.evaluate.frames}: the windows of {windows.folder} have "
                f"{windows.about['frames']} frames; choose at most that"
            )
        yield from _stored(windows, "evaluate.resolution", config.evaluate.resolution, config.evaluate.sides, "holdout")


def remedy(lacking: list[str], model: str) -> str:
    """How to prepare what a data set lacks."""
    options = ["--control draw (or --control COLUMN of its metadata)"] if "control" in lacking else []
    options += ["--references 1 or more"] if set(OF_REFERENCES) & set(lacking) else []
    return f"prepare it again with {' and '.join([f'--codec {model}', *options])}"


def _phase(task: "PretrainedTask", windows: Windows, key: str, phase: PhaseConfig, config: Config) -> Iterator[str]:
    frames = int(windows.about["frames"])
    if phase.frames != frames:
        yield (
            f"{key}.frames = {phase.frames}: the windows of {windows.folder} have {frames} frames, and a part of one "
            f"cannot be used; set {frames}, or prepare the videos again with --frames"
        )
    wrong = list(_stored(windows, f"{key}.resolution", phase.resolution, phase.sides, "train", "holdout"))
    yield from wrong
    if wrong or phase.frames != frames:
        return
    whole = task.framed(task.led(task.latent(phase.sides, frames)))
    if why := size_problem(task.family, phase.sides, whole, int(windows.about["codec"]["factor"])):
        yield f"{key}.resolution = {phase.resolution!r}: {why}"
    count = len(_of_size(windows, phase.sides, "train"))
    source, options = sizes_from(config)
    shapes = source.shapes(Shape.of(phase.sides, phase.frames, phase.batch))
    batches = {phase.batch: f"{key}.batch = {phase.batch}"}
    batches |= {s.batch: f"{options}: batch {s.batch} of {key}" for s in shapes if s.batch != phase.batch}
    for batch, said in batches.items():
        if batch > count:
            yield (
                f"{said}: larger than the data set's {count} training windows; lower it, or use "
                "train.gradient_accumulation_steps"
            )


def _stored(windows: Windows, key: str, given: Any, sides: tuple[int, int], *splits: str) -> Iterator[str]:
    size = f"{sides[0]}x{sides[1]}"
    shown = f'"{given}"' if isinstance(given, str) else f"{given} (a square)"
    if size not in windows.sizes:
        stored = ", ".join(f'"{each}"' for each in windows.sizes)
        remedy = f"choose one of them, or prepare it with --sizes {size}"
        yield f"{key} = {shown}: {windows.folder} stores {stored}; {remedy}"
        return
    for split in splits:
        if not _of_size(windows, sides, split):
            more = "prepare it with --holdout above 0" if split == "holdout" else "prepare more videos"
            yield f"{key} = {shown}: {windows.folder} has no {split} window of this size; {more}"


def _of_size(windows: Windows, sides: tuple[int, int], split: str) -> list[Any]:
    size = f"{sides[0]}x{sides[1]}"
    return [row for row in windows.rows if row.split == split and row.size == size]


def check_experts(task: "PretrainedTask") -> None:
    """Refuse weights of the expert that does not train, of two, which cannot be read: sampling takes both.

    Raises:
        ConfigError: naming its folder.
    """
    folder = task.folder
    for name in ("transformer", "transformer_2"):
        part = folder.path / name
        if name == folder.configs.component or not folder.configs.index.get(name) or not part.is_dir():
            continue
        try:
            StoredTensors(part)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            given = task.config.model.pretrained
            raise ConfigError([f"model.pretrained = {given!r}: {name}: {error}; copy its weights again"]) from error


def check_codec(task: "PretrainedTask") -> None:
    """Refuse latents of another VAE than the model's, which is loaded for it.

    Raises:
        ValueError: of other weights, or not loadable.
    """
    windows, give = task.data, task.config.model.pretrained
    stored = windows.about["codec"]["hash"]
    if stored == task.codec.hash:
        return
    if not task.folder.configs.codec:
        raise ConfigError(
            [
                f"model.pretrained = {give!r}: no vae/config.json in it, and the latents of {windows.folder} are of "
                "a VAE; give the whole pipeline's folder"
            ]
        )
    raise windows.wrong(
        f"its latents are of another VAE (hash {stored}) than that of {give} ({task.codec.hash}); "
        f"prepare it with --codec {give}"
    )
