"""The human video task: a reference image and poses in, a clip of that person out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from entprog.config.schema import Config
from entprog.tasks.base import TaskPlugin

if TYPE_CHECKING:
    from entprog.config.checks import Finding
    from entprog.tasks.base import Task

__all__ = ["HumanVideo"]


@dataclass(frozen=True)
class HumanVideo(TaskPlugin):
    """This package's own video transformer on latent clips of people; its keys are [model] and [data]."""

    def build(self, config: Config, weights: str = "") -> "Task":
        """See `TaskPlugin.build`; opens the data set when it is first needed."""
        from entprog.tasks.human_video.task import build_task

        return build_task(config, weights)

    @classmethod
    def problems(cls, config: Config) -> "Iterable[Finding]":
        """Errors in the model and data settings of a configuration."""
        from entprog.tasks.human_video import checks

        return checks.problems(config)

    @classmethod
    def missing(cls, config: Config) -> "Iterable[Finding]":
        """Missing files that a run needs."""
        from entprog.tasks.human_video import checks

        return checks.missing(config)

    @classmethod
    def without_effect(cls, config: Config, given: set[str]) -> "Iterable[Finding]":
        """See `TaskPlugin.without_effect`."""
        from entprog.tasks.human_video import checks

        return checks.without_effect(config, given)
