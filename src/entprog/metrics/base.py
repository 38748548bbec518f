"""What a metric is to the evaluation: `update` with clips, `compute` values; and what it may have besides.

Shape legend: B clips, F frames, H W height and width in pixels.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Details", "KeypointMetric", "Metric", "NetworkMetric", "PosedMetric", "Skipped"]


class Skipped(ValueError):
    """A metric has no value here; the text is the reason, and what to do about it."""


class Metric(Protocol):
    """A metric over clips.

    A class may say more by attributes: `pooling` (a text, or one for each value), `per_clip = False` (a single clip
    has no value), `at_least` ({"clips": 2, "frames": 2}) and `packages` (see `plugins.declared`). Where it has no
    value, `update` or `compute` raises `Skipped`, or another ValueError: the evaluation reports the reason and goes on.
    """

    def update(self, fake: Tensor, real: Tensor) -> None:
        """Take generated and true clips, both [B, F, 3, H, W] in 0..1."""
        ...

    def compute(self) -> Mapping[str, float]:
        """Values over all clips by name."""
        ...


@runtime_checkable
class KeypointMetric(Protocol):
    """A metric that uses the driving keypoints instead of estimating them from the true clip."""

    def update_keypoints(self, fake: Tensor, keypoints: Tensor) -> None: ...


@runtime_checkable
class PosedMetric(Protocol):
    """A metric that compares clips at places that the driving keypoints [B, F, 18, 3] name."""

    def update_posed(self, fake: Tensor, real: Tensor, keypoints: Tensor) -> None: ...


@runtime_checkable
class NetworkMetric(Protocol):
    """A metric that needs the weights of a network."""

    def open(self) -> None:
        """Find and load the weights, so that it is known before any clip is generated whether they are there.

        Raises:
            Skipped: they are not there, or not what they should be.
        """


@runtime_checkable
class Details(Protocol):
    """A metric that can say what its values rest on: counts, networks and their checksums."""

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        """For each value's name what the protocol says of it beside the pooling."""
        ...
