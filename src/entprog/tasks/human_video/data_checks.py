"""Whether a data set suffices for the phases of a run."""

from entprog.config.schema import Config
from entprog.core.types import Shape
from entprog.data.clips import Clips
from entprog.data.shards import Shards
from entprog.methods.config_checks import sizes_from
from entprog.tasks.human_video.held_out import holdout_clips


def check_data(config: Config, shards: Shards) -> None:
    """Refuse, before any work, phases that the data set does not suffice for.

    Raises:
        ValueError: a resolution that is not stored, too few frames, or a batch larger than the data set, of a phase
            or of what its schedule may train; likewise for the evaluation at the end.
    """
    for name, phase in config.phases.items():
        if not phase.steps:
            continue
        _check_stored(f"phases.{name}.resolution = {phase.resolution}", phase.sides[0], shards)
        clips = len(Clips(shards, "train", frames=phase.frames))
        Clips(shards, "holdout", frames=phase.frames)
        if phase.batch > clips:
            raise ValueError(
                f"phases.{name}.batch = {phase.batch}: larger than the data set's {clips} training clips of "
                f"{phase.frames} frames; lower it, or use train.gradient_accumulation_steps"
            )
        source, table = sizes_from(config)
        for shape in source.shapes(Shape.of(phase.sides, phase.frames, phase.batch)):
            said = f"{table}: resolution {shape.resolution} of phase {name}"
            _check_stored(said, shape.resolution, shards)
            if shape.batch > clips:
                raise ValueError(
                    f"{table}: batch {shape.batch} of phase {name} is larger than the data set's {clips} "
                    f"training clips of {phase.frames} frames"
                )
    if config.evaluate.clips:
        _check_stored(f"evaluate.resolution = {config.evaluate.resolution}", config.evaluate.sides[0], shards)
        holdout_clips(shards, config.evaluate.frames)


def _check_stored(label: str, size: int, shards: Shards) -> None:
    if size not in shards.sizes:
        raise ValueError(f"{label}: the data set stores {list(shards.sizes)}; prepare it with that size too")
