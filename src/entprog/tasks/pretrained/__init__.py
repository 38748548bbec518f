"""A pretrained video model in diffusers' layout: Wan, HunyuanVideo, CogVideoX, SVD and their like."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from entprog.config.schema import Config
from entprog.tasks.base import TaskPlugin

if TYPE_CHECKING:
    from entprog.config.checks import Finding
    from entprog.profiling.subject import Subject
    from entprog.tasks.base import Task

__all__ = ["Pretrained"]


@dataclass(frozen=True)
class Pretrained(TaskPlugin):
    """A pretrained video model of diffusers (`model.pretrained`) on a data set of format 2; one file a model family."""

    weights_file: ClassVar[str] = "delta.safetensors"

    @classmethod
    def defaults(cls, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `TaskPlugin.defaults`; clips are evaluated at the size and length of the last phase."""
        phases = recipe.get("phases")
        tables = [table for table in phases.values() if isinstance(table, dict)] if isinstance(phases, dict) else []
        last = tables[-1] if tables else {}
        return {
            "model": {"pose": "blocks", "reference": "native"}, "freeze": {"inputs_every": 0},
            "sample": {"scheduler": "native"}, "phases.*": {"blocks": "all", "outside": True},
            "evaluate": {key: last[key] for key in ("resolution", "frames") if key in last},
        }  # fmt: skip

    def build(self, config: Config, weights: str = "") -> "Task":
        """See `TaskPlugin.build`."""
        from entprog.tasks.pretrained.task import build_task

        return build_task(config, weights)

    @classmethod
    def plan_subject(cls, config: Config, depth: int | None = None) -> "Subject":
        """See `TaskPlugin.plan_subject`: needs the model's configuration files only."""
        from entprog.tasks.pretrained.plan_subject import PretrainedSubject

        return PretrainedSubject(config, depth)

    @classmethod
    def problems(cls, config: Config) -> "Iterable[Finding]":
        """What keeps a configuration from running, as far as it can be said without the model's files."""
        from entprog.tasks.pretrained import recipe_checks

        return recipe_checks.problems(config)

    @classmethod
    def missing(cls, config: Config) -> "Iterable[Finding]":
        """Files that a run needs and that are not there."""
        from entprog.tasks.pretrained import recipe_checks

        return recipe_checks.missing(config)

    @classmethod
    def without_effect(cls, config: Config, given: set[str]) -> "Iterable[Finding]":
        """See `TaskPlugin.without_effect`."""
        from entprog.tasks.pretrained import recipe_checks

        return recipe_checks.without_effect(config, given)
