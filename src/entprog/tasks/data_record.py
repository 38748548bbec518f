"""data.json of a run: which data set it was trained on, so that another one is noticed on resume and evaluation."""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entprog.config.load import ConfigWarning
from entprog.data.fingerprint import changes
from entprog.files import write_atomically
from entprog.poses.loading import recorded_poses
from entprog.tasks.base import Task
from entprog.toml.values import shown

__all__ = ["check_same_data", "read_data_record", "warn_of_other_data", "write_data_record"]

RESTORE = "restore the file, or remove it"


def read_data_record(run: Path) -> dict[str, Any] | None:
    """{"path", "fingerprint", "fps", "codec", "clips", "holdout", "by_clip"} of a run; None without a record.

    And "pose", {"name", "options"} of what found the poses, where the data set's folder said it.

    A run of an earlier version has none, nor has one of a task without files.

    Raises:
        ValueError: the record is damaged.
    """
    path = Path(run) / "data.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a record of a run's data; {RESTORE}")
    if wrong := _wrong(found):
        raise ValueError("\n".join(f"{path}: {text}; {RESTORE}" for text in wrong))
    return found


def _wrong(record: Mapping[str, Any]) -> list[str]:
    """What is wrong with a record, a phrase each."""
    kinds = {"path": (str, "text"), "fingerprint": (str, "text"), "by_clip": (dict, "table")}
    wrong = [
        f"{key} = {shown(record[key])}: no {word}"
        for key, (kind, word) in kinds.items()
        if key in record and not isinstance(record[key], kind)
    ]
    rate = record.get("fps", 1)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
        wrong.append(f"fps = {shown(rate)}: no number above 0")
    return wrong


def write_data_record(run: Path, task: Task) -> None:
    """Write the record of a run that begins; nothing for a task without files."""
    record = task.data_record()
    if record is not None:
        if found := recorded_poses(record["path"]):
            record = record | {"pose": {"name": found[0], "options": found[1]}}
        write_atomically(run / "data.json", json.dumps(record, indent=1) + "\n")


def check_same_data(run: Path, task: Task, saved: Mapping[str, Any]) -> None:
    """Refuse to resume on other data than the checkpoint's; its folder may be another one.

    Raises:
        ValueError: naming what changed.
    """
    now, before = task.data_record(), read_data_record(run)
    wanted = saved.get("data") or (before or {}).get("fingerprint")
    if now is None or not wanted or now["fingerprint"] == wanted:
        return
    what = changes((before or {}).get("by_clip", {}), now["by_clip"]) if before else "it has another fingerprint"
    raise ValueError(
        f"data.path = {now['path']!r}: not the data that the run began with: {what}; "
        "restore those clips (a copy of the folder will do), or begin a new run"
    )


def warn_of_other_data(run: Path, task: Task) -> None:
    """Before an evaluation: say that the data changed since the training.

    Raises:
        ValueError: clips that the run was trained on are now held out.
    """
    now, before = task.data_record(), read_data_record(run)
    if now is None or before is None or before.get("fingerprint", now["fingerprint"]) == now["fingerprint"]:
        return
    clips = before.get("by_clip", {})
    seen = {clip for clip, (split, *_) in clips.items() if split == "train"}
    leaked = [clip for clip, (split, *_) in now["by_clip"].items() if split == "holdout" and clip in seen]
    if leaked:
        raise ValueError(
            f"data.path = {now['path']!r}: {len(leaked)} clips that this run was trained on are held out there now "
            f"(first {leaked[0]}); evaluate on the data set that it was trained on"
        )
    what = changes(clips, now["by_clip"])
    warnings.warn(f"the data changed since the training: {what}; metrics may not compare", ConfigWarning, stacklevel=2)
