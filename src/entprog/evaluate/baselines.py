"""What the numbers of an evaluation are compared with: clips that no model made."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from entprog import plugins
from entprog.evaluate.measure import GeneratedClip, Options, measure
from entprog.evaluate.provenance import POOLING
from entprog.metrics.base import KeypointMetric

__all__ = ["baselines"]


def baselines(
    clips: Sequence[GeneratedClip], names: Sequence[str], options: Options, mean: Tensor | None
) -> dict[str, dict[str, float]]:
    """Values by baseline: the same frames as for the generated clips.

    `copy_reference` shows the reference image throughout, `mean_frame` the mean training frame [3, H, W]. With a metric
    of poses there is also `shuffled_poses`: the generated frames against the poses of the next clip.
    """
    shown = {"copy_reference": [clip.reference.expand_as(clip.truth) for clip in clips]}
    if mean is not None:
        shown["mean_frame"] = [mean.expand_as(clip.truth) for clip in clips]
    found = {name: measure(frames, clips, names, per_clip=False, options=options)[0] for name, frames in shown.items()}
    posed = [name for name in names if issubclass(plugins.find("metric", name), KeypointMetric)]
    if posed and len(clips) > 1:
        nexts = [*clips[1:], clips[0]]
        shuffled = [replace(clip, keypoints=other.keypoints) for clip, other in zip(clips, nexts, strict=True)]
        values = measure([clip.generated for clip in clips], shuffled, posed, per_clip=False, options=options)[0]
        found["shuffled_poses"] = {name: value for name, value in values.items() if name not in POOLING}
    return found
