"""Plugin "human_video" of kind "task": a photo animated by the poses of a video."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from entprog.config.checks import Finding
    from entprog.config.schema import Config

__all__ = ["HumanVideo"]


@dataclass(frozen=True)
class HumanVideo:
    """Animates the person of one picture with the poses of a video."""

    @classmethod
    def problems(cls, config: "Config") -> "Iterator[Finding]":
        """What about model and data keeps a configuration from running."""
        from entprog.tasks.human_video import checks

        return checks.problems(config)

    @classmethod
    def missing(cls, config: "Config") -> "Iterator[Finding]":
        """Files that a run needs and that are not there."""
        from entprog.tasks.human_video import checks

        return checks.missing(config)

    @classmethod
    def without_effect(cls, config: "Config", given: set[str]) -> "Iterator[Finding]":
        """Settings that change nothing; `given` holds the dotted keys that the user wrote."""
        from entprog.tasks.human_video import checks

        return checks.without_effect(config, given)
