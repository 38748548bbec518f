"""Which inputs are prepared already, by their content, and which are to be prepared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entprog.prepare.content import Content, read_content
from entprog.prepare.inputs import shown
from entprog.prepare.names import Names
from entprog.prepare.store import Row, Store

__all__ = ["FAILED", "Job", "dropped_row", "match"]

SAME, FAILED = "same_as", "failed"
"""Key of the row of a file whose content another one has; beginning of a reason that another run may not meet."""


@dataclass(frozen=True)
class Job:
    """A file to be prepared, and its name in the data set."""

    content: Content
    name: str


def dropped_row(content: Content, name: str, reason: str, settings: Row, **more: Any) -> Row:
    """The row of a file that could not be looked into."""
    row: Row = {"source": content.source, "name": name, "status": "dropped", "reason": reason, "clips": []}
    row |= {"decoded_frames": 0, "fps": settings["fps"], "size": [0, 0], "rotation": 0}
    return row | {"people_max": 0, "pose_found": 0.0, "crops": {}, **content.about, **more}


def match(
    store: Store, contents: Sequence[Content], settings: Row, names: Mapping[Path, str] | None = None
) -> list[Job]:
    """The files to be prepared, in order; brings the rows of all others up to date.

    A file that was moved keeps its clips; one whose content changed loses them (`store.replaced`); one that failed or
    could not be read is tried again; one with the content of another is dropped with that reason.
    `names`: of files that are not called by their own.
    """
    store.order([content.source for content in contents])
    at = {row["source"]: row for row in store.rows}
    primary: dict[str, Row] = {}
    for row in store.rows:
        if row.get("sha256") and SAME not in row and not _again(row):
            primary.setdefault(row["sha256"], row)
    here = {content.source: content for content in contents}
    done: dict[str, Row] = {}
    for content in contents:
        before = at.get(content.source)
        if before is not None and _unchanged(before, content):
            before |= content.about
            done[content.source] = before
            primary.setdefault(content.sha256, before)
    todo: list[Content] = []
    first: dict[str, Content] = {}
    twice: list[tuple[Content, Row | Content]] = []
    for content in contents:
        if content.source in done:
            continue
        same = primary.get(content.sha256) if content.sha256 else None
        if same is not None and not _still_there(same, here):
            same |= {"source": content.source, **content.about}
            done[content.source] = same
        elif same is not None:
            twice.append((content, same))
        elif content.sha256 in first:
            twice.append((content, first[content.sha256]))
        else:
            todo.append(content)
            if content.sha256:
                first[content.sha256] = content
    staying = {id(row) for row in done.values()}
    store.replaced = {source: row for source, row in store.replaced.items() if id(row) not in staying}
    for content in contents:
        before = at.get(content.source)
        if before is not None and id(before) not in staying:
            store.replace(content.source, before)
    return _rows_and_jobs(store, todo, twice, settings, names or {})


def _rows_and_jobs(
    store: Store,
    todo: list[Content],
    twice: list[tuple[Content, Row | Content]],
    settings: Row,
    given: Mapping[Path, str],
) -> list[Job]:
    gone = {id(row) for row in store.replaced.values()}
    names = Names(name for row in store.rows if id(row) not in gone for name in (row["name"], *row["clips"]))
    jobs, rows = [], []
    for content in todo:
        before = store.replaced.get(content.source)
        name = before["name"] if before is not None and names.is_free(before["name"]) else ""
        name = name or names.free(content.file, content.sha256, given.get(content.file, ""))
        names.take(name)
        if content.problem:
            rows.append(dropped_row(content, name, content.problem, settings))
        else:
            jobs.append(Job(content, name))
    for content, other in twice:
        name = names.free(content.file, name=given.get(content.file, ""))
        names.take(name)
        path = other.file if isinstance(other, Content) else Path(other["source"])
        reason = f"same content as {shown(path.name)}"
        rows.append(dropped_row(content, name, reason, settings, **{SAME: shown(path)}))
    store.update(rows)
    return jobs


def _again(row: Row) -> bool:
    """Whether a file is tried again though its content is the same."""
    return row["status"] == "dropped" and (not row.get("sha256") or str(row["reason"]).startswith(FAILED))


def _unchanged(row: Row, content: Content) -> bool:
    if not content.sha256 or SAME in row or _again(row):
        return False
    return row.get("sha256", content.sha256) == content.sha256


def _still_there(row: Row, here: dict[str, Content]) -> bool:
    """Whether the file of a row still has the row's content."""
    if row["source"] in here:
        return here[row["source"]].sha256 == row["sha256"]
    return read_content(Path(row["source"]), {row["source"]: row}).sha256 == row["sha256"]
