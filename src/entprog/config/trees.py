"""Trees of plain values, as TOML has them: tables in tables."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["laid_over", "leaves", "value_at", "without"]


def laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees in one; where both have a value, that of `over`."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = laid_over(merged[key], value) if both else value
    return merged


def value_at(tree: Any, dotted: str) -> Any:
    """The value of a dotted key; None where there is none."""
    for part in dotted.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def without(tree: Any, dotted: str) -> Any:
    """The tree without a dotted key."""
    first, _, rest = dotted.partition(".")
    if not isinstance(tree, dict) or first not in tree:
        return tree
    kept = {key: value for key, value in tree.items() if key != first}
    return {**kept, first: without(tree[first], rest)} if rest else kept


def leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no table, or an empty one, with its dotted key."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
