"""Which pose estimator reads photo and drive: that of the run's data, whose kind of poses the model was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entprog.poses.base import PoseEstimator
from entprog.poses.loading import (
    DEFAULT,
    completed,
    default_estimator,
    open_estimator,
    pose_settings,
    recorded_poses,
    wrong_pose,
)
from entprog.tasks.data_record import read_data_record

__all__ = ["estimator_for", "pose_of"]


def estimator_for(
    run: Path, pose: str | None = None, options: Mapping[str, Any] | None = None
) -> tuple[PoseEstimator, str]:
    """The estimator, and what to say of it; "" for the packaged one where the run's data were made with it.

    Args:
        pose: another than that of the run's data.
        options: over those that the data set records; files among those are known by their content only.

    Raises:
        ValueError: `pose` or `options` is wrong, or that estimator can't be opened.
    """
    known = _of_the_data(run)
    if pose is not None or options:
        return _given(pose or pose_of(run), options or {}, known)
    if known is None or known == (DEFAULT, completed(DEFAULT, {})):
        return default_estimator(), ""
    name, recorded = known
    why = "it reads no pictures" if name == "openpose_json" else ""
    if files := [key for key, value in recorded.items() if _is_content(value)]:
        why = f"give its files with --pose-options {' '.join(f'{key}=FILE' for key in files)}"
    if not why:
        try:
            return open_estimator(name, recorded), f"poses by {name}, as in the run's data"
        except (ValueError, OSError) as error:
            why = str(error).splitlines()[0]
    return default_estimator(), f"poses by {DEFAULT}, not by {name} as in the run's data: {why}"


def pose_of(run: Path) -> str:
    """Name of the estimator of the run's data; the packaged one where that is not known."""
    return (_of_the_data(run) or (DEFAULT, {}))[0]


def _of_the_data(run: Path) -> tuple[str, dict[str, Any]] | None:
    """Name and options as the run keeps them, else as its data set's folder says; None where neither does."""
    record = read_data_record(run) or {}
    kept = record.get("pose")
    if isinstance(kept, dict) and "name" in kept:
        found: tuple[str, dict[str, Any]] | None = (str(kept["name"]), dict(kept.get("options") or {}))
    else:
        found = recorded_poses(record.get("path"))
    return None if found is None else (found[0], completed(*found))


def _given(
    name: str, options: Mapping[str, Any], known: tuple[str, dict[str, Any]] | None
) -> tuple[PoseEstimator, str]:
    recorded = known[1] if known is not None and known[0] == name.replace("-", "_") else {}
    values = {key: value for key, value in recorded.items() if not _is_content(value)} | dict(options)
    if wrong := wrong_pose(name, values):
        raise ValueError("\n".join(wrong))
    estimator = open_estimator(name, values)
    used = pose_settings(name, values)
    if known is None:
        return estimator, f"poses by {name}"
    if known[0] != used["pose"]:
        return estimator, f"poses by {name}, not by {known[0]} as in the run's data"
    other = [key for key, value in used["pose_options"].items() if known[1].get(key) != value]
    if other:
        return estimator, f"poses by {name} with another {', '.join(other)} than the run's data"
    return estimator, f"poses by {name}, as in the run's data"


def _is_content(value: Any) -> bool:
    return str(value).startswith("sha256:")
