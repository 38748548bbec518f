"""Trees of plain values, as TOML has them: tables in tables. Keys are dotted, or given in parts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees in one; where both have a value, that of `over`."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = laid_over(merged[key], value) if both else value
    return merged


def holds(table: str, key: str) -> bool:
    """Whether a dotted key is this one, or is in the table of this dotted name."""
    return f"{key}.".startswith(f"{table}.")


def at(key: str | Sequence[str], value: Any) -> dict[str, Any]:
    """A tree with one value."""
    for part in reversed(parts(key)):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def parts(key: str | Sequence[str]) -> Sequence[str]:
    return key.split(".") if isinstance(key, str) else key


def value_at(tree: Any, key: str | Sequence[str]) -> Any:
    """The value of a key, dotted or in parts; None where there is none."""
    for part in parts(key):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def without(tree: Any, key: str | Sequence[str]) -> Any:
    """The tree without a key."""
    first, *rest = parts(key)
    if not isinstance(tree, dict) or first not in tree:
        return tree
    kept = {name: value for name, value in tree.items() if name != first}
    return {**kept, first: without(tree[first], rest)} if rest else kept


def leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no table, or an empty one, with its dotted key."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def blocked(tree: dict[str, Any], path: list[str]) -> str | None:
    """The key on the way to `path` that holds a value instead of a table."""
    for depth, part in enumerate(path[:-1], 1):
        tree = tree.get(part, {})
        if not isinstance(tree, dict):
            return ".".join(path[:depth])
    return None
