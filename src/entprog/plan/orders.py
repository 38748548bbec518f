"""The order in which blocks unfreeze, before any ranking is known: bounds, or a file."""

import json
from collections.abc import Sequence
from pathlib import Path

from entprog.core.types import Ranking


def suffix(names: Sequence[str]) -> Ranking:
    """The last block first: the backward pass ends as early as it can. The best case for time and memory."""
    return Ranking(tuple(reversed(names)))


def spread(names: Sequence[str]) -> Ranking:
    """The first block first, then always the one furthest from those before: the worst case."""
    left = list(range(1, len(names)))
    chosen = [0]
    while left:
        furthest = max(left, key=lambda i: (min(abs(i - j) for j in chosen), i))
        left.remove(furthest)
        chosen.append(furthest)
    return Ranking(tuple(names[i] for i in chosen))


def read_order(path: Path) -> list[str]:
    """Block names, most important first: a scores.json of `entprog train`, a JSON list, or one name a line.

    Raises:
        ValueError: it holds no names.
        OSError: it can't be read.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ValueError(f"--order {str(path)!r}: no JSON ({error})") from None
        names = found.get("order") if isinstance(found, dict) else found
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"--order {str(path)!r}: no block names; give a run's scores.json, a JSON list or one name a line"
        )
    return names


def rankings(order: str, names: Sequence[str], phase: str) -> dict[str, Ranking]:
    """The rankings to plan for, by what they are called.

    `order` is "" for both bounds, "suffix", "spread", or a file, whose names of other phases are left out.

    Raises:
        ValueError: the file lacks blocks of the phase.
    """
    bounds = {"suffix": suffix, "spread": spread}
    if not order:
        return {name: make(names) for name, make in bounds.items()}
    if order in bounds:
        return {order: bounds[order](names)}
    path = Path(order)
    if not path.is_file():
        raise ValueError(f'--order {order!r}: no such file; give one, or "suffix" or "spread"')
    given = [name for name in dict.fromkeys(read_order(path)) if name in set(names)]
    if missing := [name for name in names if name not in given]:
        raise ValueError(
            f"--order {order!r}: lacks {len(missing)} of the {len(names)} blocks of phase {phase}, such as "
            f"{missing[0]}; name every block"
        )
    return {path.name: Ranking(tuple(given))}
