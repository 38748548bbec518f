"""The human video task: a reference image and poses in, a clip of that person out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from entprog.config.schema import Config
from entprog.tasks.base import TaskPlugin

if TYPE_CHECKING:
    from entprog.config.checks import Finding
    from entprog.profiling.subject import Subject
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
    def plan_subject(cls, config: Config, depth: int | None = None) -> "Subject":
        """See `TaskPlugin.plan_subject`; `depth`: spatial blocks, where they are not as many as the size has."""
        from entprog.tasks.human_video.plan_subject import HumanVideoSubject

        return HumanVideoSubject(config, depth)

    @classmethod
    def problems(cls, config: Config) -> "Iterable[Finding]":
        """What about model and data keeps a configuration from running."""
        from entprog.tasks.human_video import recipe_checks

        return recipe_checks.problems(config)

    @classmethod
    def missing(cls, config: Config) -> "Iterable[Finding]":
        """Files that a run needs and that are not there."""
        from entprog.tasks.human_video import recipe_checks

        return recipe_checks.missing(config)

    @classmethod
    def without_effect(cls, config: Config, given: set[str]) -> "Iterable[Finding]":
        """See `TaskPlugin.without_effect`."""
        from entprog.tasks.human_video import recipe_checks

        return recipe_checks.without_effect(config, given)
