"""What became of the pieces of a file, for its row in prepare.jsonl."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from entprog.prepare.person import Piece
from entprog.prepare.quality import Reason
from entprog.prepare.video import VideoError

Row = dict[str, Any]
P = TypeVar("P")


@dataclass(frozen=True)
class Outcome(Generic[P]):
    """Frames [start, end) of a file that become a clip, or are left out.

    Attributes:
        after: why they begin where they do: "" at the file's beginning, else "cut", "pause", "lost", "jump", "colours".
        reason: why they are left out; None for a clip.
        part: what is needed to make the clip.
        subject: see `Piece`.
    """

    start: int
    end: int
    after: str = ""
    reason: Reason | None = None
    part: P | None = None
    subject: int = 0


class EndedEarlyError(ValueError):
    """The second reading of a file gave fewer frames than the first."""


def unreadable(row: Row, error: VideoError | EndedEarlyError) -> Row:
    """The row of a file that could not be read a second time."""
    return row | {"reason": f"unreadable: {error.reason if isinstance(error, VideoError) else error}"}


def left_out(piece: Piece, reason: Reason) -> Outcome[Any]:
    """The outcome of a piece that gives no clip."""
    return Outcome(piece.start, piece.end, piece.after, reason)


def parts_of(outcomes: Sequence[Outcome[P]], name: str) -> dict[str, P]:
    """What becomes a clip, by the clip's name: NAME for one, NAME-1, NAME-2 ... for several."""
    parts = [outcome.part for outcome in outcomes if outcome.part is not None]
    return {name if len(parts) == 1 else f"{name}-{i}": part for i, part in enumerate(parts, 1)}


def subject_of(row: Row, clip: str) -> str:
    """Whom a clip of a file's row shows; clips of one subject probably show one person."""
    name: str = row["name"]
    return next((piece.get("subject", name) for piece in row.get("pieces", ()) if piece["clip"] == clip), name)


def _subject(name: str, number: int) -> str:
    return f"{name}#{number + 1}" if number else name


def finished(row: Row, outcomes: Sequence[Outcome[P]], clips: Iterable[str], remarks: Sequence[str]) -> Row:
    """The row of a file with its clips and pieces, and as its reason why parts of it were left out.

    `remarks` are added to the reason of a file that is kept.
    """
    names, pieces = iter(list(clips)), list[Row]()
    for outcome in outcomes:
        clip = None if outcome.part is None else next(names)
        reason = None if outcome.reason is None else str(outcome.reason)
        piece = {"clip": clip, "start": outcome.start, "end": outcome.end, "reason": reason, "after": outcome.after}
        pieces.append(piece if clip is None else piece | {"subject": _subject(row["name"], outcome.subject)})
    kept = [piece["clip"] for piece in pieces if piece["clip"] is not None]
    told = [outcome.reason.kind for outcome in outcomes if outcome.reason is not None and outcome.reason.told]
    if not kept and not told:
        told = [outcome.reason.kind for outcome in outcomes if outcome.reason is not None]
    reason = "; ".join(dict.fromkeys([*told, *(remarks if kept else [])])) or None
    return row | {"clips": kept, "status": "kept" if kept else "dropped", "reason": reason, "pieces": pieces}
