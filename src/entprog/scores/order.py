"""Orders without measurement: controls for every other score, and orders from a file."""

import importlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from entprog.core.blocks import Blocks
from entprog.core.types import Draw, Predictor, Score, Scores

__all__ = ["Order"]


@dataclass(frozen=True)
class Order:
    """A given order of the blocks; values are L, L - 1, ..., 1.

    Attributes:
        order: "first" or "last" blocks first (in declared order), "random" by `seed`, "reverse" of the score
            `of`, or from the "file" `path`.
        seed: of the random order.
        path: of the file: a scores.json of a run, or one block name a line, most important first.
        of: the score, with its default options, whose order "reverse" reverses.
    """

    order: Literal["random", "first", "last", "reverse", "file"] = "random"
    seed: int = 0
    path: str | None = None
    of: str = "cei"

    def __post_init__(self) -> None:
        if (self.order == "file") != (self.path is not None):
            raise ValueError(f'order = {self.order!r}, path = {self.path!r}: order = "file" and a path go together')
        if self.of == "order":
            raise ValueError('of = "order": choose a score that measures, such as "cei"')

    def score(self, task: Predictor, blocks: Blocks, draws: Sequence[Draw]) -> Scores:
        """Descending integers in the chosen order; `draws` are used by "reverse" only.

        Raises:
            ValueError: the file can't be read, or doesn't name exactly the blocks.
        """
        names = list(blocks.names)
        samples = 0
        notes: tuple[str, ...] = ()
        if self.order == "random":
            random.Random(self.seed).shuffle(names)
        elif self.order == "last":
            names.reverse()
        elif self.order == "file":
            names = _read(Path(str(self.path)), names)
        elif self.order == "reverse":
            scores = _sibling(self.of).score(task, blocks, draws)
            names = list(reversed(scores.ranking().names))
            samples, notes = scores.samples, scores.notes
        places = {name: float(len(names) - i) for i, name in enumerate(names)}
        return Scores({name: places[name] for name in blocks.names}, samples=samples, notes=notes)


def _sibling(name: str) -> Score:
    path = f"{__package__}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise ValueError(f"of = {name!r}: there is no such score") from error
    (public,) = module.__all__
    score: Score = getattr(module, public)()
    return score


def _read(path: Path, known: Sequence[str]) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"path = {str(path)!r}: {error.strerror}") from error
    if path.suffix == ".json":
        try:
            names = json.loads(text)["order"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f'path = {str(path)!r}: no JSON object with "order", a list of names') from error
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    missing, unknown = sorted(set(known) - set(names)), sorted(set(names) - set(known))
    if missing or unknown or len(names) != len(known):
        raise ValueError(
            f"path = {str(path)!r}: must name each of the {len(known)} blocks once; missing {missing[:5]}, "
            f"unknown {unknown[:5]}"
        )
    return list(names)
