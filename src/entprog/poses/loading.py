"""Open a pose estimator by its name and options."""

import json
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from entprog import plugins
from entprog.poses.base import PoseEstimator

__all__ = [
    "DEFAULT", "completed", "default_estimator", "open_estimator", "pose_settings", "recorded_poses", "with_defaults",
    "wrong_pose",
]  # fmt: skip

DEFAULT = "blazepose"
"""The estimator that comes with the package."""


def open_estimator(name: str = DEFAULT, options: Mapping[str, Any] | None = None, device: str = "cpu") -> PoseEstimator:
    """The estimator, with its networks loaded.

    Raises:
        ValueError: unknown name or options (all are listed), or a package or file that it needs is missing.
    """
    estimator: PoseEstimator = plugins.load("pose", name, **(options or {})).open(device)
    return estimator


@lru_cache(maxsize=1)
def default_estimator() -> PoseEstimator:
    """The packaged estimator on the CPU, loaded once a process."""
    return open_estimator()


def pose_settings(name: str = DEFAULT, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """{"pose": name, "pose_options": options} as a data set records them: all options, files by their content."""
    plugin = plugins.load("pose", name, **(options or {}))
    values = {option.name: getattr(plugin, option.name) for option in plugins.describe("pose", name).options}
    written = name if ":" in name else name.replace("-", "_")
    return {"pose": written, "pose_options": {key: _recorded(value) for key, value in values.items()}}


def completed(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded options, and for those that are newer than the record their defaults.

    Of the estimators that come with entprog; somebody's own are not imported for it.
    """
    if name not in plugins.names("pose"):
        return dict(options)
    known = plugins.describe("pose", name).options
    return {option.name: _recorded(option.default) for option in known if not option.required} | dict(options)


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a data set with its estimator's options completed."""
    if "pose" not in settings:
        return dict(settings)
    return {**settings, "pose_options": completed(str(settings["pose"]), settings.get("pose_options") or {})}


def recorded_poses(folder: str | Path | None) -> tuple[str, dict[str, Any]] | None:
    """Name and options of the estimator that a data set was prepared with; None where it does not say."""
    try:
        settings = json.loads((Path(folder or "") / "prepare.json").read_text(encoding="utf-8"))
        return str(settings["pose"]), dict(settings.get("pose_options") or {})
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _recorded(value: Any) -> Any:
    if not isinstance(value, Path):
        return value
    if not value.is_file():
        return value.as_posix()
    digest = sha256()
    with value.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()[:16]}"


def wrong_pose(name: str, options: Mapping[str, Any] | None) -> list[str]:
    """What is wrong with an estimator's name and options, a line each; opens nothing."""
    wrong = plugins.problems("pose", name, options or {})
    if not wrong and (absent := plugins.not_installed(plugins.declared("pose", name, "packages", {}))):
        wrong.append(f"pose = {name!r}: {absent}")
    if not wrong:
        missing = plugins.declared("pose", name, "missing", _nothing)
        wrong += [f"pose = {name!r}: {text}" for text in missing(plugins.load("pose", name, **(options or {})))]
    return wrong


def _nothing(_: Any) -> list[str]:
    return []
